"""What stands for nuclei in a test is tissue from beside them."""

from __future__ import annotations

import numpy as np

from stimage_qupath.attribution.fills import FILLS
from stimage_qupath.attribution.transplant import NAME, transplanted


def test_nothing_of_a_nucleus_is_left_and_all_of_it_is_from_the_picture():
    rng = np.random.default_rng(0)
    image = rng.integers(150, 250, (60, 80, 3)).astype(np.uint8)
    row, column = np.mgrid[:60, :80]
    nuclei = ((row % 20 - 10) ** 2 + (column % 20 - 10) ** 2) < 16
    image[nuclei] = 20
    filled = transplanted(image, nuclei, 1.0)
    assert (filled > 100).all()
    there = {tuple(pixel) for pixel in image[~nuclei].tolist()}
    assert {tuple(pixel) for pixel in filled.reshape(-1, 3).tolist()} <= there


def test_a_patch_comes_from_one_place():
    picture = np.add.outer(np.arange(50), 2 * np.arange(70)).astype(np.uint8)[..., None].repeat(3, axis=2)
    nuclei = np.zeros((50, 70), dtype=bool)
    nuclei[24:28, 30:34] = True
    filled = transplanted(picture, nuclei, 1.0)
    step = filled[nuclei].astype(int) - picture[nuclei]
    assert np.ptp(step) == 0  # the plane is moved as a whole
    assert step[0, 0] != 0


def test_a_picture_of_nuclei_alone_stays_and_crowded_ones_get_the_nearest():
    image = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    np.testing.assert_array_equal(transplanted(image, np.ones((10, 10), dtype=bool), 1.0), image)
    crowded = np.ones((90, 90), dtype=bool)
    crowded[:6, :6] = False
    wide = np.zeros((90, 90, 3), dtype=np.uint8)
    wide[:6, :6] = 200
    assert (transplanted(wide, crowded, 1.0)[~crowded] == 200).any()
    assert (transplanted(wide, crowded, 1.0)[80:, 80:] == 200).all()


def test_no_explanation_can_use_it():
    assert NAME not in FILLS
