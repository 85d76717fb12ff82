"""How far predicted shares of types follow those of a deconvolution, which is itself an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.validation.bootstrap import (
    BlockBootstrap,
    Column,
    Float,
    Interval,
    mean_over_genes,
    resampled_pearson,
)


def share_figures(
    predicted: Float, measured: Float, classes: Sequence[str], section: NDArray[np.intp]
) -> dict[str, Any]:
    """Return the correlation of each type's share with the deconvolution's, within each section and on average.

    Parameters
    ----------
    predicted, measured
        (place, class).
    classes
        Names of the columns.
    section
        (place,) which section each lies in; a correlation over several would mostly compare sections.

    Returns
    -------
    dict
        ``agreement``: class to ``pearson``, the mean over sections; ``macro``: their mean over classes.
    """
    each = np.stack([_pearson(predicted[section == s], measured[section == s]) for s in np.unique(section)])
    means = mean_over_genes(each.T)
    agreement = {name: {"pearson": float(value)} for name, value in zip(classes, means, strict=True)}
    return {"sections": len(each), "agreement": agreement, "macro": float(means.mean())}


def resampled_agreement(
    predicted: Float, measured: Float, positions_um: Float, *, seed: int, replicates: int = 1000
) -> tuple[list[Interval], Interval]:
    """Return each type's correlation in one section with its spatial-block interval, and their mean.

    Parameters
    ----------
    predicted, measured
        (spot, class).
    positions_um
        (spot, 2).
    seed, replicates
        Of the resamples; equal seeds give equal resamples, so that differences of two methods are paired.
    """
    bootstrap = BlockBootstrap.draw(positions_um, replicates=replicates, seed=seed)
    r = resampled_pearson(bootstrap, Column.of(bootstrap, measured), Column.of(bootstrap, predicted))
    known = np.nan_to_num(r, nan=0.0)
    return [Interval.of(column) for column in known.T], Interval.of(mean_over_genes(r))


def _pearson(predicted: Float, measured: Float) -> Float:
    """Return the correlation of each column, NaN where the measurement is constant, 0 where the prediction is."""
    a, b = predicted - predicted.mean(axis=0), measured - measured.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    r = np.divide((a * b).sum(axis=0), scale, out=np.zeros(a.shape[1]), where=scale > 0)
    return np.where((b**2).sum(axis=0) > 0, r, np.nan)
