"""One region for each nucleus, and one of two blocks."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from stimage_qupath.nuclei.ownership import RegionOwners, Seams
from stimage_qupath.results import Region


def owners_of(points: list[tuple[float, float]], *geometries: BaseGeometry) -> list[list[int]]:
    """Return for each point the regions that own it."""
    owners = RegionOwners([Region(id=str(i), geometry=geometry) for i, geometry in enumerate(geometries)])
    owned = [owners.owned(i, np.array(points)) for i in range(len(geometries))]
    return [[i for i, mask in enumerate(owned) if mask[k]] for k in range(len(points))]


def nuclei(*discs: tuple[float, float, float]) -> NDArray[np.object_]:
    return np.array([shapely.Point(x, y).buffer(radius) for x, y, radius in discs], dtype=object)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_smallest_region_owns_a_nucleus_whatever_the_order(order: tuple[int, ...]) -> None:
    nested = [shapely.box(0, 0, 100, 100), shapely.box(10, 10, 60, 60), shapely.box(20, 20, 30, 30)]
    owned = owners_of([(90, 90), (50, 50), (25, 25), (200, 5)], *(nested[i] for i in order))
    assert owned == [[order.index(0)], [order.index(1)], [order.index(2)], []]


def test_of_equal_regions_the_first_owns() -> None:
    assert owners_of([(5, 5)], shapely.box(0, 0, 10, 10), shapely.box(0, 0, 10, 10)) == [[0]]


def test_overlapping_regions_share_nothing() -> None:
    assert owners_of([(15, 5), (5, 5), (35, 5)], shapely.box(0, 0, 20, 10), shapely.box(10, 0, 40, 10)) == [
        [0],
        [0],
        [1],
    ]


def test_a_hole_belongs_to_nobody_or_to_what_lies_in_it() -> None:
    ring = shapely.box(0, 0, 100, 100).difference(shapely.box(40, 40, 60, 60))
    assert owners_of([(50, 50), (10, 10), (45, 45)], ring, shapely.box(48, 48, 55, 55)) == [[1], [0], []]


def test_two_blocks_keep_one_copy_of_a_nucleus_on_their_seam() -> None:
    seams = Seams(size_px=100, reach_px=20)
    assert seams.unseen(0, 0, nuclei((50, 50, 8), (99.5, 50, 8))).tolist() == [True, True]
    assert seams.unseen(0, 1, nuclei((99.5, 50, 8), (150, 50, 8))).tolist() == [False, True]
    assert seams.unseen(1, 0, nuclei((50, 101, 8))).tolist() == [True]


def test_overlap_of_half_the_smaller_decides() -> None:
    seams = Seams(size_px=100, reach_px=20)
    seams.unseen(0, 0, nuclei((96, 50, 6), (97, 80, 10)))
    later = nuclei((103, 50, 6), (99, 80, 3), (102, 20, 6))  # little overlap; swallowed; none
    assert seams.unseen(0, 1, later).tolist() == [True, False, True]


def test_a_nucleus_on_a_corner_is_kept_once_by_four_blocks() -> None:
    seams = Seams(size_px=100, reach_px=20)
    corner = nuclei((100, 100, 7))
    kept = [seams.unseen(row, col, corner).item() for row in (0, 1) for col in (0, 1)]
    assert kept == [True, False, False, False]


def test_the_fate_of_a_nucleus_does_not_depend_on_far_blocks() -> None:
    alone, full = Seams(size_px=100, reach_px=20), Seams(size_px=100, reach_px=20)
    for row, col in [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]:
        full.unseen(row, col, nuclei((col * 100 + 99, row * 100 + 99, 9)))
    for row, col in [(0, 0), (0, 1), (0, 2), (1, 0)]:
        alone.unseen(row, col, nuclei((col * 100 + 99, row * 100 + 99, 9)))
    found = nuclei((101, 102, 9), (150, 150, 9), (199, 199, 9))
    assert alone.unseen(1, 1, found).tolist() == full.unseen(1, 1, found).tolist() == [False, True, True]


def test_a_neighbour_counts_by_what_it_found_not_by_what_it_kept() -> None:
    seams = Seams(size_px=100, reach_px=40)
    first, second, third = nuclei((99, 99, 10), (103, 102, 10), (107, 106, 10))
    assert seams.unseen(0, 0, np.array([first], dtype=object)).all()
    assert not seams.unseen(0, 1, np.array([second], dtype=object)).any()
    assert not seams.unseen(1, 0, np.array([third], dtype=object)).any()


def test_blocks_without_nuclei_are_no_trouble() -> None:
    seams = Seams(size_px=100, reach_px=20)
    assert seams.unseen(0, 0, np.empty(0, dtype=object)).tolist() == []
    assert seams.unseen(0, 1, nuclei((101, 50, 8))).tolist() == [True]
