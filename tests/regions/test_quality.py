"""Focus, tissue and pen, on pictures that were blurred and drawn on by formula."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from stimage_qupath.regions.quality import QualityMap, SlideQuality, blur_map
from stimage_qupath.regions.tissue_mask import ink_mask
from stimage_qupath.slide.reader import open_slide

GLASS = (243, 242, 244)


def tissue(height, width, *, mpp=2.0, seed=0):
    """Return nuclei of 8 um on pink."""
    rng = np.random.default_rng(seed)
    dots = (rng.random((height, width)) < 0.004 * mpp**2).astype(float)
    cover = ndimage.gaussian_filter(dots, 2.0 / mpp) * 2 * np.pi * (2.0 / mpp) ** 2
    cover = np.clip(cover, 0, 1)[..., None]
    picture = (1 - cover) * np.array([224.0, 165, 198]) + cover * np.array([95.0, 60, 145])
    return picture + rng.normal(0, 2, (height, width, 3))


def as_bytes(picture):
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def blurred(picture, um, *, mpp=2.0):
    return ndimage.gaussian_filter(picture, (um / mpp, um / mpp, 0)) if um else picture


def test_blur_rises_with_the_gaussian_and_passes_the_limit_between_1_and_4_um():
    values = [np.nanmedian(blur_map(as_bytes(blurred(tissue(200, 200), um)), mpp=2.0)) for um in (0, 1, 2, 3, 4)]
    assert (np.diff(values) > 0).all()
    assert values[0] < 1 < values[4]


def test_blur_does_not_depend_on_the_strength_of_the_stain():
    """Densities of half the stain: the square root of the light that passes."""
    picture = tissue(200, 200, seed=1)
    pale = 255 * np.sqrt(picture.clip(1, 255) / 255)
    full, half = (np.nanmedian(blur_map(as_bytes(p), mpp=2.0)) for p in (picture, pale))
    assert half == pytest.approx(full, rel=0.15)


def test_where_there_is_nothing_to_focus_on_there_is_no_measure():
    assert np.isnan(blur_map(np.full((80, 80, 3), 240, np.uint8), mpp=2.0)).all()
    with pytest.raises(ValueError, match=r"expected an image at 2 um per pixel to measure focus, found 0.5"):
        blur_map(np.full((80, 80, 3), 240, np.uint8), mpp=0.5)


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory):
    """3 x 2 mm at 2 um: sharp tissue on the left, out of focus on the right, a blue pen stroke below."""
    picture = np.full((1000, 1500, 3), GLASS, float)
    picture += np.random.default_rng(5).normal(0, 1, picture.shape)
    picture[100:700, 100:700] = tissue(600, 600)
    picture[100:700, 800:1400] = blurred(tissue(600, 600, seed=2), 6)
    picture[800:860, 100:1400] = (30, 50, 160)
    path = tmp_path_factory.mktemp("quality") / "slide.png"
    Image.fromarray(as_bytes(picture)).save(path)
    return path


def test_places_know_their_tissue_pen_and_focus(slide_file):
    points = np.array([(400, 400), (1100, 400), (750, 830), (750, 950), (100, 400)], float)
    with open_slide(slide_file) as slide:
        found = QualityMap(slide, 2.0).at(points)
    assert found["tissue_fraction"][:2].min() > 0.95
    assert found["tissue_fraction"][2:4].max() < 0.05
    assert found["tissue_fraction"][4] == pytest.approx(0.5, abs=0.15)  # on the edge
    assert found["pen"][2] > 0.9
    assert found["pen"][[0, 1, 3, 4]].max() == 0
    assert found["blur"][0] < 1 < found["blur"][1]
    assert np.isnan(found["blur"][3])


def test_places_do_not_depend_on_the_company_they_are_asked_in(slide_file):
    points = np.random.default_rng(0).uniform((0, 0), (1500, 1000), (50, 2))
    with open_slide(slide_file) as slide:
        together = QualityMap(slide, 2.0).at(points)
        alone = [QualityMap(slide, 2.0).at(points[i : i + 1]) for i in (3, 40)]
    for name, values in together.items():
        np.testing.assert_array_equal(values[[3, 40]], [one[name][0] for one in alone])


def test_blocks_meet_without_a_seam(slide_file):
    """A block ends at 1024 px; focus on its two sides is measured on the same window."""
    with open_slide(slide_file) as slide:
        found = QualityMap(slide, 1.0)
        steps = np.column_stack([np.arange(1000.0, 1050), np.full(50, 400.0)])
        blur = found.at(steps)["blur"]
    assert np.abs(np.diff(blur)).max() < 0.5 * np.median(blur)


def test_the_slide_as_a_whole(slide_file):
    with open_slide(slide_file) as slide:
        found = QualityMap(slide, 2.0).summary()
    assert found.tissue_mm2 == pytest.approx(2 * 1.2**2, rel=0.05)
    assert found.pen_share == pytest.approx(2.6 * 0.12 / (2 * 1.2**2 + 2.6 * 0.12), rel=0.25)
    assert found.blurred_share == pytest.approx(0.5, abs=0.25)
    warnings = found.warnings()
    assert len(warnings) == 2
    assert warnings[0].startswith("pen marks or dirt cover 1")
    assert "are out of focus; scan the slide again" in warnings[1]
    assert found.to_dict()["fields"] == found.fields == 32


def test_a_good_slide_has_no_warnings_and_a_speck_has_one():
    assert SlideQuality(5.0, 0.3, 0.0, 0.1, 32).warnings() == []
    assert SlideQuality(5.0, 0.3, 0.0, None, 0).warnings() == []
    (only,) = SlideQuality(0.02, 0.3, 0.0, None, 0).warnings()
    assert only.startswith("only 0.02 mm2 of tissue")


def test_pixels_too_large_for_focus(slide_file):
    with open_slide(slide_file) as slide:
        found = QualityMap(slide, 4.0)
        assert np.isnan(found.at(np.array([[400.0, 400.0]]))["blur"]).all()
        assert found.summary().blurred_share is None


@pytest.mark.parametrize("colour", [(30, 50, 160), (20, 120, 60), (200, 30, 40), (40, 40, 44)])
def test_ink_of_every_colour(colour):
    picture = np.full((120, 160, 3), GLASS, float)
    picture[20:60, 20:80] = tissue(40, 60)
    picture[80:100, 20:140] = colour
    mask = ink_mask(as_bytes(picture), mpp=8.0)
    assert mask[82:98, 22:138].all()
    assert not mask[22:58, 22:78].any()


def test_black_padding_is_no_ink():
    picture = as_bytes(np.full((120, 160, 3), GLASS, float))
    picture[:40] = 0
    assert not ink_mask(picture, mpp=8.0).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["B4", "C2", "C3", "C4", "C6"])
def test_real_sections_are_in_focus_and_their_blurred_copies_are_not(real_data, name):
    with open_slide(real_data / f"her2st/images/{name}.jpg") as slide:
        quality = QualityMap(slide, 0.69)
        assert quality.summary().warnings() == []
        places = np.argwhere(quality.tissue)[:, ::-1]
        centre = np.median(places, axis=0) * 8 / 0.69
        field = slide.read_region(*(centre - 300 * 2 / 0.69), width=600, height=600, downsample=2 / 0.69)
    sharp, soft = (blur_map(as_bytes(blurred(field.astype(float), um)), mpp=2.0) for um in (0, 4))
    assert np.nanmean(sharp > 1) < 0.02
    assert np.nanmean(soft > 1) > 0.95
