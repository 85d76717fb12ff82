"""Fills: what stands where a nucleus was."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.attribution.fills import FILLS, choose_fill
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.errors import UsageError


@pytest.fixture(scope="module")
def purple_on_pink():
    image = np.full((60, 80, 3), (220, 160, 190), np.uint8)
    nuclei = np.zeros((60, 80), bool)
    nuclei[20:32, 30:42] = True
    image[nuclei] = (80, 50, 140)
    return image, nuclei


def test_inpainting_leaves_the_colour_around(purple_on_pink):
    image, nuclei = purple_on_pink
    filled = FILLS["inpainted"](image, nuclei, 0.5)
    np.testing.assert_array_equal(filled, np.full_like(image, (220, 160, 190)))


def test_white_is_white_and_mean_stain_is_the_mean_density_of_tissue(purple_on_pink):
    image, nuclei = purple_on_pink
    assert (FILLS["white"](image, nuclei, 0.5) == 255).all()
    with_glass = np.concatenate([image, np.full_like(image, 254)])
    filled = FILLS["mean_stain"](with_glass, np.concatenate([nuclei, nuclei & False]), 0.5)
    expected = np.exp(np.log(image.reshape(-1, 3)).mean(axis=0))  # densities average where levels multiply
    np.testing.assert_allclose(filled[0, 0], expected, atol=1)
    assert (filled == filled[0, 0]).all()


def test_blurring_keeps_the_mean(purple_on_pink):
    image, nuclei = purple_on_pink
    filled = FILLS["blurred"](image, nuclei, 2.0).astype(float)
    np.testing.assert_allclose(filled.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.5)
    assert np.ptp(filled[..., 0]) < np.ptp(image[..., 0]) / 1.2


@pytest.mark.parametrize("name", FILLS)
def test_no_fill_is_black_even_where_all_is_nucleus(name):
    image = np.full((20, 20, 3), (90, 60, 140), np.uint8)
    filled = FILLS[name](image, np.ones((20, 20), bool), 0.5)
    assert filled.shape == image.shape
    assert filled.min() >= 60


def test_black_is_not_offered():
    with pytest.raises(UsageError, match=r"out of inpainted, blurred, mean_stain, white, found 'black'; black is not"):
        choose_fill("black")


def test_a_scene_without_some_features_shows_the_fill_there(purple_on_pink):
    image, nuclei = purple_on_pink
    labels = np.where(nuclei, 0, 1).astype(np.int32)
    labels[:5] = -1
    scene = Scene(image, labels, 1, 2, np.zeros((0, 2)), np.zeros(0), 0.5)
    changed = scene.without(np.array([True, False]), np.zeros_like(image))
    assert (changed[nuclei] == 0).all()
    np.testing.assert_array_equal(changed[~nuclei], image[~nuclei])
    assert scene.pixels.tolist() == [144, 60 * 80 - 144 - 400]


def test_parts_that_do_not_fit_are_refused():
    image, labels = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.int32)
    with pytest.raises(ValueError, match=r"expected labels of shape \(4, 5\), found \(4, 4\)"):
        Scene(image, labels[:, :4], 1, 1, np.zeros((0, 2)), np.zeros(0), 0.5)
    with pytest.raises(ValueError, match=r"expected labels from -1 to 0, found 0 to 1"):
        Scene(image, labels + np.eye(4, 5, dtype=np.int32), 1, 1, np.zeros((0, 2)), np.zeros(0), 0.5)
    with pytest.raises(ValueError, match=r"expected at most 1 nuclei and a weight a place"):
        Scene(image, labels, 2, 1, np.zeros((0, 2)), np.zeros(0), 0.5)
