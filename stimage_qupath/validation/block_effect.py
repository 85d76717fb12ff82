"""Is an effect more than chance, block by block? Sign flips, effect size with its interval, and Holm over genes.

Neighbouring nuclei share their input, so that the unit is the spatial block and never the nucleus.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FLIPS: Final = 9999
RESAMPLES: Final = 4999
LEAST_BLOCKS: Final = 20
"""Fewer are not tested."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What blocks say together.

    Attributes
    ----------
    mean, ci
        Of the blocks' values, and its 95 % interval by resampling blocks.
    size, size_ci
        Mean over SD of the blocks (Cohen's d of paired differences), and its interval by the same resamples.
    p
        Two-sided, by sign flips; None below :data:`LEAST_BLOCKS`.
    blocks, above
        How many there are, and how many have a value above 0.
    """

    mean: float
    ci: tuple[float, float]
    size: float
    size_ci: tuple[float, float]
    p: float | None
    blocks: int
    above: int

    def to_dict(self) -> dict[str, Any]:
        """Return the effect as JSON has it."""
        return asdict(self)


def effect(values: NDArray[np.float64], *, seed: int) -> Effect:
    """Return what the blocks' values, (block,) and finite, say of a mean other than 0.

    Parameters
    ----------
    values
        A difference for each block: a faithful order less its control.
    seed
        Of flips and resamples.
    """
    n = len(values)
    if n < 2:
        only = float(values.mean()) if n else float("nan")
        return Effect(only, (only, only), float("nan"), (float("nan"), float("nan")), None, n, int((values > 0).sum()))
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(n, size=(RESAMPLES, n))]
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5]).tolist()
    sizes = _size(drawn)
    small, large = np.percentile(sizes[np.isfinite(sizes)], [2.5, 97.5]).tolist() if np.ptp(values) > 0 else (0.0, 0.0)
    p = sign_flip_p(values, seed=seed + 1) if n >= LEAST_BLOCKS else None
    size = float(_size(values[None])[0])
    return Effect(float(values.mean()), (low, high), size, (small, large), p, n, int((values > 0).sum()))


def sign_flip_p(values: NDArray[np.float64], *, flips: int = FLIPS, seed: int) -> float:
    """Return the two-sided p of a mean other than 0 when the sign of each value is chance: ``(b + 1) / (B + 1)``.

    Exact for values that are as likely v as -v under the null (Fisher 1935); b counts flips of at least the same
    absolute mean (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585).
    """
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(flips, len(values)))
    found = abs(values.sum())
    return float((1 + (np.abs(signs @ values) >= found - 1e-12 * np.abs(values).sum()).sum()) / (1 + flips))


def holm(p: list[float | None]) -> list[float | None]:
    """Return Holm's adjusted p of those that were tested, None for the others (Holm 1979, Scand. J. Statist. 6)."""
    tested = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, place) in enumerate(tested):
        highest = max(highest, min(1.0, value * (len(tested) - rank)))
        adjusted[place] = highest
    return adjusted


def _size(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean over SD of each row; NaN where all are equal."""
    sd = values.std(axis=1, ddof=1)
    return np.asarray(np.divide(values.mean(axis=1), sd, out=np.full(len(values), np.nan), where=sd > 0))
