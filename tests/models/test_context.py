"""The trunk and its windows against convolutions and means written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from stimage_qupath.errors import MissingPartError
from stimage_qupath.models import context, mobilenet
from stimage_qupath.models.context import ContextEncoder, _window_statistics, round_to_odd, window_means
from stimage_qupath.models.encoders import load_encoder
from stimage_qupath.models.mobilenet import REACH_PX, TAPS, load_trunk
from stimage_qupath.results import never_cancelled

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder():
    return ContextEncoder()


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (50, 56, 3))
    return np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)[:797, :884]


def encode(encoder, image, centres):
    return encoder.encode(image, np.asarray(centres, float), device=CPU, batch_size=1, cancelled=never_cancelled)


def test_the_card_is_that_of_the_weights_that_ship(encoder):
    assert load_encoder("context").card == encoder.card
    assert encoder.card.width == 2 * 2 * (32 + 64 + 96)
    assert encoder.card.licence == "Apache-2.0"
    assert encoder.card.weights_sha256 == load_trunk()[1]


def test_a_block_is_the_formula_of_the_inverted_residual():
    trunk, _ = load_trunk()
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 24, 9, 9))).float()
    block = trunk.blocks[2]  # widens 24 to 144 and back, stride 1: residual
    wide = functional.relu6(
        torch.einsum("oi,nihw->nohw", block.expand.weight[:, :, 0, 0], x) + _by_channel(block.expand)
    )
    padded = functional.pad(wide, (1, 1, 1, 1))
    filtered = sum(
        block.depthwise.weight[None, :, 0, i, j, None, None] * padded[:, :, i : i + 9, j : j + 9]
        for i in range(3)
        for j in range(3)
    )
    filtered = functional.relu6(filtered + _by_channel(block.depthwise))
    narrow = torch.einsum("oi,nihw->nohw", block.project.weight[:, :, 0, 0], filtered) + _by_channel(block.project)
    torch.testing.assert_close(block(x), x + narrow, rtol=1e-4, atol=1e-4)


def _by_channel(layer):
    return layer.bias[None, :, None, None]


def test_strides_and_reach_are_those_of_the_trunk(encoder):
    """The gradient of one output says which pixels it looks at, and around which it is centred."""
    image = torch.rand(1, 3, 448, 448, generator=torch.Generator().manual_seed(0), requires_grad=True)
    maps = encoder.trunk(image)
    for tap, output in zip(TAPS, maps, strict=True):
        assert output.shape[1:] == (tap.channels, 448 // tap.stride, 448 // tap.stride)
    row = 13
    (slope,) = torch.autograd.grad(maps[-1][0, :, row, row].sum(), image)
    seen = np.flatnonzero(slope[0].abs().sum(dim=(0, 1)).numpy())
    centre = 16 * row + 15
    assert seen.min() >= centre - 133
    assert seen.max() <= centre + 133
    assert seen.min() < centre - 100
    assert REACH_PX >= 133


def test_running_means_are_those_of_what_is_there():
    values = torch.from_numpy(np.random.default_rng(2).normal(size=(11, 7))).float()
    found = window_means(11, 5) @ values
    for row in range(11):
        expected = values[max(row - 2, 0) : row + 3].mean(dim=0)
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-6)


def test_window_statistics_at_a_cell_are_its_neighbours_mean_and_spread():
    maps = torch.from_numpy(np.random.default_rng(3).normal(size=(4, 12, 15))).float()
    (found,) = next(iter(_window_statistics(maps, torch.tensor([[6.0, 5.0]]), [5])))
    window = maps[:, 3:8, 4:9].reshape(4, -1)
    torch.testing.assert_close(found[:4], window.mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[4:], window.std(dim=1, correction=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("cells", "side"), [(25, 25), (12.5, 13), (50, 49), (1.2, 1), (0.2, 1)])
def test_windows_have_a_middle_cell(cells, side):
    assert round_to_odd(cells) == side


def test_a_place_has_the_same_features_in_whichever_frame_it_is_read(encoder, picture):
    """Frames that begin at a multiple of the alignment and hold the whole window give the same numbers."""
    whole = encode(encoder, np.pad(picture, ((0, 400), (0, 400), (0, 0)), mode="edge"), [(420.3, 401.7)])
    assert encoder.card.tile_px // 2 <= 380
    x, y = 32, 16  # the frame may start anywhere on the 16 px grid
    shifted = np.pad(picture, ((0, 400), (0, 400), (0, 0)), mode="edge")[y:, x:]
    moved = encode(encoder, shifted, [(420.3 - x, 401.7 - y)])
    np.testing.assert_allclose(moved, whole, rtol=1e-3, atol=1e-4)


def test_a_place_is_the_same_alone_and_in_company(encoder, picture):
    rng = np.random.default_rng(4)
    places = rng.uniform(50, 700, (40, 2))
    together = encode(encoder, picture, places)
    np.testing.assert_allclose(encode(encoder, picture, places[7:8])[0], together[7], rtol=1e-4, atol=1e-6)


def test_no_feature_depends_on_the_number_of_threads(encoder, picture):
    """A worker of a cluster has other threads than the command, and writes the same files."""
    places = np.random.default_rng(6).uniform(50, 700, (40, 2))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(encode(encoder, picture, places))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_many_places_are_looked_up_in_parts(encoder, picture, monkeypatch):
    places = np.random.default_rng(5).uniform(50, 700, (30, 2))
    whole = encode(encoder, picture, places)
    monkeypatch.setattr(context, "PLACES_AT_ONCE", 7)
    np.testing.assert_array_equal(encode(encoder, picture, places), whole)


def test_features_follow_the_pixels_smoothly(encoder):
    """The slope that autograd gives is the slope that is there."""
    rng = np.random.default_rng(6)
    image = torch.from_numpy(rng.uniform(90, 220, (3, 160, 160))).float()
    places = torch.tensor([[80.0, 75.0]])
    direction = torch.from_numpy(rng.normal(size=768)).float()
    image.requires_grad_()
    value = encoder.features(image, places)[0] @ direction
    (slope,) = torch.autograd.grad(value, image)
    step = torch.from_numpy(rng.normal(size=image.shape)).float() * 0.05
    with torch.no_grad():
        up, down = (encoder.features(image + sign * step, places)[0] @ direction for sign in (1, -1))
    assert float(slope.flatten() @ step.flatten()) == pytest.approx(float(up - down) / 2, rel=0.05)


def test_weights_that_are_not_there_or_not_these_are_refused(tmp_path):
    with pytest.raises(MissingPartError, match="expected the weights of the encoder at"):
        load_trunk(tmp_path / "none.safetensors")
    from importlib import resources

    shipped = load_file(str(resources.files("stimage_qupath") / "starter" / mobilenet.WEIGHTS))
    shipped.pop("stem.bias")
    save_file(shipped, tmp_path / "part.safetensors")
    with pytest.raises(MissingPartError, match=r"stem\.bias"):
        ContextEncoder(tmp_path / "part.safetensors")
