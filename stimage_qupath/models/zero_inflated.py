"""The zero-inflated negative binomial: some places hold no count whatever their rate.

With ``pi`` the share of such places and ``mu`` the mean over all places, the others follow a negative binomial of mean
``mu / (1 - pi)``. So ``mu`` means what it means in every other likelihood, and the variance keeps its form,
``mu + mu^2 / r'`` with ``r' = (1 - pi) / (1 / r + pi)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from stimage_qupath.models.count_distribution import CountDistribution, doubled, plain
from stimage_qupath.models.negative_binomial import NegativeBinomial


@dataclass(frozen=True, slots=True)
class ZeroInflatedNegativeBinomial(CountDistribution):
    """Negative binomial counts with more zeros.

    Attributes
    ----------
    log_mean
        (..., gene) of all places, those without counts too.
    log_total_count
        (gene,) or (..., gene): log of ``r`` of the negative binomial.
    zero_logit
        (gene,) or (..., gene): logit of ``pi``; far below 0 there is no inflation.
    """

    log_mean: Tensor
    log_total_count: Tensor
    zero_logit: Tensor

    @property
    def component(self) -> NegativeBinomial:
        """The negative binomial of the places that can hold counts."""
        return NegativeBinomial(self.log_mean + softplus(self.zero_logit), self.log_total_count)

    def at_depth(self, log_depth: Tensor) -> Self:
        """Return the distribution at another depth; the share of empty places stays."""
        return replace(self, log_mean=self.log_mean + log_depth)

    def log_prob(self, counts: Tensor) -> Tensor:
        """Return ``log(pi [y = 0] + (1 - pi) NB(y))``."""
        y, log_mu, log_r, logit = doubled(counts, self.log_mean, self.log_total_count, self.zero_logit)
        counted = logsigmoid(-logit) + NegativeBinomial(log_mu + softplus(logit), log_r).log_prob(y)
        at_zero = torch.logaddexp(logsigmoid(logit).expand_as(counted), counted)
        return torch.where(y == 0, at_zero, counted).to(self.log_mean.dtype)

    @property
    def mean(self) -> Tensor:
        """Expected count."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """Variance in counts^2."""
        return self.mean + (2 * self.log_mean - self.effective_log_total_count).exp()

    @property
    def effective_log_total_count(self) -> Tensor:
        """Log of the ``r'`` with which ``mu + mu^2 / r'`` is the variance; zeros widen it as overdispersion does."""
        return logsigmoid(-self.zero_logit) - torch.logaddexp(-self.log_total_count, logsigmoid(self.zero_logit))

    def cdf(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``P(Y <= counts)``."""
        (share,) = plain(self.zero_logit.sigmoid())
        whole = np.asarray(counts)
        return np.where(whole < 0, 0.0, share + (1 - share) * self.component.cdf(whole))

    def sample(self, generator: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Return counts, (draw, ...)."""
        counts = self.component.sample(generator, draws)
        (share,) = plain(self.zero_logit.sigmoid())
        return np.where(generator.random(counts.shape) < share, 0.0, counts)
