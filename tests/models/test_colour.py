"""Window statistics against plain numpy over the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stimage_qupath.models.colour import BASE, FILTER_REACH_PX, PER_WINDOW, WINDOWS_UM, ColourEncoder
from stimage_qupath.results import never_cancelled
from stimage_qupath.slide.stain import hematoxylin_eosin, optical_density

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 256, (30, 32, 3))
    return np.clip(coarse.repeat(20, 0).repeat(20, 1) + rng.integers(-30, 30, (600, 640, 3)), 0, 255).astype(np.uint8)


def encode(image, centres):
    centres = np.asarray(centres, dtype=np.float64)
    return ColourEncoder().encode(image, centres, device=CPU, batch_size=1, cancelled=never_cancelled)


def test_means_spreads_and_covariances_of_each_window(image):
    features = encode(image, [(320.0, 300.0)])[0].reshape(len(WINDOWS_UM), PER_WINDOW)
    density = optical_density(image)
    pixels = np.concatenate([density, np.stack(hematoxylin_eosin(image), axis=-1)], axis=-1)
    for side, found in zip(WINDOWS_UM, features, strict=True):
        window = pixels[300 - side // 2 : 300 + side // 2, 320 - side // 2 : 320 + side // 2].reshape(-1, BASE)
        np.testing.assert_allclose(found[:BASE], window.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[BASE : 2 * BASE], window.std(axis=0), rtol=1e-3)
        covariance = np.cov(window[:, :3].T, ddof=0)[np.triu_indices(3, 1)]
        np.testing.assert_allclose(found[2 * BASE : 2 * BASE + 3], covariance, rtol=1e-3, atol=1e-6)


def test_width_is_what_the_card_says(image):
    assert encode(image, [(100, 100), (200, 300)]).shape == (2, ColourEncoder.card.width)
    assert ColourEncoder.card.tile_px >= max(WINDOWS_UM) + 2 * 6 * 4  # widest Gaussian: sigma 6, cut at 4 sigma


def test_a_place_has_the_same_features_in_a_cut_out(image):
    """What prediction relies on: a block with the margin of the card holds all that a place depends on."""
    half = max(WINDOWS_UM) // 2 + FILTER_REACH_PX
    whole = encode(image, [(320.0, 300.0)])
    cut = encode(image[300 - half : 300 + half, 320 - half : 320 + half], [(half, half)])
    np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-5)


def test_windows_are_clipped_at_the_edge():
    image = np.full((50, 80, 3), 255, dtype=np.uint8)
    image[:, :40] = (120, 60, 140)
    corner = encode(image, [(0.0, 0.0)])[0].reshape(len(WINDOWS_UM), PER_WINDOW)
    everything = optical_density(image).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(corner[-1, :3], everything, rtol=1e-4)  # the widest window holds the whole image
    assert np.isfinite(encode(image[:1, :1], [(0.5, 0.5)])).all()


def test_white_glass_has_no_stain(image):
    features = encode(np.full((500, 500, 3), 255, dtype=np.uint8), [(250, 250)]).reshape(len(WINDOWS_UM), PER_WINDOW)
    assert np.abs(features[:, : 2 * BASE]).max() < 1e-6
