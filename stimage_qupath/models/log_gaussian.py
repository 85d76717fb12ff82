"""A Gaussian on ``log1p`` of depth-normalised counts: what regression of log values assumes, as a law of counts.

``z = log1p(y / s)`` is taken for a normal of mean ``location`` and SD ``sd``. To be scored beside laws of counts, it is
read as one: ``y`` is ``s (exp(z) - 1)`` rounded, and what lies below 0 counts as 0, so that
``P(Y <= y) = Phi((log1p((y + 1/2) / s) - location) / sd)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor
from torch.special import log_ndtr, ndtr

from stimage_qupath.models.count_distribution import LARGEST_COUNT, CountDistribution, doubled, plain

SUMMED_COUNTS = 64
"""Counts up to which moments are summed; above, rounding no longer matters and the log-normal's integral is used."""


@dataclass(frozen=True, slots=True)
class LogGaussian(CountDistribution):
    """Rounded log-normal counts, less one.

    Attributes
    ----------
    location
        (..., gene) mean of ``log1p`` of counts at reference depth.
    log_sd
        (gene,) or (..., gene); SDs from 0.05 to 10 make sense.
    log_depth
        Log of total over reference total, broadcasting; 0 is reference depth.
    """

    location: Tensor
    log_sd: Tensor
    log_depth: Tensor

    def at_depth(self, log_depth: Tensor) -> Self:
        """Return the distribution at another depth."""
        return replace(self, log_depth=self.log_depth + log_depth)

    def log_prob(self, counts: Tensor) -> Tensor:
        """Return the log of the normal probability between the half counts around each count."""
        y, location, log_sd, log_depth = doubled(counts, self.location, self.log_sd, self.log_depth)
        sd, depth = log_sd.exp(), log_depth.exp()
        upper = (torch.log1p((y + 0.5) / depth) - location) / sd
        lower = (torch.log1p((y - 0.5).clamp(min=0.5) / depth) - location) / sd
        # Both ends are mirrored into the lower tail, where the difference of two probabilities keeps its digits.
        right = lower > 0
        near, far = torch.where(right, -lower, upper), torch.where(right, -upper, lower)
        log_near = log_ndtr(near)
        ratio = (log_ndtr(far) - log_near).clamp(max=-1e-300)
        between = log_near + torch.log(-torch.expm1(torch.where(y == 0, -1.0, ratio)))
        return torch.where(y == 0, log_ndtr(upper), between).to(self.location.dtype)

    @property
    def mean(self) -> Tensor:
        """Expected count: the sum of ``P(Y > y)``."""
        _, above = self._summed()
        return above.sum(dim=0) + self._tail()[0]

    @property
    def variance(self) -> Tensor:
        """Variance in counts^2, by the sum of ``(2 y + 1) P(Y > y)``."""
        counts, above = self._summed()
        return ((2 * counts + 1) * above).sum(dim=0) + self._tail()[1] - self.mean.square()

    def _summed(self) -> tuple[Tensor, Tensor]:
        """Return small counts and the probability of more, (count, ...)."""
        location, sd, depth = self._parameters()
        counts = torch.arange(SUMMED_COUNTS, dtype=location.dtype, device=location.device)
        counts = counts.view(-1, *([1] * location.dim()))
        return counts, ndtr((location - torch.log1p((counts + 0.5) / depth)) / sd)

    def _tail(self) -> tuple[Tensor, Tensor]:
        """Return ``E (X - k)+`` and ``E (X^2 - k^2)+`` of the log-normal less one, k = 64."""
        location, sd, depth = self._parameters()
        from_here = (location - torch.log1p(SUMMED_COUNTS / depth)) / sd
        zeroth = ndtr(from_here)
        first = depth * (location + sd.square() / 2).exp() * ndtr(from_here + sd)
        second = depth.square() * (2 * location + 2 * sd.square()).exp() * ndtr(from_here + 2 * sd)
        square = second - 2 * depth * first + (depth.square() - SUMMED_COUNTS**2) * zeroth
        return first - (depth + SUMMED_COUNTS) * zeroth, square

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        location, log_sd, log_depth = torch.broadcast_tensors(self.location, self.log_sd, self.log_depth)
        return location, log_sd.exp(), log_depth.exp()

    def cdf(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``P(Y <= counts)``."""
        location, log_sd, log_depth = plain(self.location, self.log_sd, self.log_depth)
        whole = np.floor(np.asarray(counts, dtype=np.float64))
        z = (np.log1p((np.maximum(whole, 0) + 0.5) / np.exp(log_depth)) - location) / np.exp(log_sd)
        return np.where(whole < 0, 0.0, special.ndtr(z))

    def sample(self, generator: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Return counts, (draw, ...)."""
        location, log_sd, log_depth = plain(self.location, self.log_sd, self.log_depth)
        z = generator.normal(location, np.exp(log_sd), (draws, *location.shape))
        return np.asarray(np.clip(np.rint(np.exp(log_depth) * np.expm1(z)), 0, LARGEST_COUNT))
