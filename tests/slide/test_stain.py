"""Stain separation against scikit-image and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2hed

from stimage_qupath.slide.stain import RUIFROK_JOHNSTON, hematoxylin_eosin, optical_density


def test_optical_density_by_hand() -> None:
    rgb = np.array([[255, 26, 0]], dtype=np.uint8)
    density = optical_density(rgb)
    np.testing.assert_allclose(density, [[0, -np.log10(26 / 255), np.log10(255)]], rtol=1e-6)
    assert density.dtype == np.float32


def test_optical_density_against_a_background_of_each_colour() -> None:
    density = optical_density(np.array([240, 23, 100], dtype=np.uint8), background=(240, 230, 10))
    np.testing.assert_allclose(density, [0, 1, -1], atol=1e-6)


def test_equal_to_scikit_image_up_to_its_scale() -> None:
    # rgb2hed divides natural logarithms by ln(1e6), clips at 0 and lets black be 1e-6; hence no black here.
    rgb = np.random.default_rng(0).integers(1, 256, size=(40, 50, 3), dtype=np.uint8)
    hed = rgb2hed(rgb) * 6
    hematoxylin, eosin = hematoxylin_eosin(rgb)
    np.testing.assert_allclose(np.maximum(hematoxylin, 0), hed[..., 0], atol=2e-5)
    np.testing.assert_allclose(np.maximum(eosin, 0), hed[..., 1], atol=2e-5)


def test_concentrations_come_back() -> None:
    truth = np.random.default_rng(1).uniform(0, 0.9, size=(500, 2))
    rgb = np.rint(255 * 10 ** -(truth @ RUIFROK_JOHNSTON[:2])).astype(np.uint8)
    for found, expected in zip(hematoxylin_eosin(rgb), truth.T, strict=True):
        # Half a grey level at 10^-0.9 of white is 0.009 in density, and the inverse matrix at most doubles it.
        np.testing.assert_allclose(found, expected, atol=0.03)
        assert found.dtype == np.float32


def test_white_holds_no_stain() -> None:
    hematoxylin, eosin = hematoxylin_eosin(np.full((2, 2, 3), 255, dtype=np.uint8))
    assert (hematoxylin == 0).all()
    assert (eosin == 0).all()


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_other_arrays_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 3\) uint8 pixels, found \(4, 4"):
        hematoxylin_eosin(wrong)
    with pytest.raises(ValueError, match="uint8 pixels"):
        optical_density(wrong)


@pytest.mark.parametrize("background", [0, -3, float("nan"), (255, 255, 0)])
def test_a_background_without_light_is_refused(background: object) -> None:
    with pytest.raises(ValueError, match="background above 0"):
        optical_density(np.zeros((1, 3), np.uint8), background=background)  # type: ignore[arg-type]
