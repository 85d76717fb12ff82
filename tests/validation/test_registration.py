"""Outlines laid over each other, with the truth known by formula."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.validation.registration import LEAST_DICE, MASK_UM, Rigid, register


def tissue(x, y):
    """Return whether a point (in mask pixels) is tissue: an ellipse with a notch and a knob, no symmetry."""
    body = (((x - 45) / 30) ** 2 + ((y - 35) / 18) ** 2 < 1) & ~((x > 55) & (y < 30))
    return body | (np.hypot(x - 30, y - 52) < 8)


@pytest.mark.parametrize(("degrees", "shift"), [(0.0, (0, 0)), (33.0, (900, -1500)), (181.0, (8200, 9000))])
def test_a_turned_and_shifted_outline_is_found(degrees, shift):
    true = Rigid(degrees, np.array(shift, dtype=float), 1.0)
    y, x = np.mgrid[0:80, 0:100] + 0.5
    fixed = tissue(x, y)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # The moving section, on a grid wide enough: a point p of it is tissue where true(p) is.
    low = ((np.array([[0, 0], [10_000, 0], [0, 8000], [10_000, 8000]]) - true.shift_um) @ turn).min(axis=0)
    true = Rigid(degrees, true.shift_um + turn @ low, 1.0)
    y, x = np.mgrid[0:140, 0:140] + 0.5
    moving = tissue(*(true(np.stack([x.ravel(), y.ravel()], axis=1) * MASK_UM).T / MASK_UM)).reshape(140, 140)
    found = register(moving, fixed)
    points = np.argwhere(moving)[:, ::-1] * MASK_UM + MASK_UM / 2
    assert found.dice > 0.95
    assert np.abs(found(points) - true(points)).max() < 1.5 * MASK_UM


def test_another_block_does_not_fit():
    y, x = np.mgrid[0:80, 0:100] + 0.5
    stick = (np.abs(y - 40) < 3) & (np.abs(x - 50) < 45)
    assert register(stick, tissue(x, y)).dice < LEAST_DICE


def test_nothing_cannot_be_registered():
    with pytest.raises(ValueError, match="expected masks with tissue"):
        register(np.zeros((4, 4), bool), np.ones((4, 4), bool))
