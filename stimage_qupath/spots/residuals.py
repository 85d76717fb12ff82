"""Counts against the null "every spot has the same share of this gene", and correlation by column."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESIDUAL_THETA = 10.0
"""Dispersion of the null: variance = mean + mean^2 / 10."""
RESIDUAL_CLIP = 10.0
CONSTANT_VARIANCE = 1e-20
"""Variance below this is rounding error: logs and residuals are of order one."""


def pearson_residuals(
    counts: NDArray[np.float64],
    totals: NDArray[np.float64],
    rates: NDArray[np.float64],
    *,
    clip: float = RESIDUAL_CLIP,
) -> NDArray[np.float64]:
    """Return the residuals of the null at observed depth.

    ``(y - l p) / sqrt(l p + (l p)^2 / 10)``, (spot, gene), with ``y`` counts, ``l`` the spot's total and ``p`` the
    gene's share; 0 where the rate is 0 (Lause, Berens & Kobak 2021, doi 10.1186/s13059-021-02451-7, with a fixed
    dispersion).
    """
    expected = totals[:, None] * rates[None, :]
    spread = np.sqrt(expected + expected**2 / RESIDUAL_THETA)
    residuals = np.divide(counts - expected, spread, out=np.zeros_like(expected), where=spread > 0)
    return np.clip(residuals, -clip, clip)


def column_pearson(
    a: NDArray[np.float64], b: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the (weighted) Pearson correlation of each column, (gene,); 0 where the prediction ``b`` is constant.

    NaN where the measurement ``a`` is constant: such a gene cannot be scored.
    """
    w = np.full(len(a), 1 / len(a)) if weights is None else weights / weights.sum()
    a = a - w @ a
    b = b - w @ b
    var_a, var_b = w @ (a * a), w @ (b * b)
    scale = np.sqrt(var_a * var_b)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(var_b <= CONSTANT_VARIANCE, 0.0, (w @ (a * b)) / scale)
    return np.where(var_a <= CONSTANT_VARIANCE, np.nan, np.clip(r, -1, 1))
