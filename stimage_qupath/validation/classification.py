"""How well types are told apart: F1 of each class, confusion, kappa, and whether probabilities are what they say.

Nuclei of one image are alike, so that intervals come from drawing whole images (patches) with replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.validation.agreement import cohen_kappa, confusion
from stimage_qupath.validation.bootstrap import Interval

Float = NDArray[np.float64]
Codes = NDArray[np.intp]

BINS: Final = 15
"""Of equal width, as in Guo et al. 2017 (arXiv 1706.04599)."""
LEAST_FOR_ECE: Final = 200
"""Nuclei of a class under which fifteen bins hold noise."""
REPLICATES: Final = 1000
LEAST_UNITS: Final = 2


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence against accuracy, bin by bin; empty bins are NaN.

    Attributes
    ----------
    confidence, accuracy
        (bin,) mean probability, and share that was so.
    count
        (bin,) number of nuclei.
    """

    confidence: Float
    accuracy: Float
    count: NDArray[np.int64]

    @classmethod
    def of(cls, probability: Float, correct: NDArray[np.bool_], *, bins: int = BINS) -> Reliability:
        """Sort probabilities into bins of equal width.

        Parameters
        ----------
        probability
            (nucleus,) that something is so.
        correct
            (nucleus,) whether it was.
        bins
            Number of bins between 0 and 1.
        """
        index = np.clip((probability * bins).astype(np.intp), 0, bins - 1)
        count = np.bincount(index, minlength=bins)
        sums = (np.bincount(index, weights=values, minlength=bins) for values in (probability, correct))
        confidence, accuracy = (np.divide(s, count, out=np.full(bins, np.nan), where=count > 0) for s in sums)
        return cls(confidence, accuracy, count)

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over nuclei of the distance of the two in their bin; NaN without nuclei."""
        filled = self.count > 0
        if not filled.any():
            return float("nan")
        gap = np.abs(self.confidence - self.accuracy)[filled]
        return float((gap * self.count[filled]).sum() / self.count.sum())

    def to_dict(self) -> dict[str, list[float | None]]:
        """Return the bins as JSON has them."""
        columns = {"confidence": self.confidence, "accuracy": self.accuracy}
        found = {name: [None if np.isnan(v) else float(v) for v in values] for name, values in columns.items()}
        return {**found, "count": [int(n) for n in self.count]}


def f1_of(table: NDArray[np.number[Any]]) -> Float:
    """Return F1 of each class, ``2 TP / (2 TP + FP + FN)``; NaN for one that neither side has.

    Parameters
    ----------
    table
        (..., class by truth, class by prediction) counts.
    """
    hits = np.diagonal(table, axis1=-2, axis2=-1).astype(np.float64)
    both = table.sum(axis=-1) + table.sum(axis=-2)
    return np.asarray(np.divide(2 * hits, both, out=np.full(hits.shape, np.nan), where=both > 0))


def confusion_by_unit(truth: Codes, found: Codes, unit: Codes, classes: int) -> NDArray[np.int64]:
    """Return one confusion table for each unit, (unit, class by truth, class by prediction)."""
    _, code = np.unique(unit, return_inverse=True)
    n = int(code.max(initial=-1)) + 1
    flat = np.bincount((code * classes + truth) * classes + found, minlength=n * classes * classes)
    return flat.reshape(n, classes, classes)


def resampled_f1(tables: NDArray[np.int64], *, seed: int, replicates: int = REPLICATES) -> Float:
    """Return F1 of each class on all units and in resamples of whole units, (1 + replicate, class).

    Parameters
    ----------
    tables
        (unit, class, class), of :func:`confusion_by_unit`.
    seed, replicates
        Of the resamples.
    """
    n = len(tables)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=replicates)
    times = np.concatenate([np.ones((1, n), dtype=np.int64), drawn])
    return f1_of(np.tensordot(times, tables, axes=1))


def classification_figures(
    probability: Float, truth: Codes, classes: Sequence[str], unit: Codes, *, seed: int = 0
) -> dict[str, Any]:
    """Return all that is said of a classifier on labelled nuclei.

    Parameters
    ----------
    probability
        (nucleus, class).
    truth
        (nucleus,) codes of ``classes``.
    classes
        Names of the columns.
    unit
        (nucleus,) the image or patch of each; resampled whole.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        ``nuclei``, ``units``, ``accuracy``, ``f1`` (each class with its interval, and their mean ``macro``),
        ``kappa``, ``confusion`` (rows: truth), ``ece`` of the class that was chosen, with its ``reliability``, and
        ``ece_by_class`` for classes with at least :data:`LEAST_FOR_ECE` nuclei. Intervals are None for one unit.
    """
    found = probability.argmax(axis=1)
    tables = confusion_by_unit(truth, found, unit, len(classes))
    table = confusion(truth, found, len(classes))
    f1 = resampled_f1(tables, seed=seed)
    top = Reliability.of(probability.max(axis=1), found == truth)
    support = np.bincount(truth, minlength=len(classes))
    enough = [i for i in range(len(classes)) if support[i] >= LEAST_FOR_ECE]
    of_class = {classes[i]: Reliability.of(probability[:, i], truth == i) for i in enough}
    return {
        "nuclei": len(truth),
        "units": len(tables),
        "accuracy": float((found == truth).mean()) if len(truth) else None,
        "f1": {
            **{name: _figure(f1[:, i], len(tables)) | {"nuclei": int(support[i])} for i, name in enumerate(classes)},
            "macro": _figure(_mean(f1), len(tables)),
        },
        "kappa": cohen_kappa(table),
        "classes": list(classes),
        "confusion": table.tolist(),
        "ece": top.ece if len(truth) >= LEAST_FOR_ECE else None,
        "reliability": top.to_dict(),
        "ece_by_class": {name: one.ece for name, one in of_class.items()},
    }


def _mean(f1: Float) -> Float:
    """Return the mean over the classes that are there, NaN for none."""
    there = np.isfinite(f1)
    total = np.where(there, f1, 0).sum(axis=1)
    return np.asarray(np.divide(total, there.sum(axis=1), out=np.full(len(f1), np.nan), where=there.any(axis=1)))


def _figure(values: Float, units: int) -> dict[str, Any]:
    """Return a figure and its interval over those resamples in which it exists."""
    if not np.isfinite(values[0]):
        return {"value": None, "ci": None}
    resampled = values[1:][np.isfinite(values[1:])]
    if units < LEAST_UNITS or not len(resampled):
        return {"value": float(values[0]), "ci": None}
    return Interval.of(np.concatenate([values[:1], resampled])).to_dict()
