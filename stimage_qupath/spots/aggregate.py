"""Small bins and single cells added up to discs of a spot's size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from stimage_qupath.config import MOST_AGGREGATE_UM
from stimage_qupath.spots.section import Section


def aggregate(section: Section, *, diameter_um: float, mpp: float) -> Section:
    """Return discs on a honeycomb that touch each other, each with the summed counts of what lies in it.

    The honeycomb stands on the image's corner, so that it does not depend on which cells were found. Discs leave a
    tenth of the area between them (1 - pi / sqrt 12): a bin belongs to one disc or none. Sections whose places are
    further apart than half a disc stay as they are; spots cannot be made smaller.

    Parameters
    ----------
    section
        Bins or cells.
    diameter_um
        Of a disc; 55 as on Visium.
    mpp
        um per level-0 pixel.

    Raises
    ------
    ValueError
        The diameter is not between 0 and 500 um, or the section holds proteins, which do not add up.
    """
    if not 0 < diameter_um <= MOST_AGGREGATE_UM:
        msg = f"expected discs of up to {MOST_AGGREGATE_UM:g} um, found {diameter_um}"
        raise ValueError(msg)
    if section.kind != "counts":
        msg = f"expected counts to add up in section {section.name}, found a table of kind {section.kind}"
        raise ValueError(msg)
    if spacing_px(section.positions_px) * mpp > diameter_um / 2:
        note = f"spots are too far apart to be added up to discs of {diameter_um:g} um; they stay as measured"
        return replace(section, notes=(*section.notes, note))
    disc, centre = honeycomb(section.positions_px, pitch=diameter_um / mpp)
    inside = np.linalg.norm(section.positions_px - centre, axis=1) <= diameter_um / mpp / 2
    _, first, number = np.unique(disc[inside], axis=0, return_index=True, return_inverse=True)
    rows = np.flatnonzero(inside)
    add = sparse.csr_matrix((np.ones(len(rows)), (number.ravel(), rows)), shape=(len(first), len(inside)))
    note = f"{len(rows)} of {len(inside)} bins or cells added up to {len(first)} discs of {diameter_um:g} um"
    return replace(
        section,
        counts=sparse.csr_matrix(add @ section.counts),
        positions_px=centre[rows[first]],
        notes=(*section.notes, note),
    )


def honeycomb(points: NDArray[np.float64], *, pitch: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the honeycomb point nearest to each place: its number (two integers) and its x, y.

    A honeycomb is two rectangular grids of ``pitch`` x ``pitch`` sqrt 3, one shifted by half a step each way.

    Parameters
    ----------
    points
        (place, 2) x and y.
    pitch
        Distance between neighbouring points of the honeycomb.
    """
    step = np.array([pitch, pitch * np.sqrt(3)])
    even = np.rint(points / step)
    odd = np.floor(points / step) + 0.5
    nearer = ((points - odd * step) ** 2).sum(axis=1) < ((points - even * step) ** 2).sum(axis=1)
    chosen = np.where(nearer[:, None], odd, even)
    return (2 * chosen).astype(np.int64), chosen * step


def spacing_px(points: NDArray[np.float64]) -> float:
    """Return the median distance to the nearest neighbour; infinite for a single place."""
    if len(points) < 2:
        return float("inf")
    sample = points[:: max(1, len(points) // 2000)]
    distance, _ = cKDTree(points).query(sample, k=2)
    return float(np.median(distance[:, 1]))
