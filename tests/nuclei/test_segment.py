"""Regions to cells: every nucleus once, in the right region, whatever the blocks, threads and annotations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from stimage_qupath import names
from stimage_qupath.errors import CancelledError
from stimage_qupath.nuclei.classical import ClassicalSegmenter
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.results import Cells, Region
from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.reader import open_slide

FIELD_UM = 300.0
RADIUS_UM = 5.0


def regions(*geometries: BaseGeometry) -> list[Region]:
    return [Region(id=f"region {i}", geometry=geometry) for i, geometry in enumerate(geometries)]


def cells_of(slide: Slide, mpp: float, selected: Sequence[Region], segmenter: Any, **options: Any) -> list[Cells]:
    """Return the cells of each region, all blocks together."""
    chunks = list(segment_regions(slide, mpp, selected, segmenter, image_id="image", **options))
    indices = [chunk.region_index for chunk in chunks]
    assert indices == sorted(indices)
    return [joined([chunk.cells for chunk in chunks if chunk.region_index == index]) for index in range(len(selected))]


def joined(parts: list[Cells]) -> Cells:
    assert all(len(part) > 0 for part in parts)
    return Cells(
        ids=np.concatenate([np.empty(0, object), *(part.ids for part in parts)]),
        polygons=np.concatenate([np.empty(0, object), *(part.polygons for part in parts)]),
        centroids_px=np.concatenate([np.empty((0, 2)), *(part.centroids_px for part in parts)]),
        measurements={
            name: np.concatenate([part.measurements[name] for part in parts]) for name in parts[0].measurements
        }
        if parts
        else {},
    )


def discs_on_seams(mpp: float, blocks_um: Sequence[float]) -> NDArray[np.float64]:
    """Return discs (x, y, radius; level-0 px) on corners and edges of each grid, and others in between."""
    random = np.random.default_rng(5)
    wanted = []
    for size in blocks_um:
        step = round(size / 0.5) * 0.5  # whole working pixels
        for i, j in itertools.product(range(1, int(FIELD_UM / step) + 1), repeat=2):
            wanted += [(i * step, j * step), (i * step + 0.2, (j - 0.4) * step), ((i - 0.4) * step, j * step - 0.2)]
    wanted += random.uniform(0, FIELD_UM, (400, 2)).tolist()
    kept: list[tuple[float, float]] = []
    for x, y in wanted:
        inside = min(x, y) > 3 * RADIUS_UM and max(x, y) < FIELD_UM - 3 * RADIUS_UM
        if inside and all(np.hypot(x - a, y - b) > 3.5 * RADIUS_UM for a, b in kept):
            kept.append((x, y))
    return np.column_stack([np.array(kept), np.full(len(kept), RADIUS_UM)]) / mpp


def assert_found_once(cells: Cells, discs: NDArray[np.float64], *, within_px: float) -> None:
    """Check that discs and cells are the same places, one for one."""
    distance = np.hypot(*(cells.centroids_px[:, None] - discs[:, :2]).transpose(2, 0, 1))
    assert distance.shape == (len(discs), len(discs))
    assert sorted(distance.argmin(axis=1).tolist()) == list(range(len(discs)))
    assert distance.min(axis=1).max() < within_px


BLOCKS_UM = (64.0, 100.3, 171.0)


@pytest.mark.parametrize("mpp", [0.25, 0.4567, 0.69])
def test_every_disc_once_at_every_block_size_and_number_of_threads(
    disc_slide: Callable[..., Any], dark_parts: Callable[..., Any], mpp: float
) -> None:
    side, discs = round(FIELD_UM / mpp), discs_on_seams(mpp, BLOCKS_UM)
    slide = disc_slide(side, side, mpp, discs)
    whole = regions(shapely.box(0, 0, side, side))
    outlines = []
    for block_um, threads in zip(BLOCKS_UM, (1, 4, 2), strict=True):
        (cells,) = cells_of(slide, mpp, whole, dark_parts(), block_um=block_um, threads=threads)
        assert_found_once(cells, discs, within_px=0.5)
        assert cells.measurements[names.AREA] == pytest.approx(np.pi * RADIUS_UM**2, rel=0.06)
        outlines.append({polygon.wkb for polygon in shapely.set_precision(cells.polygons, 0.01)})
    assert outlines[0] == outlines[1] == outlines[2]


@pytest.mark.parametrize("mpp", [0.25, 0.69])
def test_the_classical_segmenter_finds_every_disc_once(disc_slide: Callable[..., Any], mpp: float) -> None:
    side, discs = round(FIELD_UM / mpp), discs_on_seams(mpp, (100.3,))
    slide = disc_slide(side, side, mpp, discs)
    (cells,) = cells_of(slide, mpp, regions(shapely.box(0, 0, side, side)), ClassicalSegmenter(), block_um=100.3)
    assert_found_once(cells, discs, within_px=0.5)
    assert cells.measurements[names.AREA] == pytest.approx(np.pi * RADIUS_UM**2, rel=0.15)
    assert all(np.isfinite(values).all() for values in cells.measurements.values())


@pytest.fixture(scope="module")
def lattice() -> NDArray[np.float64]:
    """Return a disc of 5 um every 30 um on 300 um, for a pixel of 0.5 um."""
    x, y = np.meshgrid(np.arange(10) * 60.0 + 30, np.arange(10) * 60.0 + 30)
    return np.column_stack([x.ravel(), y.ravel(), np.full(100, 10.0)])


@pytest.fixture(scope="module")
def lattice_slide(disc_slide: Callable[..., Any], lattice: NDArray[np.float64]) -> Any:
    """Return the lattice, painted."""
    return disc_slide(600, 600, 0.5, lattice)


@pytest.fixture(scope="module")
def find(lattice_slide: Any, dark_parts: Callable[..., Any]) -> Callable[..., list[Cells]]:
    """Return a function that finds the cells of geometries on the lattice."""

    def run(*geometries: BaseGeometry, **options: Any) -> list[Cells]:
        settings = {"block_um": 64.0} | options
        return cells_of(lattice_slide, 0.5, regions(*geometries), dark_parts(), **settings)

    return run


RING = shapely.box(0, 0, 600, 600).difference(shapely.box(120, 120, 420, 420))
L_SHAPE = shapely.box(0, 0, 600, 120).union(shapely.box(0, 0, 120, 600))
APART = shapely.MultiPolygon([shapely.box(5, 5, 115, 115), shapely.box(485, 485, 595, 595)])


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [(RING, 100 - 25), (L_SHAPE, 20 + 16), (APART, 8), (shapely.Point(300, 300).buffer(100), 12)],
    ids=["hole", "L", "multipolygon", "circle"],
)
def test_nuclei_lie_in_the_annotation_and_not_in_its_holes(
    find: Callable[..., list[Cells]], lattice: NDArray[np.float64], geometry: BaseGeometry, expected: int
) -> None:
    (cells,) = find(geometry)
    inside = shapely.contains_xy(geometry, lattice[:, 0], lattice[:, 1])
    assert inside.sum() == expected
    assert_found_once(cells, lattice[inside], within_px=0.5)


def test_nested_regions_share_nothing_and_lose_nothing(find: Callable[..., list[Cells]]) -> None:
    outer, middle, inner = shapely.box(0, 0, 600, 600), shapely.box(50, 50, 370, 370), shapely.box(110, 110, 250, 250)
    found = find(middle, outer, inner)
    assert [len(cells) for cells in found] == [25 - 4, 100 - 25, 4]
    assert len({cell for cells in found for cell in cells.ids}) == 100


def test_a_region_may_leave_the_slide(find: Callable[..., list[Cells]]) -> None:
    (cells,) = find(shapely.box(-500, -500, 100, 100))
    assert len(cells) == 4


def test_a_region_beside_the_slide_has_no_nuclei(find: Callable[..., list[Cells]]) -> None:
    assert [len(cells) for cells in find(shapely.box(2000, 2000, 2100, 2100), shapely.box(0, 0, 60, 60))] == [0, 1]


def test_the_annotation_does_not_change_an_outline(find: Callable[..., list[Cells]]) -> None:
    (everything,) = find(shapely.box(0, 0, 600, 600))
    known = {polygon.wkb for polygon in everything.polygons}
    for geometry in (RING, shapely.box(61, 61, 119, 119), shapely.Point(128, 128).buffer(90)):
        (cells,) = find(geometry)
        assert {polygon.wkb for polygon in cells.polygons} <= known


def test_where_blocks_disagree_the_annotation_does_not_decide(
    disc_slide: Callable[..., Any], dark_parts: Callable[..., Any]
) -> None:
    class Moves:
        """Moves everything 6 px to the left in blocks that see the mark."""

        def label(self, rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
            labels = dark_parts().bound.label(rgb)
            return np.roll(labels, -6, axis=1) if (rgb == (255, 255, 0)).all(axis=-1).any() else labels

    slide = disc_slide(400, 200, 0.5, np.array([[202, 100, 12]]))  # the seam is at 200
    slide.pixels[50, 150] = (255, 255, 0)  # near enough for the left block, too far for the right one
    segmenter = dark_parts(bound=Moves())
    right_of_the_seam = shapely.box(201, 60, 260, 140)
    (whole,) = cells_of(slide, 0.5, regions(shapely.box(0, 0, 400, 200)), segmenter, block_um=100.0)
    (part,) = cells_of(slide, 0.5, regions(right_of_the_seam), segmenter, block_um=100.0)
    assert len(whole) == 1
    assert {polygon.wkb for polygon in part.polygons} == {
        p.wkb for p in whole.polygons[whole.inside(right_of_the_seam)]
    }


def test_equal_runs_are_equal_whatever_the_threads(find: Callable[..., list[Cells]]) -> None:
    one, four = (find(RING, shapely.box(130, 130, 410, 410), threads=threads) for threads in (1, 4))
    for a, b in zip(one, four, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert shapely.equals_exact(a.polygons, b.polygons, tolerance=0).all()
        assert all(np.array_equal(a.measurements[name], b.measurements[name]) for name in a.measurements)


def test_ids_are_uuids_of_image_region_and_place(lattice_slide: Any, dark_parts: Callable[..., Any]) -> None:
    place = shapely.box(0, 0, 250, 250)

    def ids(image_id: str, region_id: str) -> set[str]:
        region = Region(id=region_id, geometry=place)
        chunks = segment_regions(lattice_slide, 0.5, [region], dark_parts(), image_id=image_id)
        return {cell for chunk in chunks for cell in chunk.cells.ids}

    first = ids("a", "r")
    assert len(first) == 16
    assert {UUID(cell).version for cell in first} == {5}
    assert first == ids("a", "r")
    assert first.isdisjoint(ids("b", "r") | ids("a", "s"))


def test_neighbouring_regions_do_not_segment_a_block_twice(
    disc_slide: Callable[..., Any], lattice: NDArray[np.float64], dark_parts: Callable[..., Any]
) -> None:
    slide = disc_slide(600, 600, 0.5, lattice)
    cells_of(slide, 0.5, regions(shapely.box(50, 50, 70, 70), shapely.box(80, 80, 95, 95)), dark_parts(), block_um=100)
    assert len(slide.reads) == 1


def test_of_a_block_only_what_the_regions_ask_for_is_read_and_found_the_same(
    disc_slide: Callable[..., Any], lattice: NDArray[np.float64], dark_parts: Callable[..., Any]
) -> None:
    slide = disc_slide(600, 600, 0.5, lattice)
    corner, other = shapely.box(340, 340, 460, 460), shapely.box(470, 290, 590, 410)
    (whole,) = cells_of(slide, 0.5, regions(shapely.box(0, 0, 600, 600)), dark_parts(), block_um=300)
    slide.reads.clear()
    found = cells_of(slide, 0.5, regions(corner, other), dark_parts(), block_um=300)
    (read,) = slide.reads
    assert min(read) > 200  # its left upper corner
    for cells, geometry in zip(found, (corner, other), strict=True):
        assert len(cells) > 1
        assert {p.wkb for p in cells.polygons} == {p.wkb for p in whole.polygons[whole.inside(geometry)]}


def test_blocks_of_glass_and_blocks_off_the_slide_are_not_segmented(
    array_slide: Callable[..., Any], dark_parts: Callable[..., Any]
) -> None:
    class Refuses:
        def label(self, rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
            pytest.fail("glass was segmented")

    slide = array_slide(np.full((400, 400, 3), 245, np.uint8), 0.5)
    everywhere = regions(shapely.box(-300, -300, 700, 700))
    assert len(cells_of(slide, 0.5, everywhere, dark_parts(bound=Refuses()), block_um=100)[0]) == 0
    assert len(slide.reads) == 4


def test_progress_counts_blocks_to_the_end(lattice_slide: Any, dark_parts: Callable[..., Any]) -> None:
    told: list[tuple[str, int, int, str]] = []
    chosen = regions(shapely.box(0, 0, 300, 300), shapely.box(400, 400, 500, 500))
    chunks = list(
        segment_regions(
            lattice_slide,
            0.5,
            chosen,
            dark_parts(),
            image_id="image",
            block_um=64.0,
            on_progress=lambda *what: told.append(what),
        )
    )
    assert [done for _, done, _, _ in told] == list(range(1, told[0][2] + 1))
    assert {stage for stage, *_ in told} == {"nuclei"}
    assert told[-1][3] == f"{sum(len(chunk.cells) for chunk in chunks)} nuclei"


def test_cancelling_stops_at_the_next_block(lattice_slide: Any, dark_parts: Callable[..., Any]) -> None:
    answers = itertools.chain([False] * 4, itertools.repeat(True))
    chunks = segment_regions(
        lattice_slide,
        0.5,
        regions(shapely.box(0, 0, 600, 600)),
        dark_parts(),
        image_id="image",
        block_um=64.0,
        cancelled=lambda: next(answers),
    )
    assert [len(next(chunks).cells) > 0 for _ in range(3)] == [True] * 3  # asked once before the first block
    with pytest.raises(CancelledError, match="cancelled"):
        next(chunks)


@pytest.mark.parametrize("name", ["mpp", "block_um", "threads", "simplify_um"])
def test_sizes_that_are_none_are_refused_before_the_first_block(
    lattice_slide: Any, dark_parts: Callable[..., Any], name: str
) -> None:
    arguments: dict[str, Any] = {"slide": lattice_slide, "mpp": 0.5, "regions": [], "segmenter": dark_parts()}
    with pytest.raises(ValueError, match=f"expected {name} above 0, found 0"):
        segment_regions(**(arguments | {"image_id": "image", name: 0}))


def test_real_nuclei_do_not_depend_on_blocks_or_annotations(real_data: Path) -> None:
    path = real_data / "nuclei_histolytics_bsd" / "src" / "histolytics" / "data" / "hgsc_nest.jpg"
    square, disc = shapely.box(300, 300, 900, 900), shapely.Point(512, 512).buffer(150)
    with open_slide(path) as slide:
        (large,) = cells_of(slide, 0.5, regions(square), ClassicalSegmenter(), block_um=512.0)
        (small,) = cells_of(slide, 0.5, regions(square), ClassicalSegmenter(), block_um=128.0)
        (inner,) = cells_of(slide, 0.5, regions(disc), ClassicalSegmenter(), block_um=128.0)
    outlines = [{p.wkb for p in shapely.set_precision(cells.polygons, 0.01)} for cells in (large, small, inner)]
    assert len(large) > 200
    assert outlines[0] == outlines[1]
    assert outlines[2] == {p.wkb for p in shapely.set_precision(small.polygons[small.inside(disc)], 0.01)}
