"""Likelihoods by name: the parameters each has beside its location, and the distribution they make."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stimage_qupath.errors import UsageError
from stimage_qupath.models.count_distribution import CountDistribution
from stimage_qupath.models.log_gaussian import LogGaussian
from stimage_qupath.models.negative_binomial import LOG_MEAN_RANGE, LOG_TOTAL_COUNT_RANGE, NegativeBinomial
from stimage_qupath.models.poisson import Poisson
from stimage_qupath.models.zero_inflated import ZeroInflatedNegativeBinomial

NEGATIVE_BINOMIAL = "nb"
POISSON = "poisson"
ZERO_INFLATED = "zinb"
GAUSSIAN_LOG = "gaussian-log"

PARAMETERS: dict[str, dict[str, tuple[float, float]]] = {
    NEGATIVE_BINOMIAL: {"log_total_count": LOG_TOTAL_COUNT_RANGE},
    POISSON: {},
    ZERO_INFLATED: {"log_total_count": LOG_TOTAL_COUNT_RANGE, "zero_logit": (-12.0, 6.0)},
    GAUSSIAN_LOG: {"log_sd": (-3.0, 2.3)},
}
"""Of each likelihood: its parameters beside the location, and the range in which each is held."""


def check_likelihood(name: str) -> str:
    """Return the name of a likelihood.

    Raises
    ------
    UsageError
        No likelihood has this name.
    """
    if name not in PARAMETERS:
        msg = f"expected a likelihood out of {', '.join(PARAMETERS)}, found '{name}'; pass one of those as --likelihood"
        raise UsageError(msg)
    return name


def distribution(name: str, location: Tensor, parameters: Mapping[str, Tensor]) -> CountDistribution:
    """Return the distribution of counts at reference depth.

    Parameters
    ----------
    name
        ``nb``, ``poisson``, ``zinb`` or ``gaussian-log``.
    location
        (..., gene) what the heads say: log of the mean, for ``gaussian-log`` the mean of ``log1p``. Held in
        ``LOG_MEAN_RANGE``.
    parameters
        As in :data:`PARAMETERS`, each (gene,) or (..., gene); held in their ranges.

    Raises
    ------
    UsageError
        No likelihood has this name.
    ValueError
        Parameters are missing or not the likelihood's.
    """
    ranges = PARAMETERS[check_likelihood(name)]
    if set(parameters) != set(ranges):
        msg = f"expected the parameters {sorted(ranges)} of likelihood '{name}', found {sorted(parameters)}"
        raise ValueError(msg)
    held = location.clamp(*LOG_MEAN_RANGE)
    inside = {key: value.clamp(*ranges[key]) for key, value in parameters.items()}
    if name == POISSON:
        return Poisson(held)
    if name == GAUSSIAN_LOG:
        return LogGaussian(held, inside["log_sd"], torch.zeros((), dtype=held.dtype, device=held.device))
    if name == ZERO_INFLATED:
        return ZeroInflatedNegativeBinomial(held, inside["log_total_count"], inside["zero_logit"])
    return NegativeBinomial(held, inside["log_total_count"])
