"""How far two sets of labels on the same nuclei agree: IoU, Dice, confusion, Cohen's kappa."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
Codes = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two sets of nuclei.

    Attributes
    ----------
    iou
        ``|A and B| / |A or B|``, NaN where both are empty.
    dice
        ``2 |A and B| / (|A| + |B|)``, NaN where both are empty.
    """

    iou: float
    dice: float

    @classmethod
    def of(cls, a: Bool, b: Bool, weights: NDArray[np.float64] | None = None) -> Self:
        """Return the overlap of two masks, (nucleus,); with ``weights``, such as areas, each nucleus counts so much."""
        w = np.ones(len(a)) if weights is None else weights
        return cls.from_sizes(both=float(w[a & b].sum()), a=float(w[a].sum()), b=float(w[b].sum()))

    @classmethod
    def from_sizes(cls, *, both: float, a: float, b: float) -> Self:
        """Return the overlap of two sets of sizes ``a`` and ``b`` that share ``both``."""
        if a + b <= 0:
            return cls(float("nan"), float("nan"))
        return cls(iou=both / (a + b - both), dice=2 * both / (a + b))

    def to_dict(self) -> dict[str, float]:
        """Return both as JSON has them."""
        return {"iou": self.iou, "dice": self.dice}


def confusion(first: Codes, second: Codes, classes: int) -> NDArray[np.int64]:
    """Return how many nuclei have each pair of labels, (class by first, class by second); codes count from 0."""
    return np.bincount(first * classes + second, minlength=classes * classes).reshape(classes, classes)


def cohen_kappa(table: NDArray[np.int64]) -> float:
    """Return agreement beyond chance, ``(po - pe) / (1 - pe)`` (Cohen 1960); NaN without nuclei or with one label.

    Parameters
    ----------
    table
        (class, class), of :func:`confusion`.
    """
    n = table.sum()
    if not n:
        return float("nan")
    seen = np.trace(table) / n
    chance = float((table.sum(axis=0) / n) @ (table.sum(axis=1) / n))
    return float("nan") if chance >= 1 else float((seen - chance) / (1 - chance))


def binary_kappa(a: Bool, b: Bool) -> float:
    """Return Cohen's kappa of two masks, (nucleus,)."""
    return cohen_kappa(confusion(a.astype(np.intp), b.astype(np.intp), 2))
