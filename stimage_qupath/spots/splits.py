"""Splits of sections: never by spot, because neighbouring spots are nearly the same tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SplitLevel = Literal["section", "patient"]
BLOCK_UM = 600.0
"""Side of a bootstrap block: three pitches of a 200 um spot array."""
MIN_UNITS = 5
"""Units that a level needs before the bootstrap resamples it."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One split of the sections.

    Attributes
    ----------
    train, test
        Indices of sections.
    same_patient
        Whether a patient of the test sections is also in training; printed with every figure.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    same_patient: bool


def leave_one_out(patients: Sequence[str], level: SplitLevel) -> list[Fold]:
    """Return folds that leave out one section, or all sections of one patient.

    Parameters
    ----------
    patients
        Patient of each section.
    level
        ``section`` or ``patient``.
    """
    units = list(range(len(patients))) if level == "section" else list(patients)
    folds = []
    for unit in dict.fromkeys(units):
        test = tuple(i for i, u in enumerate(units) if u == unit)
        train = tuple(i for i, u in enumerate(units) if u != unit)
        if train:
            seen = {patients[i] for i in train}
            folds.append(Fold(train, test, any(patients[i] in seen for i in test)))
    return folds


def bootstrap_weights(
    *,
    patients: NDArray[np.str_],
    sections: NDArray[np.str_],
    blocks: NDArray[np.int64],
    members: int,
    seed: int,
) -> tuple[NDArray[np.float32], str]:
    """Return how often each member sees each spot, and the level that was resampled.

    The highest level with at least five units is resampled: patients, else sections, else spatial blocks. What lies
    below travels with its unit, so that members differ as much as new patients (sections, places) would make them.

    Parameters
    ----------
    patients, sections
        (spot,) names.
    blocks
        (spot,) spatial block within the section.
    members, seed
        Number of resamples and their seed.

    Returns
    -------
    tuple
        (member, spot) float32 and ``patient``, ``section`` or ``spatial block``.
    """
    places = np.char.add(np.char.add(sections.astype(str), "|"), blocks.astype(str))
    for level, labels in (("patient", patients), ("section", sections), ("spatial block", places)):
        _, unit = np.unique(labels, return_inverse=True)
        n = int(unit.max()) + 1
        if n >= MIN_UNITS or level == "spatial block":
            break
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=members)
    return draws[:, unit.ravel()].astype(np.float32), level


def spatial_blocks(positions_um: NDArray[np.float64], side_um: float = BLOCK_UM) -> NDArray[np.int64]:
    """Return the square block of each spot, numbered within the section, (spot,)."""
    cells = np.floor((positions_um - positions_um.min(axis=0)) / side_um).astype(np.int64)
    return np.asarray(np.unique(cells, axis=0, return_inverse=True)[1]).ravel()
