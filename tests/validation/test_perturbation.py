"""Changes of images by formula, and a slide that shows them whatever region is read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2hed

from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.stain import RUIFROK_JOHNSTON
from stimage_qupath.validation.perturbation import (
    KINDS,
    PerturbedSlide,
    blur,
    compress,
    perturbations,
    shift_stain,
)


def test_blur_spreads_a_point_as_a_gaussian():
    image = np.zeros((61, 61, 3), np.uint8)
    image[28:33, 28:33] = 250
    row = blur(image, sigma_px=4.0)[:, :, 0].astype(float).sum(axis=0)
    place = np.arange(61) - 30
    variance = (row * place**2).sum() / row.sum()
    assert variance == pytest.approx(4.0**2 + (5**2 - 1) / 12, rel=0.06)
    assert (blur(np.full((9, 9, 3), 77, np.uint8), sigma_px=3.0) == 77).all()


def test_stain_shift_adds_hematoxylin_and_takes_eosin():
    """In densities along the vectors: ``OD`` moves by exactly ``shift (v_H - v_E)``, to rounding of grey levels."""
    pixels = np.array([[[200, 140, 180], [120, 80, 150]]], np.uint8)
    vectors = RUIFROK_JOHNSTON[:2] / np.linalg.norm(RUIFROK_JOHNSTON[:2], axis=1, keepdims=True)
    expected = pixels * 10.0 ** -(0.1 * (vectors[0] - vectors[1]))
    np.testing.assert_allclose(shift_stain(pixels, shift=0.1), np.clip(expected, 0, 255), atol=0.51)
    before, after = rgb2hed(pixels), rgb2hed(shift_stain(pixels, shift=0.1))
    assert (after[..., 0] > before[..., 0]).all()
    assert (after[..., 1] < before[..., 1]).all()
    np.testing.assert_array_equal(shift_stain(pixels, shift=0.0), pixels)


def test_compression_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=30, subsampling=0)
    np.testing.assert_array_equal(compress(pixels, quality=30), np.asarray(Image.open(file)))
    left = compress(pixels[:, :16], quality=30)
    np.testing.assert_array_equal(compress(pixels, quality=30)[:, :16], left)


@pytest.mark.parametrize("kind", ["blur", "stain", "jpeg"])
def test_a_pixel_does_not_depend_on_the_region(formula_slide, kind):
    written = formula_slide(mpp=0.5)
    change = perturbations(kind)[-1]
    with open_slide(written.path) as slide:
        plain = slide.read_region(0, 0, width=slide.width, height=slide.height)
        view = PerturbedSlide(slide, change, mpp=0.5)
        whole = view.read_region(0, 0, width=slide.width, height=slide.height)
        part = view.read_region(301, 407, width=113, height=90)
        assert view.content_id() != slide.content_id()
    np.testing.assert_array_equal(part, whole[407:497, 301:414])
    expected = change.change(plain, 0.5)
    np.testing.assert_array_equal(whole, expected)
    assert np.abs(whole.astype(int) - plain).max() > 5


def test_strengths_and_names():
    assert [p.name for kind in KINDS for p in perturbations(kind)] == [
        "stain 0.05", "stain 0.1", "stain 0.2", "blur 1 um", "blur 2 um", "blur 4 um", "jpeg quality 30", "scale x1.5",
    ]  # fmt: skip
    assert [p.strongest for p in perturbations("blur")] == [False, False, True]
    with pytest.raises(ValueError, match="expected a perturbation out of stain, blur, jpeg, scale, found 'fog'"):
        perturbations("fog")


def test_scale_is_no_change_of_pixels(formula_slide):
    with open_slide(formula_slide().path) as slide, pytest.raises(ValueError, match="expected a change of pixels"):
        PerturbedSlide(slide, perturbations("scale")[0], mpp=0.5)
