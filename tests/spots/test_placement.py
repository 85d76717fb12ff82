"""Whether spots lie on tissue, and what is said when they do not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.spots.placement import Placement, check_placement, place_sections, placement
from stimage_qupath.spots.readers import read_dataset
from stimage_qupath.spots.section import Section

TISSUE = (slice(300, 500), slice(900, 1500))
"""Rows and columns of a flat piece of tissue on an image of 1600 x 800 px."""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    pixels = np.full((800, 1600, 3), (243, 242, 244), np.float64)
    rng = np.random.default_rng(0)
    pixels[TISSUE] = np.array([200, 130, 180]) + rng.normal(0, 12, (200, 600, 1))
    pixels += rng.normal(0, 2, pixels.shape)
    path = tmp_path_factory.mktemp("he") / "he.png"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def grid(x, y):
    return np.stack(np.meshgrid(np.linspace(*x, 12), np.linspace(*y, 6)), axis=-1).reshape(-1, 2)


def section(image, points):
    return Section("S", "P", image, 4.0, ("A",), sparse.csr_matrix(np.ones((len(points), 1))), points)


ON = grid((930, 1470), (330, 470))


def test_spots_on_tissue_pass_without_a_word(image):
    with open_slide(image) as slide:
        found = placement(ON, slide, 4.0)
    assert found.on_tissue == 1
    assert found.tissue == pytest.approx(200 * 600 / (800 * 1600), abs=0.02)
    (placed,) = place_sections([section(image, ON)])
    assert placed.notes == ()


def test_half_the_spots_beside_the_tissue(image):
    with open_slide(image) as slide:
        found = placement(np.concatenate([ON, grid((50, 400), (20, 200))]), slide, 4.0)
    assert found.on_tissue == pytest.approx(0.5)
    assert found.inside == 1


def test_swapped_axes_are_said_with_the_way_out(image):
    with pytest.raises(UsageError, match=r"found 0% of them there and 100% with x and y exchanged; write yx into"):
        place_sections([section(image, ON[:, ::-1])])


def test_spots_of_a_larger_image(image):
    with pytest.raises(UsageError, match="within its image of 1600 x 800 px, found 0% of them; pass the full image"):
        place_sections([section(image, ON * 10)])


def test_spots_on_glass(image):
    (placed,) = place_sections([section(image, grid((50, 400), (20, 200)))])
    assert placed.notes == ("only 0% of the spots lie on tissue; check that positions and image belong together",)


def test_bins_are_added_up_on_the_way(image):
    points = np.stack(np.meshgrid(np.arange(1000.0, 1100), np.arange(350.0, 450)), axis=-1).reshape(-1, 2)
    (placed,) = place_sections([section(image, points)], aggregate_um=80)
    assert placed.notes[-1].endswith("discs of 80 um")
    assert placed.totals.max() == pytest.approx(np.pi * 10**2, rel=0.06)


@pytest.mark.parametrize(
    ("on", "swapped", "is_swapped"),
    [(0.99, 0.80, False), (0.80, 0.99, True), (0.86, 0.64, False), (0.93, 0.99, False), (0.0, 0.0, False)],
)
def test_when_axes_look_swapped(on, swapped, is_swapped):
    """The first two: section C2 of her2st as it is, and exchanged."""
    assert Placement(inside=1, on_tissue=on, swapped_on_tissue=swapped, tissue=0.2).looks_swapped == is_swapped


def test_little_tissue_is_no_fault_where_spots_cannot_do_better():
    assert check_placement(Placement(1, 0.3, 0.3, 0.05), "S", "1 x 1") is None
    assert check_placement(Placement(1, 0.2, 0.2, 0.05), "S", "1 x 1") is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["B4", "C2", "C3", "C4", "C6"])
def test_real_sections_lie_on_tissue_and_exchanged_ones_are_found_out(real_data, tmp_path, name):
    her2st = real_data / "her2st"
    row = f"{name},P,{her2st}/images/{name}.jpg,{her2st}/counts/{name}.tsv.gz,{her2st}/spots/{name}_selection.tsv"
    table = tmp_path / "table.csv"
    table.write_text(f"section,patient,image,counts,spots,platform,mpp,axes\n{row},legacy_st,0.69,xy\n")
    (placed,) = place_sections(read_dataset(table))
    assert placed.notes == ()
    table.write_text(f"section,patient,image,counts,spots,platform,mpp,axes\n{row},legacy_st,0.69,yx\n")
    with pytest.raises(UsageError, match="with x and y exchanged"):
        place_sections(read_dataset(table))
