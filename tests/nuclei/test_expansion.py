"""Cells around nuclei: as far as asked, up to the middle between two, and alike from every block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.nuclei.classical import ClassicalSegmenter
from stimage_qupath.nuclei.expansion import cell_measurements, cell_outlines
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.results import Region
from stimage_qupath.slide.reader import open_slide

EVERYWHERE = (10_000, 10_000)


def expand(nuclei: Any, distance: float = 10.0, *, size: tuple[int, int] = EVERYWHERE, **options: Any) -> Any:
    array = np.array(list(nuclei), dtype=object)
    kept = options.get("kept", np.arange(len(array)))
    return cell_outlines(array, kept, distance_px=distance, spacing_px=0.5, slide_size=size)


def disc(x: float, y: float, radius: float) -> shapely.Polygon:
    return shapely.Point(x, y).buffer(radius, quad_segs=32)


def shared(geometries: NDArray[np.object_]) -> NDArray[np.float64]:
    """Return the area that each pair of geometries shares, (pair,)."""
    one, other = shapely.STRtree(geometries).query(geometries, predicate="intersects")
    return np.asarray(shapely.area(shapely.intersection(geometries[one], geometries[other]))[one < other])


def test_a_lone_nucleus_grows_by_the_distance_on_all_sides() -> None:
    (cell,) = expand([disc(100, 100, 8)])
    assert cell.area == pytest.approx(np.pi * 18**2, rel=0.01)
    assert cell.bounds == pytest.approx((82, 82, 118, 118), abs=0.1)


def test_two_equal_discs_meet_on_the_line_between_them() -> None:
    left, right = expand([disc(100, 100, 8), disc(124, 100, 8)])
    assert left.bounds[2] == pytest.approx(112, abs=0.05)
    assert right.bounds[0] == pytest.approx(112, abs=0.05)
    half = shapely.intersection(disc(100, 100, 18), shapely.box(0, 0, 112, 200)).area
    assert left.area == pytest.approx(half, rel=0.01)


def test_the_border_follows_the_nearest_outline_and_not_the_nearest_centre() -> None:
    """A point of the middle between a disc of radius r at 0 and one of radius R at d: |x| - r = |x - d| - R."""
    small, _ = expand([disc(100, 100, 4), disc(130, 100, 14)], 30)
    assert small.bounds[2] > 100 + (4 + 26 / 2 - 14 / 2) - 1  # on the axis: 4 + gap / 2 = 10
    ring = shapely.get_coordinates(small.exterior)
    from_small, from_large = np.hypot(*(ring - (100, 100)).T) - 4, np.hypot(*(ring - (130, 100)).T) - 14
    border = from_large < 29
    assert border.sum() > 10
    np.testing.assert_allclose(from_small[border], from_large[border], atol=0.2)


def test_no_cell_leaves_the_slide_but_with_its_nucleus() -> None:
    inside, over = expand([disc(8, 50, 5), disc(98, 50, 5)], size=(100, 100))
    assert inside.bounds[0] == pytest.approx(0)
    assert over.bounds[2] == pytest.approx(103, abs=0.1)
    assert shapely.intersection(over, shapely.box(100, 0, 200, 100)).area == pytest.approx(
        disc(98, 50, 5).intersection(shapely.box(100, 0, 200, 100)).area
    )


def test_touching_and_nested_nuclei_keep_themselves_and_nothing_of_each_other() -> None:
    crescent = disc(100, 100, 20).difference(disc(108, 100, 17))
    nuclei = [crescent, disc(108, 100, 10), shapely.box(80, 120.0, 90, 130), shapely.box(90, 120, 100, 130)]
    cells = expand(nuclei)
    assert shapely.is_valid(cells).all()
    assert (shapely.area(shapely.difference(np.array(nuclei), cells)) < 1e-9).all()
    assert shared(cells).max() < 1e-9


def test_the_same_nucleus_twice_is_two_cells_that_share_it() -> None:
    cells = expand([disc(50, 50, 6), disc(50, 50, 6), disc(80, 50, 6)])
    assert shapely.is_valid(cells).all()
    assert (shapely.area(cells) >= disc(50, 50, 6).area - 1e-9).all()


def test_only_some_of_the_nuclei_get_a_cell_and_all_count() -> None:
    nuclei = np.array([disc(100 + 20.0 * i, 100, 6) for i in range(6)], dtype=object)
    everyone = expand(nuclei)
    for kept in ([0], [2, 3], [5]):
        some = expand(nuclei, kept=np.array(kept))
        assert (shapely.area(shapely.symmetric_difference(some, everyone[kept])) < 1e-6).all()
    assert len(expand(nuclei, kept=np.empty(0, dtype=np.intp))) == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.sampled_from([0.5, 3.0, 12.0]))
def test_cells_of_any_nuclei_hold_theirs_are_valid_and_do_not_overlap(seed: int, n: int, distance: float) -> None:
    rng = np.random.default_rng(seed)
    made: list[Any] = []
    for x, y in rng.uniform(20, 180, (n, 2)):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 14))
        radius = rng.uniform(3, 9, 14)
        ring = shapely.Polygon(np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)]))
        alone = shapely.make_valid(ring).difference(shapely.union_all(made)) if made else shapely.make_valid(ring)
        made += [part for part in shapely.get_parts(alone) if part.geom_type == "Polygon" and part.area > 1]
    nuclei = np.array(made, dtype=object)
    cells = expand(nuclei, distance)
    assert shapely.is_valid(cells).all()
    assert (shapely.get_type_id(cells) == shapely.GeometryType.POLYGON).all()
    assert (shapely.area(shapely.difference(nuclei, cells)) < 1e-6).all()
    assert shared(cells).max(initial=0) < 1e-6 + shared(nuclei).max(initial=0)
    assert (shapely.area(shapely.difference(cells, shapely.buffer(nuclei, distance + 0.01, quad_segs=64))) < 1e-6).all()


def test_measurements_are_those_of_circles_under_qupaths_names() -> None:
    nuclei, cells = np.array([disc(50, 50, 8), disc(90, 50, 8)]), np.array([disc(50, 50, 16), None], dtype=object)
    found = cell_measurements(nuclei, cells, mpp=0.5)
    assert found["Cell: Area µm^2"][0] == pytest.approx(np.pi * 8**2, rel=0.01)
    assert found["Cell: Circularity"][0] == pytest.approx(1, rel=0.01)
    assert found["Cell: Max diameter µm"][0] == pytest.approx(16, rel=0.01)
    assert found["Nucleus/Cell area ratio"][0] == pytest.approx(0.25, rel=0.01)
    assert all(np.isnan(values[1]) for values in found.values())
    assert set(found) <= set(names.TABLE_COLUMN)


def real_cells(path: Path, block_um: float, geometry: Any, expansion_um: float = 5.0) -> dict[str, Any]:
    with open_slide(path) as slide:
        chunks = segment_regions(
            slide,
            0.5,
            [Region(id="r", geometry=geometry)],
            ClassicalSegmenter(),
            image_id="i",
            block_um=block_um,
            expansion_um=expansion_um,
        )
        found = [chunk.cells for chunk in chunks]
    boundaries = [cells.boundaries for cells in found if cells.boundaries is not None]
    return dict(zip(np.concatenate([c.ids for c in found]), np.concatenate(boundaries), strict=True))


@pytest.mark.flow
def test_cells_of_a_real_section_do_not_depend_on_blocks_or_annotations(real_data: Path) -> None:
    path = real_data / "nuclei_histolytics_bsd" / "src" / "histolytics" / "data" / "hgsc_nest.jpg"
    square = shapely.box(300, 300, 700, 700)
    large, small = real_cells(path, 512.0, square), real_cells(path, 130.0, square)
    within = shapely.box(420, 420, 600, 600)
    part = real_cells(path, 130.0, within)
    assert large.keys() == small.keys()
    assert len(large) > 100
    known = {shapely.set_precision(cell, 0.01).normalize().wkb for cell in large.values()}
    assert {shapely.set_precision(cell, 0.01).normalize().wkb for cell in small.values()} == known
    assert {shapely.set_precision(cell, 0.01).normalize().wkb for cell in part.values()} <= known


def test_a_block_without_nuclei_and_glass_are_nothing(disc_slide: Callable[..., Any], dark_parts: Any) -> None:
    slide = disc_slide(400, 200, 0.5, np.array([[50.0, 50, 10], [80, 50, 10]]))
    chunks = segment_regions(
        slide, 0.5, [Region(id="r", geometry=shapely.box(0, 0, 400, 200))], dark_parts(), image_id="i", expansion_um=4.0
    )
    (chunk,) = list(chunks)
    left, right = chunk.cells.boundaries  # 20 px wide, 10 apart: they meet half-way
    assert left.bounds[2] == pytest.approx(65, abs=0.4)
    assert right.bounds[0] == pytest.approx(65, abs=0.4)
    assert left.bounds[0] == pytest.approx(32, abs=0.5)


@pytest.mark.parametrize("expansion_um", [-1.0, np.inf, np.nan])
def test_a_distance_that_is_none_is_refused(disc_slide: Any, dark_parts: Any, expansion_um: float) -> None:
    slide = disc_slide(40, 40, 0.5, np.empty((0, 3)))
    with pytest.raises(ValueError, match="expected expansion_um of at least 0"):
        segment_regions(slide, 0.5, [], dark_parts(), image_id="i", expansion_um=expansion_um)
