"""Signs that an ensemble says nothing: the same everywhere, or the same member ten times; each returns sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CONSTANT_LOG_SD = 0.01
"""SD over places of the log mean under which a gene's map is a flat colour: 1 %, beneath any display's steps."""
CONSTANT_SHARE = 0.5
COLLAPSED_LOG_SD = 1e-3
"""Median SD over members of the log mean under which they are copies: bootstrap members differ a hundred times more."""
LEAST_PLACES = 20
"""Few places can look alike by chance."""


def constant_output(log_mean: NDArray[np.floating], genes: Sequence[str]) -> list[str]:
    """Return a warning if the prediction hardly varies between places.

    Parameters
    ----------
    log_mean
        (place, gene) log of the ensemble's mean.
    genes
        Name of each column.

    Returns
    -------
    list of str
        Empty when all is well.
    """
    if len(log_mean) < LEAST_PLACES:
        return []
    flat = log_mean.astype(np.float64).std(axis=0) < CONSTANT_LOG_SD
    if flat.mean() < CONSTANT_SHARE:
        return []
    names = ", ".join(np.asarray(list(genes))[flat][:5])
    return [
        f"expected predictions that differ between places, found {int(flat.sum())} of {len(genes)} genes "
        f"constant to 1 % over {len(log_mean)} places ({names}): the image says nothing about them here; check stain, "
        "focus and pixel size, or train with more spots"
    ]


def collapsed_ensemble(log_mean: NDArray[np.floating]) -> list[str]:
    """Return a warning if the members all say the same.

    Parameters
    ----------
    log_mean
        (member, place, gene) log mean of each member.

    Returns
    -------
    list of str
        Empty when all is well.
    """
    members = len(log_mean)
    if members == 1:
        return [
            "expected at least two members, found one: epistemic uncertainty is 0 and means nothing; train more members"
        ]
    spread = float(np.median(log_mean.astype(np.float64).std(axis=0)))
    if spread >= COLLAPSED_LOG_SD:
        return []
    return [
        f"expected members that differ, found {members} with a median SD of the log mean of {spread:.1e}: epistemic "
        "uncertainty means nothing; train again with a bootstrap or other seeds"
    ]
