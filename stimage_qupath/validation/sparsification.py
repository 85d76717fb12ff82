"""Whether a model knows where it is wrong: errors that remain when the least certain spots are left out first.

The error of a count is its squared Pearson residual, ``(y - s m)^2 / (l p + (l p)^2 / 10)``: ``s m`` the prediction at
the measured depth, and in the denominator the variance of the null, so that neither depth nor the abundance of the
gene decides. For each gene, spots are left out one by one in some order, and the curve is the mean error of those that
are left. ``AUSE = (A - A_oracle) / (A_random - A_oracle)`` with areas ``A`` under the curves: 0 where the order is that
of the errors themselves (the oracle), 1 where it is random (a flat curve), above 1 where it is worse than random. The
orders look at reference depth only. Counts vary more where they are expected to be larger, so that any model beats a
random order; what uncertainty is worth is its lead over sorting by the predicted mean (after Ilg et al. 2018,
doi 10.1007/978-3-030-01234-2_40).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.spots.residuals import RESIDUAL_THETA
from stimage_qupath.validation.bootstrap import BlockBootstrap, Interval, mean_over_genes
from stimage_qupath.validation.expression import Measured

Float = NDArray[np.float64]

ORACLE = "oracle"
CURVE_POINTS = 21
GENES_AT_ONCE = 64
MOST_REPLICATES = 300
"""Each resample sorts nothing but sums anew over spots and genes; more would cost more than they tell."""


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """Sparsification of one section.

    Attributes
    ----------
    ause
        Order to its normalised area, mean over genes; ``random`` is 1 by definition and has no interval.
    lead
        ``predicted_mean`` minus ``total_sd``, paired: above 0 where the uncertainty tells more than the mean does.
    kept
        (point,) shares of spots that are kept.
    curves
        Order to (point,) the error of the kept spots over that of all, mean over genes.
    """

    ause: Mapping[str, Interval]
    lead: Interval
    kept: Float
    curves: Mapping[str, Float]


def squared_pearson(measured: Measured, predicted_mean: Float, *, rates: Float, reference_total: float) -> Float:
    """Return the error of each count, (spot, gene); 0 where the gene's rate is 0."""
    null = measured.totals[:, None] * rates
    spread = null + null**2 / RESIDUAL_THETA
    error = measured.counts - predicted_mean * (measured.totals / reference_total)[:, None]
    return np.divide(error**2, spread, out=np.zeros_like(error), where=spread > 0)


def risk_coverage(errors: Float, orders: Mapping[str, Float], bootstrap: BlockBootstrap, *, seed: int) -> RiskCoverage:
    """Compare orders in which spots are left out.

    Parameters
    ----------
    errors
        (spot, gene).
    orders
        ``predicted_mean`` and ``total_sd``, and any others, to (spot, gene) values of which the largest leave first.
    bootstrap
        Resamples of the section; the first :data:`MOST_REPLICATES` are used.
    seed
        Of the order of ties.
    """
    weights = bootstrap.weights[: MOST_REPLICATES + 1]
    shuffled = np.random.default_rng(seed).permutation(len(errors))
    ranked = {ORACLE: errors, **orders}
    areas = {name: np.empty((len(weights), errors.shape[1])) for name in ranked}
    curves = {name: np.zeros((CURVE_POINTS, errors.shape[1])) for name in ranked}
    for name, by in ranked.items():
        # Ties in the order of the file would leave one side of the section out first.
        order = shuffled[np.argsort(by[shuffled], axis=0, kind="stable")]
        for start in range(0, errors.shape[1], GENES_AT_ONCE):
            genes = slice(start, start + GENES_AT_ONCE)
            areas[name][:, genes], curves[name][:, genes] = _areas(errors[:, genes], order[:, genes], weights)
    flat = weights @ errors / weights.sum(axis=1, keepdims=True)
    gap = flat - areas[ORACLE]
    able = gap > 1e-12 * np.maximum(flat, 1e-300)
    normalised = {
        name: np.divide(area - areas[ORACLE], gap, out=np.full_like(gap, np.nan), where=able)
        for name, area in areas.items()
    }
    ause = {name: Interval.of(mean_over_genes(normalised[name])) for name in orders}
    scored = np.isfinite(normalised[ORACLE][0])
    shown = {name: (c[:, scored] / flat[0, scored]).mean(axis=1) for name, c in curves.items()}
    return RiskCoverage(
        ause=ause,
        lead=ause["predicted_mean"].minus(ause["total_sd"]),
        kept=np.linspace(1 / CURVE_POINTS, 1, CURVE_POINTS),
        curves=shown,
    )


def _areas(errors: Float, order: NDArray[np.intp], weights: Float) -> tuple[Float, Float]:
    """Return the area under the curve in each resample, (replicate, gene), and the curve of all spots, (point, gene).

    ``order`` lists the spots of each gene from the surest to the least sure; the curve at a share of kept spots is the
    weighted mean error of the first ones that make up this share.
    """
    sorted_errors = np.take_along_axis(errors, order, axis=0)
    w = weights[:, order]  # (replicate, spot, gene)
    mass = np.cumsum(w, axis=1)
    total = mass[:, -1:, :]
    risk = np.cumsum(w * sorted_errors, axis=1) / np.maximum(mass, 1e-12)
    area = (w * risk).sum(axis=1) / total[:, 0]
    n = len(errors)
    at = np.minimum(np.ceil(np.linspace(1 / CURVE_POINTS, 1, CURVE_POINTS) * n).astype(int), n) - 1
    return area, risk[0, at]
