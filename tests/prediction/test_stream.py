"""Windows, blocks and grids: a place gets the same pixels in whatever company."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.encoders import EncoderCard
from stimage_qupath.prediction.cells import interpolation
from stimage_qupath.prediction.stream import encode_points, plan_windows, read_ahead
from stimage_qupath.results import Prediction
from stimage_qupath.slide.reader import open_slide

CPU = torch.device("cpu")


class CentreColour:
    """An encoder whose answer is known: the mean colour of a window of 8 px at 1 um."""

    def __init__(self, *, pads_edges: bool = True) -> None:
        self.card = EncoderCard("centre", "here", "none", False, 1.0, 8, 3, pads_edges=pads_edges)

    def encode(self, image, centres, *, device, batch_size, cancelled):
        corners = np.floor(centres - 4 + 0.5).astype(int)
        return np.array([image[y : y + 8, x : x + 8].mean(axis=(0, 1)) for x, y in corners], dtype=np.float32)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Red says x, green says y, in steps of 20 px, on 4000 x 3000 px."""
    y, x = np.mgrid[0:3000, 0:4000]
    pixels = np.stack([x // 20, y // 20, np.full_like(x, 50)], axis=-1).astype(np.uint8)
    path = tmp_path_factory.mktemp("slide") / "ramp.png"
    Image.fromarray(pixels).save(path, compress_level=1)
    with open_slide(path) as opened:
        yield opened


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.73])
def test_a_window_lies_where_its_centre_is(slide, mpp):
    rng = np.random.default_rng(0)
    points = rng.uniform((100, 100), (3900, 2900), (200, 2))
    found = encode_points(slide, mpp, points, CentreColour(), device=CPU)
    # A step of 20 px cut into windows: the mean is the ramp itself to one step, and to half of one on average.
    error = found[:, :2] - (points / 20 - 0.5)
    assert np.abs(error).max() < 1
    assert np.abs(error.mean(axis=0)).max() < 0.06


@pytest.mark.flow
def test_alone_or_together_forwards_or_backwards(slide):
    rng = np.random.default_rng(1)
    points = rng.uniform((0, 0), (4000, 3000), (60, 2))
    together = encode_points(slide, 0.5, points, ColourEncoder(), device=CPU)
    backwards = encode_points(slide, 0.5, points[::-1], ColourEncoder(), device=CPU, threads=5)
    np.testing.assert_allclose(backwards[::-1], together, rtol=1e-4, atol=1e-5)
    for k in (0, 17, 59):
        alone = encode_points(slide, 0.5, points[k : k + 1], ColourEncoder(), device=CPU)
        np.testing.assert_allclose(alone[0], together[k], rtol=2e-3, atol=2e-3)  # one grey level of resampling


def test_padding_is_white_for_networks_and_absent_for_statistics(slide):
    corner = np.array([[0.0, 0.0]])
    padded = encode_points(slide, 1.0, corner, CentreColour(), device=CPU)
    np.testing.assert_allclose(padded[0], (0.75 * 255, 0.75 * 255, 0.75 * 255 + 0.25 * 50), atol=0.5)
    (window,) = plan_windows(corner, CentreColour(pads_edges=False).card, slide, 1.0)
    assert (window.x, window.y) == (0, 0)


def test_no_places_no_windows(slide):
    assert encode_points(slide, 0.5, np.empty((0, 2)), CentreColour(), device=CPU).shape == (0, 3)


def test_blocks_bound_the_pixels_in_memory(slide):
    points = np.random.default_rng(2).uniform((0, 0), (4000, 3000), (500, 2))
    windows = plan_windows(points, CentreColour().card, slide, 1.0)
    assert len(windows) == 12
    assert max(w.width * w.height for w in windows) <= 1036**2
    assert sorted(np.concatenate([w.index for w in windows])) == list(range(500))


def test_reading_ahead_keeps_order_and_bounds_what_waits():
    running, most, lock = 0, 0, threading.Lock()

    def job(value):
        def work():
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.002 * (value % 3))
            return value

        return work

    taken = []
    with ThreadPoolExecutor(4) as pool:
        for value in read_ahead((job(v) for v in range(40)), pool, depth=3):
            taken.append(value)
            with lock:
                assert running - len(taken) <= 4
    assert taken == list(range(40))


@dataclass
class Plane:
    """mean = 3 x + 2 y + 1 in slide pixels: a bilinear mix gives it back exactly."""

    def at(self, points):
        value = (points @ np.array([3.0, 2.0]) + 1).astype(np.float32)
        return Prediction(value[:, None], value[:, None], value[:, None], value)


def test_a_grid_gives_back_a_plane_between_its_nodes():
    points = np.random.default_rng(3).uniform(0, 1000, (50, 2))
    nodes, mix = interpolation(points, 37.5)
    assert np.allclose(nodes / 37.5, np.round(nodes / 37.5))
    mixed = mix(Plane().at(nodes))
    np.testing.assert_allclose(mixed.mean, Plane().at(points).mean, rtol=1e-5)
    np.testing.assert_allclose(mixed.ood_score, Plane().at(points).ood_score, rtol=1e-5)


def test_a_grid_is_the_same_in_whatever_company():
    points = np.random.default_rng(4).uniform(0, 1000, (20, 2))
    some = {tuple(node) for node in interpolation(points[:3], 50.0)[0]}
    assert some <= {tuple(node) for node in interpolation(points, 50.0)[0]}


def test_frames_begin_on_the_grid_of_the_encoders_strides(slide):
    points = np.random.default_rng(3).uniform((0, 0), (4000, 3000), (200, 2))
    card = replace(CentreColour().card, align_px=16)
    for window in plan_windows(points, card, slide, 1.0):
        assert (window.x % 16, window.y % 16) == (0, 0)
        np.testing.assert_allclose(window.centres + np.array([window.x, window.y]), points[window.index])
