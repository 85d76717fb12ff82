"""The Poisson of counts: what sequencing alone would leave of a known rate; too narrow for tissue, kept to compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from stimage_qupath.models.count_distribution import CountDistribution, doubled, plain


@dataclass(frozen=True, slots=True)
class Poisson(CountDistribution):
    """Counts with ``variance = mean``.

    Attributes
    ----------
    log_mean
        (..., gene).
    """

    log_mean: Tensor

    def at_depth(self, log_depth: Tensor) -> Self:
        """Return the distribution at another depth."""
        return replace(self, log_mean=self.log_mean + log_depth)

    def log_prob(self, counts: Tensor) -> Tensor:
        """Return ``y log(mu) - mu - lgamma(y + 1)``."""
        y, log_mu = doubled(counts, self.log_mean)
        return (y * log_mu - log_mu.exp() - torch.lgamma(y + 1)).to(self.log_mean.dtype)

    @property
    def mean(self) -> Tensor:
        """Expected count."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """Variance in counts^2, equal to the mean."""
        return self.mean

    def cdf(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``P(Y <= counts)`` (regularised incomplete gamma function)."""
        (mean,) = plain(self.log_mean.exp())
        whole = np.floor(np.asarray(counts, dtype=np.float64))
        return np.where(whole < 0, 0.0, special.gammaincc(np.maximum(whole, 0) + 1, mean))

    def sample(self, generator: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Return counts, (draw, ...)."""
        (mean,) = plain(self.log_mean.exp())
        return generator.poisson(mean, (draws, *mean.shape)).astype(np.float64)
