"""Against scipy and scikit-image, which do the same more slowly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import expand_labels

from stimage_qupath.nuclei.raster import distance_inside, eroded, grown_labels, opened

MASKS = [
    np.random.default_rng(seed).random(shape) < share
    for seed, (shape, share) in enumerate(
        [((40, 57), 0.7), ((31, 31), 0.95), ((20, 90), 0.3), ((1, 9), 0.5), ((2, 2), 1.0)]
    )
]


@pytest.mark.parametrize("mask", MASKS)
def test_erosion_and_opening_are_scipys(mask):
    before = mask.copy()
    for iterations in (1, 2, 3):
        np.testing.assert_array_equal(
            eroded(mask, iterations=iterations), ndimage.binary_erosion(mask, None, iterations)
        )
    np.testing.assert_array_equal(opened(mask), ndimage.binary_opening(mask))
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("mask", MASKS[:-1])
def test_distances_are_scipys(mask):
    np.testing.assert_allclose(distance_inside(mask), ndimage.distance_transform_edt(mask), rtol=1e-6)


def test_without_an_outside_everything_is_infinitely_far():
    assert np.isinf(distance_inside(np.ones((3, 4), dtype=bool))).all()


@pytest.mark.parametrize("reach", [1.0, 2.5, 3.0, 8.0])
def test_growth_is_that_of_scikit_image(reach):
    labels = np.zeros((60, 70), dtype=np.int32)
    rng = np.random.default_rng(1)
    labels[rng.integers(0, 60, 25), rng.integers(0, 70, 25)] = np.arange(1, 26)
    np.testing.assert_array_equal(grown_labels(labels, reach), expand_labels(labels, reach))


def test_nothing_grows_from_nothing():
    assert not grown_labels(np.zeros((5, 5), dtype=np.int32), 3.0).any()
