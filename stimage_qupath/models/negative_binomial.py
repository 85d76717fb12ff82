"""The negative binomial of counts: mean ``mu``, ``total_count`` ``r``, variance ``mu + mu^2 / r``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from stimage_qupath.models.count_distribution import CountDistribution, check_level, doubled, plain, smallest_count

LOG_MEAN_RANGE = (-20.0, 14.0)
"""Log means are held in e^-20 to e^14 (2e-9 to 1e6 counts): beyond lies no measurement, only overflow."""
LOG_TOTAL_COUNT_RANGE = (-7.0, 14.0)
"""r from 1e-3 to 1e6, where the negative binomial is a Poisson in all but name."""
SUMMED_MEAN = 30.0
"""Mixture mean up to which a quantile is found by adding up probabilities; above, by bisection."""
SUMMED_COUNTS = 128
PLACES_AT_A_TIME = 100_000


@dataclass(frozen=True, slots=True)
class NegativeBinomial(CountDistribution):
    """Counts whose rate varies from place to place as a gamma: ``mean``, ``variance = mean + mean^2 / r``.

    Attributes
    ----------
    log_mean
        (..., gene).
    log_total_count
        Log of ``r``: (gene,), or (..., gene) where it differs between places. Depth scales the mean and not ``r``.
    """

    log_mean: Tensor
    log_total_count: Tensor

    def at_depth(self, log_depth: Tensor) -> Self:
        """Return the distribution at another depth."""
        return replace(self, log_mean=self.log_mean + log_depth)

    def log_prob(self, counts: Tensor) -> Tensor:
        """Return the log-likelihood of counts."""
        return log_prob(counts, self.log_mean, self.log_total_count)

    @property
    def mean(self) -> Tensor:
        """Expected count."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """Variance in counts^2."""
        return self.mean + (2 * self.log_mean - self.log_total_count).exp()

    def cdf(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``P(Y <= counts)``."""
        mean, total_count = plain(self.log_mean.exp(), self.log_total_count.exp())
        return cdf(counts, mean, total_count)

    def sample(self, generator: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Return counts, a Poisson of a gamma rate, (draw, ...)."""
        mean, total_count = plain(self.log_mean.exp(), self.log_total_count.exp())
        rate = generator.gamma(total_count, mean / total_count, (draws, *mean.shape))
        return generator.poisson(rate).astype(np.float64)


def log_prob(counts: Tensor, log_mean: Tensor, log_total_count: Tensor) -> Tensor:
    """Return the log-likelihood of counts, broadcast over the arguments.

    ``lgamma(y + r) - lgamma(r) - lgamma(y + 1) + r log(r / (r + mu)) + y log(mu / (r + mu))``, in logs throughout and
    in double precision, so that neither tiny nor huge means or ``r`` lose their digits; the result has the type of
    ``log_mean``.

    Parameters
    ----------
    counts
        Raw counts, whole numbers of at least 0.
    log_mean
        Log of the mean.
    log_total_count
        Log of ``r``.
    """
    y, log_mu, log_r = doubled(counts, log_mean, log_total_count)
    r = log_r.exp()
    odds = log_mu - log_r
    likelihood = (
        torch.lgamma(y + r)
        - torch.lgamma(r)
        - torch.lgamma(y + 1)
        + r * torch.nn.functional.logsigmoid(-odds)
        + y * torch.nn.functional.logsigmoid(odds)
    )
    return likelihood.to(log_mean.dtype)


def cdf(counts: NDArray[Any], mean: NDArray[Any], total_count: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``P(Y <= counts)``, 0 below 0; broadcast over the arguments (regularised incomplete beta function)."""
    counts, mean, total_count = np.broadcast_arrays(counts, np.asarray(mean, np.float64), np.asarray(total_count))
    share = total_count / (total_count + mean)
    inside = np.maximum(np.floor(counts), 0)
    return np.where(counts < 0, 0.0, special.betainc(total_count.astype(np.float64), inside + 1.0, share))


def mixture_cdf(counts: NDArray[Any], mean: NDArray[Any], total_count: NDArray[Any]) -> NDArray[np.float64]:
    """Return the CDF of an equal mixture over the first axis of ``mean`` (member, ...)."""
    members = (cdf(counts, m, r) for m, r in zip(mean, np.broadcast_to(total_count, mean.shape), strict=True))
    return np.asarray(sum(members)) / len(mean)


def mixture_quantile(level: float | NDArray[Any], mean: NDArray[Any], total_count: NDArray[Any]) -> NDArray[np.float32]:
    """Return the smallest count whose mixture CDF reaches ``level``.

    Parameters
    ----------
    level
        Between 0 and 1, exclusive; one for all, or an array that broadcasts to the shape of one member (recalibrated
        levels differ between genes).
    mean, total_count
        (member, ...); ``total_count`` may broadcast.

    Returns
    -------
    ndarray
        Whole numbers, the shape of one member.
    """
    shape = mean.shape[1:]
    wanted = np.broadcast_to(check_level(level), shape).ravel()
    mu = mean.reshape(len(mean), -1).astype(np.float64)
    r = np.broadcast_to(total_count, mean.shape).reshape(mu.shape).astype(np.float64)
    found = np.empty(mu.shape[1])
    for start in range(0, len(found), PLACES_AT_A_TIME):
        part = slice(start, start + PLACES_AT_A_TIME)
        found[part] = _mixture_quantile(wanted[part], mu[:, part], r[:, part])
    return found.reshape(shape).astype(np.float32)


def _mixture_quantile(
    level: NDArray[np.float64], mean: NDArray[np.float64], total_count: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return quantiles of flat arrays: small ones by adding up, the others by bisection."""
    typical = mean.mean(axis=0)
    quantile = np.full(len(level), np.nan)
    small = np.flatnonzero(typical <= SUMMED_MEAN)
    quantile[small] = _sum_up(level[small], mean[:, small], total_count[:, small])
    rest = np.flatnonzero(np.isnan(quantile))
    if len(rest):
        mu, r = mean[:, rest], total_count[:, rest]
        quantile[rest] = smallest_count(lambda y: mixture_cdf(y, mu, r), level[rest], guess=typical[rest])
    return quantile


def _sum_up(
    level: NDArray[np.float64], mean: NDArray[np.float64], total_count: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return quantiles by ``p(y + 1) = p(y) (y + r) / (y + 1) mu / (r + mu)``; NaN where 128 counts do not reach.

    A multiplication a count and member, where the incomplete beta function costs some hundred: intervals of a slide's
    nuclei are small counts nearly always.
    """
    quantile = np.full(len(level), np.nan)
    index, r, odds = np.arange(len(level)), total_count, mean / (total_count + mean)
    probability = np.exp(-total_count * np.log1p(mean / total_count))
    below = probability.mean(axis=0)
    for count in range(SUMMED_COUNTS):
        reached = below >= level
        if reached.any():
            quantile[index[reached]] = count
            left = ~reached
            index, level, below = index[left], level[left], below[left]
            r, odds, probability = r[:, left], odds[:, left], probability[:, left]
        if not len(index):
            break
        probability = probability * ((count + r) / (count + 1) * odds)
        below = below + probability.mean(axis=0)
    return quantile
