"""The encoder of single nuclei: the maps of ``context`` over windows of the size of a nucleus."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stimage_qupath.models.context import NUCLEUS_MPP, NUCLEUS_WINDOWS_UM, ContextEncoder
from stimage_qupath.models.encoders import NUCLEUS, encoder_names, load_encoder
from stimage_qupath.results import never_cancelled

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(NUCLEUS)


def encode(encoder, image, centres):
    return encoder.encode(image, np.array(centres, float), device=CPU, batch_size=8, cancelled=never_cancelled)


def test_it_is_loaded_by_name_and_reads_half_a_micrometre(encoder):
    assert NUCLEUS in encoder_names()
    assert encoder.card.mpp == NUCLEUS_MPP == 0.5
    assert encoder.card.width == 2 * len(NUCLEUS_WINDOWS_UM) * (32 + 64 + 96)
    assert encoder.card.tile_px >= max(NUCLEUS_WINDOWS_UM) / NUCLEUS_MPP
    assert encoder.fingerprint() != load_encoder("context").fingerprint()


def test_features_are_those_of_context_at_windows_of_as_many_pixels(encoder):
    image = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    same = ContextEncoder(name="x", mpp=1.0, windows_um=tuple(2 * side for side in NUCLEUS_WINDOWS_UM))
    np.testing.assert_allclose(encode(encoder, image, [[200, 190]]), encode(same, image, [[200, 190]]), rtol=1e-5)


def test_what_lies_beyond_the_reach_of_the_windows_does_not_matter(encoder):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (640, 640, 3), dtype=np.uint8)
    other = rng.integers(0, 255, (640, 640, 3), dtype=np.uint8)
    half = encoder.card.tile_px // 2
    other[320 - half : 320 + half, 320 - half : 320 + half] = image[320 - half : 320 + half, 320 - half : 320 + half]
    np.testing.assert_allclose(encode(encoder, image, [[320, 320]]), encode(encoder, other, [[320, 320]]), atol=1e-3)
    image[316:324, 316:324] = 0
    assert np.abs(encode(encoder, image, [[320, 320]]) - encode(encoder, other, [[320, 320]])).max() > 0.05
