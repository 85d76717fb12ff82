"""What every likelihood of counts can do, and the search for a quantile of counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGEST_COUNT = 2.0**50
"""Quantiles beyond are held there; whole numbers are still exact in float64."""


class CountDistribution(ABC):
    """The distribution of counts at many places; parameters are tensors that broadcast to (..., gene).

    A distribution is made at reference depth and moved by :meth:`at_depth`. Densities and moments are differentiable
    torch; distribution function, quantiles and samples are numpy in float64.
    """

    @abstractmethod
    def at_depth(self, log_depth: Tensor) -> Self:
        """Return the distribution of the same places at another depth.

        Parameters
        ----------
        log_depth
            Log of total over reference total, broadcasting to the parameters: (spot, 1) for (spot, gene).
        """

    @abstractmethod
    def log_prob(self, counts: Tensor) -> Tensor:
        """Return the log of the probability of counts, whole numbers of at least 0."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Expected count."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Variance in counts^2."""

    @abstractmethod
    def cdf(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``P(Y <= counts)``, 0 below 0."""

    @abstractmethod
    def sample(self, generator: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Return counts, (draw, ...)."""

    def quantile(self, level: float | NDArray[Any]) -> NDArray[np.float64]:
        """Return the smallest count whose cumulative probability reaches ``level``, in 0 to 1, exclusive."""
        return smallest_count(self.cdf, check_level(level), guess=self.mean.detach().cpu().double().numpy())


def check_level(level: float | NDArray[Any]) -> NDArray[np.float64]:
    """Return levels as an array, refusing what lies outside 0 to 1.

    Raises
    ------
    ValueError
        A level is not strictly between 0 and 1.
    """
    levels = np.asarray(level, dtype=np.float64)
    if not ((levels > 0) & (levels < 1)).all():
        msg = f"expected a quantile level between 0 and 1, found {level}"
        raise ValueError(msg)
    return levels


def smallest_count(
    cdf: Callable[[NDArray[np.float64]], NDArray[np.float64]], level: NDArray[np.float64], *, guess: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the smallest whole number whose ``cdf`` reaches ``level``, by a bracket grown from a guess and halved.

    Parameters
    ----------
    cdf
        Of an array of counts, elementwise.
    level
        Broadcasting to ``guess``.
    guess
        Where to begin; a good one saves steps and never changes the result.
    """
    high = np.clip(np.floor(guess), 0, LARGEST_COUNT)
    low = np.full(high.shape, -1.0)
    step = 1.0 + np.floor(0.5 * high)
    while (short := (cdf(high) < level) & (high < LARGEST_COUNT)).any():
        low = np.where(short, high, low)
        high = np.where(short, np.minimum(high + step, LARGEST_COUNT), high)
        step *= 2
    while ((gap := high - low) > 1).any():
        middle = np.where(gap > 1, np.floor((low + high) / 2), high)
        reached = cdf(middle) >= level
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle)
    return np.asarray(high)


def doubled(*values: Tensor) -> list[Tensor]:
    """Return tensors in double precision where the device has it.

    Log-gamma functions of large arguments cancel: at ``r`` = 1e6 float32 has no digit of their difference left.
    """
    return [v if v.device.type == "mps" else v.to(torch.float64) for v in values]


def plain(*values: Tensor) -> list[NDArray[np.float64]]:
    """Return parameters as float64 arrays of one shape."""
    return [np.asarray(v.numpy()) for v in torch.broadcast_tensors(*(v.detach().cpu().double() for v in values))]
