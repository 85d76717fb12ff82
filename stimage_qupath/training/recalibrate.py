"""Learning a recalibration from out-of-fold predictions of the training sections, and nothing else."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stimage_qupath.models.negative_binomial import LOG_MEAN_RANGE, cdf
from stimage_qupath.models.recalibration import SHARES, Recalibration

Method = Literal["temperature", "conformal", "both"]

STRATA = (0.1, 1.0, 10.0)
"""Mean training counts between which strata change; those the coverage is reported by."""
LOG_TEMPERATURES = np.linspace(-1.5, 1.5, 13)
STRATUM_SD = 0.5
"""Of the normal prior that holds a stratum's log temperature near 0: where counts cannot tell, nothing moves."""
GENE_SD = 0.15
"""Of the normal prior that holds a gene's log temperature near its stratum's."""
PRIOR_COUNTS = 200.0
"""Pseudo-counts of "already right" spread over a level map, against noise in strata of few genes."""


def fit_recalibration(
    *,
    counts: NDArray[np.float32],
    log_mean_members: NDArray[np.float32],
    log_depth: NDArray[np.float32],
    log_total_count: NDArray[np.float32],
    training_mean: NDArray[np.float64],
    patients: int,
    method: Method,
    seed: int,
) -> Recalibration:
    """Fit on predictions of spots that their models did not see.

    Parameters
    ----------
    counts
        (spot, gene) of all training sections.
    log_mean_members
        (member, spot, gene) out-of-fold log means at reference depth; one member is enough, the ensemble's are better.
    log_depth
        (spot,) log of total over reference total.
    log_total_count
        (gene,) or (member, gene).
    training_mean
        (gene,) mean training count, which sorts genes into strata.
    patients
        Number of patients the sections come from.
    method
        ``temperature``, ``conformal`` (level maps) or ``both``, the second on what the first leaves.
    seed
        Of the uniform numbers of the randomised transform.
    """
    stratum = np.searchsorted(STRATA, training_mean, side="right").astype(np.int64)
    log_temperature = np.zeros(counts.shape[1], dtype=np.float32)
    log_r = np.broadcast_to(log_total_count, (len(log_mean_members), counts.shape[1]))
    if method in {"temperature", "both"}:
        log_temperature = _temperatures(counts, log_mean_members, log_depth, log_r, stratum)
    level_map = np.tile(SHARES, (len(STRATA) + 1, 1))
    if method in {"conformal", "both"}:
        at, below = mixture_pit_bounds(counts, log_mean_members, log_depth, log_r - log_temperature)
        pit = below + np.random.default_rng(seed).random(at.shape) * (at - below)
        level_map = np.array([_level_map(pit[:, stratum == row].ravel()) for row in range(len(level_map))])
    return Recalibration(log_temperature, stratum, level_map, patients)


def mixture_pit_bounds(
    counts: NDArray[np.float32],
    log_mean_members: NDArray[np.float32],
    log_depth: NDArray[np.float32],
    log_total_count: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ``F(y)`` and ``F(y - 1)`` of the equal mixture at the depth of each spot, (spot, gene) each.

    Parameters are those of :func:`fit_recalibration`.
    """
    log_r = np.broadcast_to(log_total_count, (len(log_mean_members), counts.shape[1]))
    at, below = np.zeros(counts.shape), np.zeros(counts.shape)
    for log_mean, r in zip(log_mean_members, np.exp(log_r.astype(np.float64)), strict=True):
        mean = np.exp(np.clip(log_mean.astype(np.float64) + log_depth[:, None], *LOG_MEAN_RANGE))
        at += cdf(counts, mean, r) / len(log_mean_members)
        below += cdf(counts - 1, mean, r) / len(log_mean_members)
    return at, below


def _temperatures(
    counts: NDArray[np.float32],
    log_mean_members: NDArray[np.float32],
    log_depth: NDArray[np.float32],
    log_total_count: NDArray[np.floating],
    stratum: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return log temperatures by maximum posterior on a grid: strata, then genes around their stratum, (gene,)."""
    profile = np.array(
        [_mixture_log_likelihood(counts, log_mean_members, log_depth, log_total_count - t) for t in LOG_TEMPERATURES]
    )
    found = np.zeros(counts.shape[1], dtype=np.float32)
    for row in np.unique(stratum):
        genes = stratum == row
        pooled = profile[:, genes].sum(axis=1) - 0.5 * (LOG_TEMPERATURES / STRATUM_SD) ** 2
        centre = _peak(pooled[:, None])[0]
        posterior = profile[:, genes] - 0.5 * ((LOG_TEMPERATURES - centre) / GENE_SD)[:, None] ** 2
        found[genes] = _peak(posterior)
    return found


def _peak(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where on the grid each column peaks, by the parabola through its best three points."""
    best = np.clip(values.argmax(axis=0), 1, len(values) - 2)
    columns = np.arange(values.shape[1])
    left, middle, right = (values[best + d, columns] for d in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), np.sign(right - left))
    step = LOG_TEMPERATURES[1] - LOG_TEMPERATURES[0]
    return np.asarray(LOG_TEMPERATURES[best] + step * np.clip(shift, -1, 1))


def _mixture_log_likelihood(
    counts: NDArray[np.float32],
    log_mean_members: NDArray[np.float32],
    log_depth: NDArray[np.float32],
    log_total_count: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return each gene's log-likelihood under the mixture, less ``lgamma(y + 1)``, which no ``r`` changes, (gene,)."""
    y = counts.astype(np.float64)
    total: NDArray[np.float64] | None = None
    counted, counted_of = np.empty(0), np.empty(0)
    for log_mean, log_r in zip(log_mean_members, log_total_count.astype(np.float64), strict=True):
        # Members usually share r, and log-gamma is the costly part.
        if not np.array_equal(log_r, counted_of):
            counted, counted_of = special.gammaln(y + np.exp(log_r)) - special.gammaln(np.exp(log_r)), log_r
        log_mu = np.clip(log_mean.astype(np.float64) + log_depth[:, None], *LOG_MEAN_RANGE)
        log_sum = np.logaddexp(log_mu, log_r)
        term = counted + np.exp(log_r) * (log_r - log_sum) + y * (log_mu - log_sum)
        total = term if total is None else np.logaddexp(total, term)
    if total is None:
        msg = "expected out-of-fold log means of at least one member, found none"
        raise ValueError(msg)
    return np.asarray(total.sum(axis=0) - len(y) * np.log(len(log_mean_members)))


def _level_map(pit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the level under which each of ``SHARES`` of the transforms lies; pseudo-counts keep it strictly rising."""
    ordered = np.sort(pit)
    share = (np.arange(len(ordered)) + 0.5 + PRIOR_COUNTS * ordered) / (len(ordered) + PRIOR_COUNTS)
    levels = np.interp(SHARES, np.concatenate([[0.0], share, [1.0]]), np.concatenate([[0.0], ordered, [1.0]]))
    return np.asarray(levels)
