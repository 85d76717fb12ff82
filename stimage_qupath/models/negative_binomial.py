"""The negative binomial of counts: mean ``mu``, ``total_count`` ``r``, variance ``mu + mu^2 / r``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

LOG_MEAN_RANGE = (-20.0, 14.0)
"""Log means are held in e^-20 to e^14 (2e-9 to 1e6 counts): beyond lies no measurement, only overflow."""
LOG_TOTAL_COUNT_RANGE = (-7.0, 10.0)


def log_prob(counts: Tensor, log_mean: Tensor, log_total_count: Tensor) -> Tensor:
    """Return the log-likelihood of counts, broadcast over the arguments.

    ``lgamma(y + r) - lgamma(r) - lgamma(y + 1) + r log(r / (r + mu)) + y log(mu / (r + mu))``, in logs throughout, so
    that neither tiny nor huge means leave float32.

    Parameters
    ----------
    counts
        Raw counts, whole numbers of at least 0.
    log_mean
        Log of the mean.
    log_total_count
        Log of ``r``.
    """
    total_count = log_total_count.exp()
    log_sum = torch.logaddexp(log_mean, log_total_count)
    return (
        torch.lgamma(counts + total_count)
        - torch.lgamma(total_count)
        - torch.lgamma(counts + 1)
        + total_count * (log_total_count - log_sum)
        + counts * (log_mean - log_sum)
    )


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


def mixture_quantile(level: float, mean: NDArray[Any], total_count: NDArray[Any]) -> NDArray[np.float32]:
    """Return the smallest count whose mixture CDF reaches ``level``.

    Parameters
    ----------
    level
        Between 0 and 1, exclusive.
    mean, total_count
        (member, ...); ``total_count`` may broadcast.

    Returns
    -------
    ndarray
        Whole numbers, the shape of one member.
    """
    if not 0 < level < 1:
        msg = f"expected a quantile level between 0 and 1, found {level}"
        raise ValueError(msg)
    low = np.full(mean.shape[1:], -1.0)
    high = np.zeros(mean.shape[1:])
    while (short := mixture_cdf(high, mean, total_count) < level).any():
        low = np.where(short, high, low)
        high = np.where(short, 2 * high + 1, high)
    while ((gap := high - low) > 1).any():
        middle = np.where(gap > 1, np.floor((low + high) / 2), high)
        reached = mixture_cdf(middle, mean, total_count) >= level
        high = np.where(reached, middle, high)
        low = np.where(reached, low, middle)
    return high.astype(np.float32)
