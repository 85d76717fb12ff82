"""The grid of blocks: anchored at the slide, complete, without a block too many."""

from __future__ import annotations

import math

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from stimage_qupath.regions.tiles import Block, blocks_over


def places(geometry: BaseGeometry, size_px: float) -> list[tuple[int, int]]:
    return [(block.row, block.col) for block in blocks_over(geometry, size_px=size_px)]


def test_a_rectangle_on_the_grid_needs_its_own_blocks_row_by_row() -> None:
    assert places(shapely.box(100, 200, 300, 400), 100) == [(2, 1), (2, 2), (3, 1), (3, 2)]


def test_a_block_says_where_its_core_is() -> None:
    (block,) = blocks_over(shapely.box(80, 40, 110, 50), size_px=37.5)
    assert block == Block(row=1, col=2, x=75.0, y=37.5, width=37.5, height=37.5)


def test_blocks_that_only_touch_are_left_out() -> None:
    triangle = shapely.Polygon([(100, 100), (200, 200), (100, 200)])  # its corner touches block (2, 2), its side (1, 0)
    assert places(triangle, 100) == [(1, 1)]


def test_an_l_shape_skips_the_block_in_its_corner() -> None:
    l_shape = shapely.box(0, 0, 290, 90).union(shapely.box(0, 0, 90, 290))
    assert places(l_shape, 100) == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]


def test_a_hole_that_swallows_a_block_skips_it() -> None:
    ring = shapely.box(0, 0, 300, 300).difference(shapely.box(95, 95, 205, 205))
    assert (1, 1) not in places(ring, 100)
    assert len(places(ring, 100)) == 8


def test_parts_of_a_multipolygon_far_apart_need_nothing_in_between() -> None:
    parts = shapely.MultiPolygon([shapely.box(10, 10, 20, 20), shapely.box(990, 10, 995, 20)])
    assert places(parts, 100) == [(0, 0), (0, 9)]


def test_blocks_left_of_the_slide_have_negative_columns() -> None:
    assert places(shapely.box(-50, 10, 50, 20), 100) == [(0, -1), (0, 0)]


def test_the_grid_does_not_depend_on_the_geometry() -> None:
    whole = set(blocks_over(shapely.box(0, 0, 1000, 1000), size_px=123.4))
    assert set(blocks_over(shapely.Point(400, 600).buffer(150), size_px=123.4)) < whole


def test_a_geometry_without_area_needs_no_block() -> None:
    assert places(shapely.Polygon(), 100) == []


@settings(deadline=None, max_examples=40)
@given(
    centre=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    radius=st.floats(1, 400),
    size=st.floats(40, 300),
)
def test_blocks_are_exactly_those_that_share_area(centre: tuple[float, float], radius: float, size: float) -> None:
    disc = shapely.Point(centre).buffer(radius)
    found = list(blocks_over(disc, size_px=size))
    cores = [shapely.box(b.x, b.y, b.x + b.width, b.y + b.height) for b in found]
    covered = sum(disc.intersection(core).area for core in cores)
    assert covered == pytest.approx(disc.area, rel=1e-9)
    assert all(disc.intersection(core).area > 0 for core in cores)
    assert [(b.row, b.col) for b in found] == sorted({(b.row, b.col) for b in found})


@pytest.mark.parametrize("size", [0.0, -1.0, math.inf, math.nan])
def test_a_size_that_is_none_is_refused_at_once(size: float) -> None:
    with pytest.raises(ValueError, match=r"expected a block size above 0 px, found"):
        blocks_over(shapely.box(0, 0, 1, 1), size_px=size)


def test_a_block_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a Block of positive size, found 0 x 5 px"):
        Block(row=0, col=0, x=0, y=0, width=0, height=5)
