"""What each likelihood asks of the fit of the heads: minus the log-likelihood and its slope, element by element.

The batched fit minimises a weighted sum over spots of a function of the location ``eta`` (log of the mean at reference
depth; for ``gaussian-log`` the mean of ``log1p``), the other parameters held. A :class:`Term` gives that function
without the constants that do not move the minimum, its derivative in ``eta``, and where and how curved it is at "the
same rate everywhere", which scales the problem. All are convex in ``eta`` but the zero-inflated, which is nearly so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.models.likelihoods import GAUSSIAN_LOG, NEGATIVE_BINOMIAL, POISSON, check_likelihood

LARGEST_LOG_MEAN = 20.0
"""Means are held at e^20 while a line search looks around: their slope still leads back."""


class Term(Protocol):
    """One likelihood on given counts, other parameters held.

    Attributes
    ----------
    null_location
        (gene,) location under "the same rate everywhere".
    null_curvature
        (gene,) mean expected second derivative there, positive.
    """

    null_location: Tensor
    null_curvature: Tensor

    def value_and_slope(self, location: Tensor) -> tuple[Tensor, Tensor]:
        """Return minus the log-likelihood, constants left out, and its derivative, each (member, spot, gene)."""
        ...


def make_term(
    name: str,
    counts: NDArray[np.float32],
    log_depth: NDArray[np.float32],
    parameters: Mapping[str, NDArray[np.float32]],
) -> Term:
    """Return the term of a likelihood, in double precision.

    Parameters
    ----------
    name
        ``nb``, ``poisson``, ``zinb`` or ``gaussian-log``.
    counts
        (spot, gene).
    log_depth
        (spot,) log of total over reference total.
    parameters
        Those of :data:`stimage_qupath.models.likelihoods.PARAMETERS`, each (gene,).
    """
    check_likelihood(name)
    y = torch.from_numpy(counts).double()
    depth = torch.from_numpy(log_depth).double()[:, None]
    held = {key: torch.from_numpy(np.asarray(value)).double() for key, value in parameters.items()}
    if name == POISSON:
        return PoissonTerm(y, depth)
    if name == GAUSSIAN_LOG:
        return LogGaussianTerm(y, depth, log_sd=held["log_sd"])
    if name == NEGATIVE_BINOMIAL:
        return NegativeBinomialTerm(y, depth, log_total_count=held["log_total_count"])
    return ZeroInflatedTerm(y, depth, log_total_count=held["log_total_count"], zero_logit=held["zero_logit"])


def _pooled_rate(counts: Tensor, log_depth: Tensor) -> Tensor:
    """Return the rate at reference depth if it were the same everywhere, (gene,); never 0."""
    return (counts.sum(0) + 0.5) / log_depth.exp().sum()


class NegativeBinomialTerm:
    """``(y + r) log(mu + r) - y log(mu)``."""

    def __init__(self, counts: Tensor, log_depth: Tensor, *, log_total_count: Tensor) -> None:
        self.counts, self.log_depth, self.r = counts, log_depth, log_total_count.exp()
        rate = _pooled_rate(counts, log_depth)
        expected = rate * log_depth.exp()
        self.null_location = rate.log()
        self.null_curvature = (expected * self.r / (expected + self.r)).mean(0)

    def value_and_slope(self, location: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and its derivative in the location."""
        log_mean = location + self.log_depth
        # Beyond the held range the value goes on along its tangent, so that value and slope stay those of one function.
        held = log_mean.clamp(max=LARGEST_LOG_MEAN)
        mean = held.exp()
        sums = mean + self.r
        value = (self.counts + self.r) * (sums.log() + log_mean - held) - self.counts * log_mean
        return value, (mean - self.counts) * (self.r / sums)


class PoissonTerm:
    """``mu - y log(mu)``."""

    def __init__(self, counts: Tensor, log_depth: Tensor) -> None:
        self.counts, self.log_depth = counts, log_depth
        rate = _pooled_rate(counts, log_depth)
        self.null_location = rate.log()
        self.null_curvature = (rate * log_depth.exp()).mean(0)

    def value_and_slope(self, location: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and its derivative in the location."""
        log_mean = location + self.log_depth
        held = log_mean.clamp(max=LARGEST_LOG_MEAN)
        mean = held.exp()
        return mean * (1 + log_mean - held) - self.counts * log_mean, mean - self.counts


class ZeroInflatedTerm:
    """The negative binomial's above 0; at 0, minus ``log(pi + (1 - pi) (r / (m + r))^r)``, ``m = mu / (1 - pi)``."""

    def __init__(self, counts: Tensor, log_depth: Tensor, *, log_total_count: Tensor, zero_logit: Tensor) -> None:
        inflated = torch.nn.functional.softplus(zero_logit)
        self._counted = NegativeBinomialTerm(counts, log_depth + inflated, log_total_count=log_total_count)
        self.r, self.log_r, self.zero_logit = log_total_count.exp(), log_total_count, zero_logit
        self.empty = counts == 0
        rate = _pooled_rate(counts, log_depth)
        share = (1 - zero_logit.sigmoid()) / (1 / self.r + zero_logit.sigmoid())
        expected = rate * log_depth.exp()
        self.null_location = rate.log()
        self.null_curvature = (expected * share / (expected + share)).mean(0)

    def value_and_slope(self, location: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and its derivative in the location."""
        value, slope = self._counted.value_and_slope(location)
        # At y = 0 the counted value is r log(m + r), and r log r less than minus the log of the probability of 0.
        log_zero = self.r * self.log_r - value
        log_any_zero = torch.logaddexp(self.zero_logit.expand_as(log_zero), log_zero)
        by_chance = (log_zero - log_any_zero).exp()
        at_zero = self.r * self.log_r - log_any_zero
        return torch.where(self.empty, at_zero, value), torch.where(self.empty, slope * by_chance, slope)


class LogGaussianTerm:
    """``(log1p(y / s) - eta)^2 / (2 sd^2)``: least squares on log values, as a density and without rounding."""

    def __init__(self, counts: Tensor, log_depth: Tensor, *, log_sd: Tensor) -> None:
        self.values = torch.log1p(counts / log_depth.exp())
        self.precision = (-2 * log_sd).exp()
        self.null_location = self.values.mean(0)
        self.null_curvature = self.precision.clone()

    def value_and_slope(self, location: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value and its derivative in the location."""
        error = location - self.values
        return 0.5 * self.precision * error.square(), self.precision * error
