"""Kaplan and Meier's estimator and the log-rank test, on arrays.

The same numbers as lifelines gives; here because the permuted nulls need thousands of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

Z95 = float(stats.norm.ppf(0.975))


@dataclass(frozen=True, slots=True)
class SurvivalCurve:
    """Share of patients without the event (Kaplan and Meier 1958, J. Am. Stat. Assoc. 53).

    Attributes
    ----------
    time
        (step,) times of events, increasing.
    share
        (step,) survival from that time on.
    low, high
        (step,) 95 % interval on the scale of ``log(-log S)`` (Kalbfleisch and Prentice).
    """

    time: Float
    share: Float
    low: Float
    high: Float

    @classmethod
    def of(cls, time: Float, event: Bool) -> Self:
        """Estimate the curve from (patient,) times; a patient censored at an event time is at risk then."""
        steps, deaths = np.unique(time[event], return_counts=True)
        at_risk = len(time) - np.searchsorted(np.sort(time), steps, side="left")
        share = np.cumprod(1 - deaths / at_risk, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
            half = Z95 * np.sqrt(variance) / np.abs(np.log(share))
            low, high = share ** np.exp(half), share ** np.exp(-half)
        ended = share <= 0
        return cls(steps, share, np.where(ended, 0.0, low), np.where(ended, 0.0, high))

    def at(self, times: Float | float, *, before: bool = False) -> Float:
        """Return survival at ``times``; ``before``: just before them."""
        place = np.searchsorted(self.time, times, side="left" if before else "right")
        return np.concatenate([[1.0], self.share])[place]

    def band_at(self, time: float) -> tuple[float, float]:
        """Return the 95 % interval at one time."""
        place = int(np.searchsorted(self.time, time, side="right")) - 1
        return (1.0, 1.0) if place < 0 else (float(self.low[place]), float(self.high[place]))


def numbers_at_risk(time: Float, times: Float) -> Index:
    """Return how many of the patients are still followed at ``times``."""
    return len(time) - np.searchsorted(np.sort(time), times, side="left")


def log_rank(time: Float, event: Bool, high: Bool, *, strata: Index | None = None) -> float:
    """Return the log-rank chi-squared of two groups, summed over strata before squaring; 0 where one is empty.

    Mantel 1966 (Cancer Chemother. Rep. 50): observed less expected events of a group, over their hypergeometric
    variance.

    Parameters
    ----------
    time, event, high
        (patient,) time, whether the event was observed, and the group.
    strata
        (patient,) stratum of each.
    """
    stratum = np.zeros(len(time), dtype=np.intp) if strata is None else strata
    excess = variance = 0.0
    for number in np.unique(stratum):
        of = stratum == number
        more, spread = _excess(time[of], event[of], high[of])
        excess, variance = excess + more, variance + spread
    return excess**2 / variance if variance > 0 else 0.0


def log_rank_p(chi2: float) -> float:
    """Return the p of :func:`log_rank` by chi-squared with one degree of freedom, for groups fixed beforehand."""
    return float(stats.chi2.sf(chi2, 1))


def _excess(time: Float, event: Bool, high: Bool) -> tuple[float, float]:
    order = np.argsort(time)
    time, event, high = time[order], event[order], high[order]
    steps = np.unique(time[event])
    first = np.searchsorted(time, steps, side="left")
    n = len(time) - first
    n_high = np.cumsum(high[::-1])[::-1][first]
    place = np.searchsorted(steps, time[event])
    d = np.bincount(place, minlength=len(steps))
    d_high = np.bincount(place, weights=high[event], minlength=len(steps))
    share = n_high / n
    spread = d * share * (1 - share) * (n - d) / np.maximum(n - 1, 1)
    return float((d_high - d * share).sum()), float(spread.sum())
