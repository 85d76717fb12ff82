"""Nuclei that are alike but for their attribution: what a faithful order must beat.

A large, dark nucleus in the middle of a block does more to a prediction than a small pale one at its edge, whatever an
attribution says. So the control of an order is the same order with nuclei exchanged for others of like area,
haematoxylin and distance to the centre: if the attribution knew no more than those three, both would do the same.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

GROUP: Final = 8
"""Most nuclei that count as alike: few enough to be close, enough to exchange most of them."""


def matched_groups(covariates: NDArray[np.float64], *, largest: int = GROUP) -> NDArray[np.intp]:
    """Return the group of each nucleus: nuclei are halved along their widest covariate until groups are small.

    Parameters
    ----------
    covariates
        (nucleus, covariate) finite; their ranks are used, so that units and skew do not matter.
    largest
        Nuclei of a group at most.

    Returns
    -------
    ndarray
        (nucleus,) numbers from 0.
    """
    ranks = _ranks(covariates)
    group = np.zeros(len(covariates), dtype=np.intp)
    waiting, number = [np.arange(len(covariates))], 0
    while waiting:
        members = waiting.pop()
        if len(members) > largest:
            widest = int(np.argmax(np.ptp(ranks[members], axis=0)))
            ordered = members[np.argsort(ranks[members, widest], kind="stable")]
            waiting += [ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]]
        else:
            group[members] = number
            number += 1
    return group


def _ranks(covariates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks of each column, equal values in an order drawn by lot.

    Broken by another covariate, ties of one would make the two go together within groups.
    """
    ranks = np.empty_like(covariates, dtype=np.float64)
    rng = np.random.default_rng(0)
    for column in range(covariates.shape[1]):
        drawn = rng.permutation(len(covariates))
        ranks[drawn, column] = stats.rankdata(covariates[drawn, column], method="ordinal")
    return ranks


def exchanged(order: NDArray[np.intp], group: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return an order of the same groups, in which the nuclei of each group have changed places at random.

    Where the attribution says nothing beyond the groups, the order and its exchanged one are equally likely: the test
    that rests on it is a permutation test.

    Parameters
    ----------
    order
        (nucleus,) nuclei, the first to go first.
    group
        (nucleus,) group of each nucleus.
    rng
        Where chance comes from.
    """
    place = np.argsort(group[order], kind="stable")
    shuffled = order[place][np.lexsort((rng.random(len(order)), group[order][place]))]
    found = np.empty_like(order)
    found[place] = shuffled
    return found


def standardised_difference(
    covariates: NDArray[np.float64], chosen: NDArray[np.intp], others: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return how far the means of two sets of nuclei are apart, in SDs of all, (covariate,); 0 where all are equal."""
    spread = covariates.std(axis=0)
    apart = covariates[chosen].mean(axis=0) - covariates[others].mean(axis=0)
    return np.asarray(np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 0))
