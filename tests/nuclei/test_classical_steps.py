"""The steps of the classical segmenter, each against a formula."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.nuclei.basins import merged_basins
from stimage_qupath.nuclei.ellipse import ellipse_fit
from stimage_qupath.nuclei.refine import refined, without_small_parts

ROW, COL = np.mgrid[:80, :120] + 0.5


def disc(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    return np.hypot(COL - x, ROW - y) < radius


@pytest.mark.parametrize(("depth", "hills"), [(1.9, 2), (2.1, 1)])
def test_hills_are_joined_when_the_pass_is_too_shallow(depth: float, hills: int) -> None:
    # Two cones of height 10 and 12 whose slopes of 0.25 a pixel meet at 8: 2 below the lower summit.
    relief = np.maximum(10 - 0.25 * np.abs(COL - 40.5), 12 - 0.25 * np.abs(COL - 64.5)) - 0.25 * np.abs(ROW - 40.5)
    relief = np.where(relief > 1, relief, 0).astype(np.float32)
    labels = merged_basins(relief, relief > 0, depth=depth)
    assert labels.max() == len(np.unique(labels)) - 1 == hills
    assert np.array_equal(labels > 0, relief > 0)
    assert (labels[40, 40] == labels[40, 64]) == (hills == 1)


def test_three_hills_of_which_two_are_joined() -> None:
    profile = np.array([0, 5, 6, 5.9, 6.1, 5, 2, 5, 6, 3, 0], np.float32)
    labels = merged_basins(np.tile(profile, (3, 1)), np.tile(profile > 0, (3, 1)), depth=1.0)
    assert labels[1].tolist() in ([0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0], [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0])


def test_no_hill_without_a_mask() -> None:
    flat = np.zeros((5, 5), np.float32)
    assert not merged_basins(flat, flat > 0, depth=1).any()


def test_figures_of_known_fit() -> None:
    ellipse = np.hypot((COL - 30) / 20, (ROW - 20) / 8) < 1
    rectangle = (abs(COL - 85) < 15) & (abs(ROW - 20) < 6)
    cross = ((abs(COL - 30) < 2) & (abs(ROW - 60) < 16)) | ((abs(ROW - 60) < 2) & (abs(COL - 30) < 16))
    labels = (ellipse * 1 + rectangle * 3 + cross * 4).astype(np.int32)
    fit = ellipse_fit(labels, size=6)
    assert fit[1] == pytest.approx(1, abs=0.01)
    assert fit[3] == pytest.approx(3 / np.pi)
    variance = (128 * 32**2 / 12 + 112 * 4**2 / 12) / 240  # a bar of 32 x 4, and the other without the overlap
    assert fit[4] == pytest.approx(240 / (4 * np.pi * variance))
    assert fit[[0, 2, 5]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("start", [8.0, 10.0, 11.5])
@pytest.mark.parametrize("height", [0.3, 1.0])
def test_the_edge_moves_to_the_half_maximum_from_either_side(start: float, height: float) -> None:
    density = ndimage.gaussian_filter(disc(60, 40, 10) * height + 0.1, 1.0).astype(np.float32)
    labels = disc(60, 40, start).astype(np.int32)
    moved, contrast = refined(labels, density, surroundings=density, edge_level=0.5, reach_px=6, hole_px=20)
    assert np.sqrt((moved == 1).sum() / np.pi) == pytest.approx(10, abs=0.5)
    assert 0.7 * height < contrast[1] <= height


def test_a_lower_level_draws_the_edge_further_out() -> None:
    density = ndimage.gaussian_filter(disc(60, 40, 10).astype(np.float32), 2.0)
    labels = disc(60, 40, 10).astype(np.int32)
    areas = [
        (refined(labels, density, surroundings=density, edge_level=level, reach_px=6, hole_px=0)[0] > 0).sum()
        for level in (0.3, 0.5, 0.7)
    ]
    assert areas[0] > areas[1] > areas[2]


def test_neighbours_keep_their_numbers_and_stop_half_way() -> None:
    density = ndimage.gaussian_filter((disc(45, 40, 12) | disc(68, 40, 12)).astype(np.float32), 1.0)
    labels = (disc(45, 40, 9) * 2 + disc(68, 40, 9) * 5).astype(np.int32)
    moved, _ = refined(labels, density, surroundings=density, edge_level=0.5, reach_px=6, hole_px=0)
    assert set(np.unique(moved)) == {0, 2, 5}
    assert (moved == 2)[:, 57:].sum() == (moved == 5)[:, :56].sum() == 0


def test_a_small_hole_is_filled_and_a_large_one_is_not() -> None:
    density = (disc(60, 40, 20) & ~disc(55, 40, 2.5) & ~disc(68, 40, 6)).astype(np.float32)
    labels = (density > 0).astype(np.int32)
    moved, _ = refined(labels, density, surroundings=density, edge_level=0.5, reach_px=3, hole_px=40)
    assert moved[40, 55] == 1
    assert moved[40, 68] == 0


def test_parts_up_to_a_size_go() -> None:
    mask = np.array([[1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 0]], bool)
    assert without_small_parts(mask, 2).tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]]
