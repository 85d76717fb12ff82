"""Do nuclei of one group score higher than others? AUROC and Mann-Whitney, by spatial unit.

Symbols: ``a`` and ``b`` units (annotations or spatial blocks), ``w_ab`` the number of pairs of a nucleus of ``a`` and
one of ``b`` in which the first scores higher, ties one half. ``sum w_ab`` over units of the class and units of the rest
is Mann and Whitney's U, and U over the number of pairs is the AUROC (Hanley and McNeil 1982, Radiology 143). Nuclei of
one place share their input, so that nothing here resamples or permutes single nuclei: with the matrix ``w`` a resample
of units, or a permutation of their labels, is a matrix product however many nuclei there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

VALUES_AT_ONCE = 4096
"""Different values whose counts by unit are in memory together."""
EQUAL = 1e-12
"""AUROCs that differ by less are rounding errors of the same one."""


def auroc(values: Float, positive: Bool) -> float:
    """Return the share of pairs of a positive and another nucleus that are in order, ties one half.

    ``(R - n1 (n1 + 1) / 2) / (n1 n0)`` with ``R`` the sum of the positive nuclei's ranks, ties averaged.

    Parameters
    ----------
    values
        (nucleus,) finite scores.
    positive
        (nucleus,) which nuclei should score high.

    Raises
    ------
    ValueError
        All nuclei are on one side.
    """
    n1 = int(positive.sum())
    n0 = len(positive) - n1
    if not n1 or not n0:
        msg = f"expected nuclei on both sides of an AUROC, found {n1} and {n0}"
        raise ValueError(msg)
    return float((stats.rankdata(values)[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def pair_wins(values: Float, unit: NDArray[np.intp], units: int) -> Float:
    """Return ``w_ab``, (unit, unit): pairs that the row's nuclei win against the column's, ties one half.

    Parameters
    ----------
    values
        (nucleus,) finite scores.
    unit
        (nucleus,) unit of each, from 0.
    units
        Number of units.
    """
    different, place = np.unique(values, return_inverse=True)
    shape = (len(different), units)
    counts = sparse.csr_array((np.ones(len(values)), (place.ravel(), unit)), shape=shape)
    wins, lower = np.zeros((units, units)), np.zeros(units)
    for start in range(0, len(different), VALUES_AT_ONCE):
        part = counts[start : start + VALUES_AT_ONCE]
        dense = part.toarray()
        wins += part.T @ (lower + np.cumsum(dense, axis=0) - dense / 2)
        lower += dense.sum(axis=0)
    return wins


def weighted_auroc(wins: Float, sizes: Float, first: Float, second: Float) -> Float:
    """Return the AUROC of resamples of units, (resample,).

    Parameters
    ----------
    wins
        (unit, unit), of :func:`pair_wins`.
    sizes
        (unit,) nuclei of each.
    first, second
        (resample, unit) how often each unit stands among the class, and among the rest.
    """
    return np.asarray(((first @ wins) * second).sum(axis=1) / ((first @ sizes) * (second @ sizes)))


def resample_units(member: Bool, *, replicates: int, seed: int) -> Float:
    """Return how often each unit is drawn, (1 + replicate, unit); the first row is the units as they are.

    Parameters
    ----------
    member
        (unit,) which units are drawn from, with replacement, as many as there are.
    replicates, seed
        Number of resamples and their seed.
    """
    there = np.flatnonzero(member)
    times = np.zeros((1 + replicates, len(member)))
    times[0, there] = 1
    n = len(there)
    times[1:, there] = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=replicates)
    return times


def permutation_p(wins: Float, sizes: Float, positive: Bool, *, permutations: int, seed: int) -> float:
    """Return the two-sided p of an AUROC other than one half when the units' labels are permuted.

    ``(b + 1) / (B + 1)`` with ``b`` of ``B`` permutations at least as far from one half as the labels that were given
    (Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9). The null: labels have nothing to do with scores, and
    units are exchangeable.

    Parameters
    ----------
    wins, sizes
        As for :func:`weighted_auroc`.
    positive
        (unit,) which units are of the class; the others are the rest.
    permutations, seed
        ``B`` and the seed.
    """
    labels = np.tile(positive, (1 + permutations, 1))
    labels[1:] = np.random.default_rng(seed).permuted(labels[1:], axis=1)
    far = np.abs(weighted_auroc(wins, sizes, labels.astype(np.float64), (~labels).astype(np.float64)) - 0.5)
    return float((1 + (far[1:] >= far[0] - EQUAL).sum()) / (1 + permutations))
