"""A slide in the stains of another, estimated over the whole slide."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stimage_qupath.errors import ImageError
from stimage_qupath.regions.stain_overview import NormalisedSlide, fit_target, normalised, tissue_pixels
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.stain_normalisation import Appearance


@pytest.fixture(scope="module")
def target():
    rng = np.random.default_rng(0)
    return Appearance.of_pixels(rng.integers(60, 220, (5000, 3)).astype(np.uint8), "reinhard")


def test_pixels_are_of_tissue_alone(tissue_slide):
    with open_slide(tissue_slide.path) as slide:
        pixels = tissue_pixels(slide, tissue_slide.mpp)
    assert len(pixels) >= 1000
    glass = pixels.min(axis=1) > 235
    assert glass.mean() < 0.06  # closing gaps takes in a rim of 10 um around 0.5 x 0.7 mm


def test_regions_come_normalised_whatever_their_size(tissue_slide, target):
    with open_slide(tissue_slide.path) as plain, normalised(open_slide(tissue_slide.path), 0.5, target) as slide:
        assert isinstance(slide, NormalisedSlide)
        box = slide.read_region(100, 200, width=64, height=48)
        raw = plain.read_region(100, 200, width=64, height=48)
        np.testing.assert_array_equal(box, slide.normaliser.apply(raw))
        assert np.abs(box.astype(int) - raw).mean() > 5
        np.testing.assert_array_equal(slide.read_region(110, 210, width=20, height=20), box[10:30, 10:30])
        assert (slide.read_region(-500, -500, width=8, height=8) == 255).all()
        half = slide.read_region(100, 200, width=32, height=24, downsample=2)
        np.testing.assert_array_equal(
            half, slide.normaliser.apply(plain.read_region(100, 200, width=32, height=24, downsample=2))
        )
        assert slide.content_id() != plain.content_id()
        assert (slide.width, slide.height, slide.mpp, slide.levels) == (
            plain.width,
            plain.height,
            plain.mpp,
            plain.levels,
        )


def test_without_a_target_the_slide_stays_itself(tissue_slide):
    with open_slide(tissue_slide.path) as slide:
        assert normalised(slide, 0.5, None) is slide


def test_the_target_is_of_all_slides_alike():
    dark, light = np.full((9000, 3), 90, np.uint8), np.full((3000, 3), 180, np.uint8)
    dark[::2], light[::2] = 70, 200
    found = fit_target([dark, light], "reinhard")
    alone = [Appearance.of_pixels(one, "reinhard").lab_mean[0] for one in (dark, light)]
    assert found.lab_mean[0] == pytest.approx(np.mean(alone), abs=1)


def test_a_slide_without_tissue_is_said_to_be_one(tmp_path, target):
    Image.fromarray(np.full((600, 600, 3), 244, np.uint8)).save(tmp_path / "glass.png")
    with (
        open_slide(tmp_path / "glass.png") as slide,
        pytest.raises(ImageError, match="expected at least 1000 pixels of"),
    ):
        normalised(slide, 0.5, target)
