"""Whether a score finds what the model was not trained for, and whether it goes with the actual error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stimage_qupath.spots.residuals import CONSTANT_VARIANCE
from stimage_qupath.validation.bootstrap import BlockBootstrap, Column, Interval, resampled_pearson

Float = NDArray[np.float64]

LIMIT = 1.0
"""OOD score above which a place is flagged: farther out than 99 % of the training tiles."""


def auroc(negatives: Float, positives: Float) -> float:
    """Return the probability that a positive scores higher than a negative, ties one half (Mann-Whitney).

    Parameters
    ----------
    negatives, positives
        Scores; NaN where either is empty.
    """
    if not len(negatives) or not len(positives):
        return float("nan")
    ranks = stats.rankdata(np.concatenate([negatives, positives]))
    above = ranks[len(negatives) :].sum() - len(positives) * (len(positives) + 1) / 2
    return float(above / (len(negatives) * len(positives)))


def detection(negatives: dict[str, Float], positives: dict[str, Float]) -> dict[str, Any]:
    """Return the AUROC of every score, and the share of positives and negatives that would be flagged.

    Parameters
    ----------
    negatives, positives
        Name of a score to its values; both hold the same scores, ``ood_score`` among them.
    """
    found: dict[str, Any] = {f"auroc_{name}": auroc(negatives[name], positives[name]) for name in negatives}
    return found | {
        "tiles": len(positives["ood_score"]),
        "flagged": _flagged(positives["ood_score"]),
        "flagged_unperturbed": _flagged(negatives["ood_score"]),
    }


def _flagged(scores: Float) -> float:
    return float((scores > LIMIT).mean()) if len(scores) else float("nan")


def goes_with_error(score: Float, error: Float, bootstrap: BlockBootstrap) -> Interval:
    """Return the rank correlation of a score of each spot with its error, with a spatial-block interval.

    Parameters
    ----------
    score, error
        (spot,).
    bootstrap
        Resamples of the section.
    """
    ranks = [stats.rankdata(values)[:, None] for values in (error, score)]
    if min(r.var() for r in ranks) <= CONSTANT_VARIANCE:
        return Interval.of(np.zeros(len(bootstrap.times)))
    a, b = (Column.of(bootstrap, r) for r in ranks)
    return Interval.of(np.nan_to_num(resampled_pearson(bootstrap, a, b)[:, 0]))
