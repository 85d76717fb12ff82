"""How well a risk orders patients: Harrell's and Uno's C, AUC at a horizon, each with a bootstrap over patients.

Every figure is a ratio of sums over pairs of patients of one fold (and one stratum): ``sum P_ij k_ij / sum P_ij`` with
``P_ij`` the weight of the pair in which ``i`` has the event first, and ``k_ij`` 1 where ``i`` has the higher risk, 1/2
for equal ones. A resample of patients with multiplicities ``v`` weighs pairs by ``v_i v_j``, so that a bootstrap is a
matrix product. Figures of folds are averaged: a risk is never compared with one of another fold's model.

Harrell 1982 (JAMA 247); Uno et al. 2011 (Stat. Med. 30); Uno et al. 2007 (J. Am. Stat. Assoc. 102).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.kaplan_meier import SurvivalCurve
from stimage_qupath.clinical.outcome import Outcome

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

LEAST_CENSORING = 1e-3
"""Least probability of being uncensored that a patient is weighted by."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and its 95 % interval over resampled patients.

    Attributes
    ----------
    value
        On all patients; NaN where no pair can be compared.
    replicates
        (replicate,) in each resample; equal seeds draw equal patients, so that differences are paired.
    """

    value: float
    replicates: Float = field(repr=False, compare=False)

    @property
    def ci(self) -> tuple[float, float] | None:
        """2.5th and 97.5th percentile, or None where the figure or its resamples are missing."""
        found = self.replicates[np.isfinite(self.replicates)]
        if not np.isfinite(self.value) or len(found) < 20:
            return None
        low, high = np.percentile(found, [2.5, 97.5])
        return float(low), float(high)

    def minus(self, other: Figure) -> Figure:
        """Return the paired difference."""
        return Figure(self.value - other.value, self.replicates - other.replicates)

    def to_dict(self) -> dict[str, Any]:
        """Return value and interval as JSON has them."""
        return {"value": self.value if np.isfinite(self.value) else None, "ci": None if self.ci is None else [*self.ci]}


@dataclass(frozen=True, slots=True)
class PatientResamples:
    """How often each patient of each fold is drawn: as they are, then resamples within the fold.

    Attributes
    ----------
    rows
        Rows of each fold.
    times
        (1 + replicate, row of the fold) of each fold.
    """

    rows: tuple[Index, ...]
    times: tuple[Float, ...]

    @classmethod
    def draw(cls, folds: Sequence[Index], *, replicates: int, seed: int) -> Self:
        """Draw patients with replacement within each fold."""
        rng = np.random.default_rng(seed)
        times = []
        for rows in folds:
            n = len(rows)
            times.append(np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=replicates)]))
        return cls(tuple(folds), tuple(times))

    def figure(self, weights: Sequence[Float], risk: Float) -> Figure:
        """Return the mean over folds of the weighted share of pairs in order.

        Parameters
        ----------
        weights
            ``P`` of each fold, (row, row).
        risk
            (patient,) higher: the event is expected sooner.
        """
        by_fold = [
            _share(pairs * in_order(risk[rows]), pairs, times)
            for rows, times, pairs in zip(self.rows, self.times, weights, strict=True)
        ]
        return Figure(*_split(_mean(np.array(by_fold))))


def in_order(risk: Float) -> Float:
    """Return ``k_ij``, (patient, patient)."""
    return np.asarray((risk[:, None] > risk) + 0.5 * (risk[:, None] == risk))


def harrell_weights(outcome: Outcome) -> Float:
    """Return 1 for pairs in which the first has the event while the second is still followed, (patient, patient)."""
    time, event = outcome.time, outcome.event
    first = (time[:, None] < time) | ((time[:, None] == time) & ~event)
    return np.asarray(first & event[:, None] & (outcome.strata[:, None] == outcome.strata), dtype=np.float64)


def uno_weights(outcome: Outcome, censoring: SurvivalCurve, tau: float) -> Float:
    """Return Harrell's pairs up to ``tau``, each over the squared probability of being uncensored until then."""
    uncensored = np.maximum(censoring.at(outcome.time, before=True), LEAST_CENSORING)
    return np.asarray(harrell_weights(outcome) * np.where(outcome.time < tau, uncensored**-2, 0.0)[:, None])


def auc_weights(outcome: Outcome, censoring: SurvivalCurve, horizon: float) -> Float:
    """Return weights of pairs of one with the event until ``horizon`` and one without an event until then."""
    uncensored = np.maximum(censoring.at(outcome.time, before=True), LEAST_CENSORING)
    case = np.where(outcome.event & (outcome.time <= horizon), 1 / uncensored, 0.0)
    control = (outcome.time > horizon).astype(np.float64)
    return np.asarray(case[:, None] * control * (outcome.strata[:, None] == outcome.strata))


def censoring_curve(outcome: Outcome) -> SurvivalCurve:
    """Return the probability of not being censored yet; at a common time, events come first."""
    # A patient with the event at time t leaves just before those censored at t.
    return SurvivalCurve.of(np.where(outcome.event, np.nextafter(outcome.time, -np.inf), outcome.time), ~outcome.event)


def concordance(outcome: Outcome, risk: Float, folds: Sequence[Index]) -> float:
    """Return Harrell's C within folds, averaged; NaN where no pair can be compared."""
    found = []
    for rows in folds:
        pairs = harrell_weights(outcome.take(rows))
        found.append(_share(pairs * in_order(risk[rows]), pairs, np.ones((1, len(rows)))))
    return float(_mean(np.array(found))[0])


def _share(good: Float, pairs: Float, times: Float) -> Float:
    whole = ((times @ pairs) * times).sum(axis=1)
    right = ((times @ good) * times).sum(axis=1)
    return np.asarray(np.divide(right, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _mean(by_fold: Float) -> Float:
    """Return the mean over folds that could be compared, (replicate,)."""
    known = np.isfinite(by_fold)
    total = np.where(known, by_fold, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))


def _split(values: Float) -> tuple[float, Float]:
    return float(values[0]), values[1:]
