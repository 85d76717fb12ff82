"""How well predicted and known responses agree, with resamples of patients as weights.

Every figure is a function of how often each patient is drawn, (resample, patient), so that a bootstrap of a thousand
resamples is a few products. Patients who are drawn several times stand several times in the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.response import Kind

Float = NDArray[np.float64]
Index = NDArray[np.intp]
Metric = Callable[[Float, Float, Float], Float]

LEAST_KNOWN: Final = 0.5
"""Share of resamples in which a figure must be defined to have an interval."""
CONSTANT: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and its 95 % percentile interval.

    Attributes
    ----------
    value
        On the patients as they are.
    ci
        2.5th and 97.5th percentile over resamples; None where too few of them define the figure.
    replicates
        (resample,) for paired differences; resamples are equal for equal seeds.
    """

    value: float
    ci: tuple[float, float] | None
    replicates: Float = field(repr=False, compare=False)

    @classmethod
    def of(cls, figures: Float) -> Figure:
        """Return the figure whose first value is that of the patients as they are, (1 + resample,)."""
        known = figures[1:][np.isfinite(figures[1:])]
        if len(known) <= LEAST_KNOWN * len(figures[1:]):
            return cls(float(figures[0]), None, figures[1:])
        low, high = np.percentile(known, [2.5, 97.5])
        return cls(float(figures[0]), (float(low), float(high)), figures[1:])

    def minus(self, other: Figure) -> Figure:
        """Return the paired difference to a figure from the same resamples."""
        return Figure.of(np.concatenate([[self.value - other.value], self.replicates - other.replicates]))

    def to_dict(self) -> dict[str, float | list[float] | None]:
        """Return value and interval as JSON has them."""
        return {"value": self.value, "ci": None if self.ci is None else list(self.ci)}


def spearman(y: Float, predicted: Float, weights: Float) -> Float:
    """Return Spearman's rank correlation, (resample,); 0 for a constant prediction, NaN for a constant response."""
    a, b = _ranks(y, weights), _ranks(predicted, weights)
    total = weights.sum(axis=1, keepdims=True)
    a, b = (r - (weights * r).sum(axis=1, keepdims=True) / total for r in (a, b))
    scale = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    r = np.divide((weights * a * b).sum(axis=1), scale, out=np.zeros(len(weights)), where=scale > CONSTANT)
    return np.where((weights * a * a).sum(axis=1) > CONSTANT, r, np.nan)


def auroc(y: Float, predicted: Float, weights: Float) -> Float:
    """Return the share of pairs of a responder and another in order, ties one half, (resample,)."""
    positive, negative = _by_value(y, predicted, weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(y: Float, predicted: Float, weights: Float) -> Float:
    """Return the area under precision and recall as steps, (resample,): each threshold's precision times its recall."""
    positive, negative = _by_value(y, predicted, weights)
    found = np.cumsum(positive[:, ::-1], axis=1)
    called = found + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    return _ratio((precision * positive[:, ::-1]).sum(axis=1), positive.sum(axis=1))


def explained(y: Float, predicted: Float, weights: Float) -> Float:
    """Return one less the squared error over that of the mean response, (resample,): R2, or Brier's skill score."""
    mean = (weights @ y / weights.sum(axis=1))[:, None]
    spread = (weights * (y - mean) ** 2).sum(axis=1)
    return 1 - _ratio(weights @ (y - predicted) ** 2, spread)


def loss(kind: Kind, y: Float, predictor: Float) -> Float:
    """Return what models are fitted by: squared error, or negative log-likelihood of logits, (patient, fit).

    Parameters
    ----------
    kind
        Of the response.
    y
        (patient,).
    predictor
        (patient, fit) predicted values, or logits.
    """
    if kind == "continuous":
        return np.asarray((predictor - y[:, None]) ** 2)
    return np.asarray(np.logaddexp(0, predictor) - y[:, None] * predictor)


PRIMARY: Final[Mapping[Kind, str]] = {"binary": "auroc", "continuous": "spearman"}
METRICS: Final[Mapping[Kind, Mapping[str, Metric]]] = {
    "binary": {"auroc": auroc, "auprc": average_precision},
    "continuous": {"spearman": spearman},
}
CHANCE: Final[Mapping[Kind, float]] = {"binary": 0.5, "continuous": 0.0}


def within_folds(metric: Metric, y: Float, predicted: Float, fold: Index, weights: Float) -> Float:
    """Return a metric within each test fold, averaged by the folds' patients, (resample,).

    Predictions of different folds come from different models, and a held-out fold of high responses has a training set
    of low ones, so that ranks across folds are pulled below chance; within a fold they are comparable.

    Parameters
    ----------
    metric
        Of this module.
    y, predicted
        (patient,).
    fold
        (patient,) number of the test fold.
    weights
        (resample, patient).
    """
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(fold):
        rows = fold == number
        of = weights[:, rows]
        known = of.sum(axis=1) > 0
        value = np.full(len(weights), np.nan)
        value[known] = metric(y[rows], predicted[rows], of[known])
        defined = np.isfinite(value)
        total += np.where(defined, value * rows.sum(), 0)
        count += defined * rows.sum()
    return _ratio(total, count)


def resample_patients(groups: Index, fold: Index, *, replicates: int, seed: int) -> Float:
    """Return how often each patient is drawn, (1 + resample, patient); the first row is the patients as they are.

    Groups are drawn with replacement within each test fold, so that every fold stays as large as it is.

    Parameters
    ----------
    groups
        (patient,) number of the group that is drawn as a whole.
    fold
        (patient,) number of the test fold; all of a group are in one.
    replicates, seed
        Number of resamples and their seed.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + replicates, len(groups)))
    for number in np.unique(fold):
        rows = np.flatnonzero(fold == number)
        member, place = np.unique(groups[rows], return_inverse=True)
        drawn = rng.multinomial(len(member), np.full(len(member), 1 / len(member)), size=replicates)
        weights[1:, rows] = drawn[:, place]
    return weights


def _ranks(values: Float, weights: Float) -> Float:
    """Return mean ranks of each patient in each resample, (resample, patient), ties shared."""
    different, place = np.unique(values, return_inverse=True)
    mass = np.zeros((len(weights), len(different)))
    np.add.at(mass.T, place, weights.T)
    return np.asarray((np.cumsum(mass, axis=1) - mass / 2)[:, place])


def _by_value(y: Float, predicted: Float, weights: Float) -> tuple[Float, Float]:
    """Return the weight of responders and of others at each different prediction, ascending, (resample, value)."""
    different, place = np.unique(predicted, return_inverse=True)
    found = []
    for members in (y == 1, y == 0):
        mass = np.zeros((len(weights), len(different)))
        np.add.at(mass.T, place[members], weights.T[members])
        found.append(mass)
    return found[0], found[1]


def _ratio(above: Float, below: Float) -> Float:
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0))
