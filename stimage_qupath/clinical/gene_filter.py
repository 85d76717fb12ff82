"""Which features go into a Cox model: the score test of each alone, for many subsets of patients in a few products.

The score of feature ``x`` beside the covariates is ``U = sum_i x_i r_i`` with ``r`` the martingale residuals of the
model of covariates alone (Therneau, Grambsch and Fleming 1990, Biometrika 77); features rank by ``|U| / sd(x)``. A
subset of patients enters as residuals that are 0 elsewhere, so that all subsets of a nested cross-validation are one
matrix product, and so is every permutation of the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Index = NDArray[np.intp]

CONSTANT: Final = 1e-7
"""Share of a feature's SD over all patients under which its SD in a subset is rounding error."""
LEAST_PRESENT: Final = 0.5
"""Share of a subset's patients that must have a value for a feature to count there."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Features of all patients, ready for sums over subsets.

    Attributes
    ----------
    values
        (patient, feature) in units of ``centre`` and ``scale``, which change nothing but rounding; 0 where missing.
    squares
        Their squares.
    present
        (patient, feature) 1 where there is a value, 0 where not; None where all are there.
    centre, scale
        (feature,) mean and SD over all patients; scale is 1 for a constant feature.
    """

    values: Float
    squares: Float
    present: Float | None
    centre: Float
    scale: Float

    @classmethod
    def of(cls, values: Float) -> Self:
        """Prepare (patient, feature) values; NaN is missing."""
        there = ~np.isnan(values)
        count = np.maximum(there.sum(axis=0), 1)
        centre = np.where(there, values, 0.0).sum(axis=0) / count
        centred = np.where(there, values - centre, 0.0)
        scale = np.sqrt((centred**2).sum(axis=0) / count)
        varies = scale > CONSTANT * np.maximum(np.abs(centre), 1e-12)
        scale = np.where(varies, scale, 1.0)
        scaled = np.where(varies, centred, 0.0) / scale
        return cls(scaled, scaled**2, None if there.all() else there.astype(np.float64), centre, scale)

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self.values)

    def take(self, rows: Index) -> FeatureTable:
        """Return the patients at ``rows``, in that order and in the same units."""
        present = None if self.present is None else self.present[rows]
        return FeatureTable(self.values[rows], self.squares[rows], present, self.centre, self.scale)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which features never vary, (feature,)."""
        return np.asarray(~self.squares.any(axis=0))

    def moments(self, members: Float) -> tuple[Float, Float]:
        """Return mean and SD of each feature in subsets, (subset, feature) each.

        Parameters
        ----------
        members
            (subset, patient) 1 for members.

        Returns
        -------
        tuple
            In the units of ``values``; the SD is 0 for a feature that is constant or mostly missing in the subset.
        """
        size = members.sum(axis=1, keepdims=True)
        count = size if self.present is None else np.maximum(members @ self.present, 1.0)
        mean = members @ self.values / count
        variance = members @ self.squares / count - mean**2
        sd = np.sqrt(np.maximum(variance, 0.0))
        return mean, np.where((sd > CONSTANT) & (count >= LEAST_PRESENT * size), sd, 0.0)

    def scores(self, residuals: Float, mean: Float, sd: Float) -> Float:
        """Return ``|U| / sd(x)``, (subset, feature); 0 for a feature without spread.

        Parameters
        ----------
        residuals
            (subset, patient) martingale residuals, 0 outside the subset.
        mean, sd
            Of :meth:`moments`.
        """
        score = residuals @ self.values
        if self.present is not None:
            score -= mean * (residuals @ self.present)
        return np.divide(np.abs(score), sd, out=np.zeros_like(score), where=sd > 0)

    def columns(self, rows: Index, features: Index, mean: Float, sd: Float) -> Float:
        """Return standardised features, (row, feature); a missing value is the mean.

        Parameters
        ----------
        rows, features
            Which.
        mean, sd
            (every feature,) of one subset, see :meth:`moments`.
        """
        found = (self.values[np.ix_(rows, features)] - mean[features]) / sd[features]
        return found if self.present is None else found * self.present[np.ix_(rows, features)]


def strongest(scores: Float, number: int) -> Index:
    """Return the features with the highest scores above 0, best first, at most ``number``; the earlier of equals."""
    number = min(number, len(scores))
    if number < len(scores):
        least = np.partition(scores, len(scores) - number)[len(scores) - number]
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    ranked = candidates[np.argsort(-scores[candidates], kind="stable")][:number]
    return ranked[scores[ranked] > 0]
