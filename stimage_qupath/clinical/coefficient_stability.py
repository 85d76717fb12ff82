"""Whether the folds agree on which genes matter, and on their sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Float = NDArray[np.float64]

LEADING: Final = 20
"""A gene leads a fold with one of its largest coefficients; a ridge selects every gene, so that selection alone says
nothing there."""


@dataclass(frozen=True, slots=True)
class Stability:
    """Coefficients over folds.

    Attributes
    ----------
    names
        Columns.
    whole
        (column,) coefficients of the model of all patients.
    mean, sd
        (column,) over folds.
    selected
        (column,) share of folds in which the coefficient is not 0.
    same_sign
        (column,) share of folds in which the coefficient has the sign of ``whole`` (of ``mean`` where that is 0).
    leading
        (column,) share of folds in which it is among the :data:`LEADING` largest by magnitude.
    rank
        (column,) median rank by magnitude over folds, 1 the largest.
    """

    names: tuple[str, ...]
    whole: Float
    mean: Float
    sd: Float
    selected: Float
    same_sign: Float
    leading: Float
    rank: Float

    @classmethod
    def of(cls, names: Sequence[str], whole: Float, folds: Sequence[Float]) -> Stability:
        """Compare the coefficients of each fold, (column,) each."""
        each = np.stack(folds)
        mean = each.mean(axis=0)
        sign = np.sign(np.where(whole == 0, mean, whole))
        ranks = stats.rankdata(-np.abs(each), axis=1, method="min")
        return cls(
            names=tuple(names),
            whole=whole,
            mean=mean,
            sd=each.std(axis=0, ddof=1) if len(each) > 1 else np.zeros_like(mean),
            selected=(each != 0).mean(axis=0),
            same_sign=((np.sign(each) == sign) & (each != 0)).mean(axis=0),
            leading=((ranks <= LEADING) & (each != 0)).mean(axis=0),
            rank=np.median(ranks, axis=0),
        )

    @property
    def order(self) -> NDArray[np.intp]:
        """Columns by magnitude of their mean coefficient, the largest first, (column,)."""
        return np.argsort(-np.abs(self.mean), kind="stable")
