"""Serial sections of one block laid over each other by the outline of their tissue: turned and shifted, never bent.

For every angle, the shift that brings most tissue onto tissue is the maximum of a cross-correlation, found by Fourier
transform; the angle with the best overlap wins. Precision is about one mask pixel and one degree, which is what a
baseline of neighbours 200 um apart needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

Float = NDArray[np.float64]

MASK_UM = 100.0
"""Side of a mask's pixel."""
COARSE_DEGREES = 5.0
FINE_DEGREES = 1.0
LEAST_DICE = 0.7
"""Overlap under which two outlines are not of the same block, or one is mounted face down."""


@dataclass(frozen=True, slots=True)
class Rigid:
    """A turn about the origin, then a shift: from one section's um to another's.

    Attributes
    ----------
    degrees
        Angle from x towards y.
    shift_um
        (2,) x and y.
    dice
        Overlap of the two outlines after it, 0-1.
    """

    degrees: float
    shift_um: Float
    dice: float

    def __call__(self, positions_um: Float) -> Float:
        """Return positions in the other section, (place, 2)."""
        return positions_um @ _turn(self.degrees).T + self.shift_um


def register(moving: NDArray[np.bool_], fixed: NDArray[np.bool_]) -> Rigid:
    """Return what lays ``moving`` over ``fixed``.

    Parameters
    ----------
    moving, fixed
        (row, column) masks of tissue, :data:`MASK_UM` a pixel, from the same corner as the positions.

    Raises
    ------
    ValueError
        A mask is empty.
    """
    if not moving.any() or not fixed.any():
        msg = "expected masks with tissue to register, found an empty one"
        raise ValueError(msg)
    coarse = max((_overlap(moving, fixed, a) for a in np.arange(0, 360, COARSE_DEGREES)), key=lambda found: found.dice)
    near = coarse.degrees + np.arange(-COARSE_DEGREES + FINE_DEGREES, COARSE_DEGREES, FINE_DEGREES)
    return max((_overlap(moving, fixed, float(a)) for a in near), key=lambda found: found.dice)


def _turn(degrees: float) -> Float:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _overlap(moving: NDArray[np.bool_], fixed: NDArray[np.bool_], degrees: float) -> Rigid:
    """Return the best shift at one angle."""
    side = int(np.ceil(np.hypot(*moving.shape))) + 2
    turn, centre = _turn(degrees), np.array(moving.shape[::-1]) / 2  # x, y
    # Output pixel centre q (x, y) comes from turn^T (q - side / 2) + centre; ndimage counts (row, column).
    back = turn.T[::-1, ::-1]
    offset = centre[::-1] - 0.5 - back @ (np.full(2, side / 2) - 0.5)
    turned = ndimage.affine_transform(
        moving.astype(np.float32), back, offset=offset, output_shape=(side, side), order=1
    )
    found = signal.fftconvolve(fixed.astype(np.float32), turned[::-1, ::-1], mode="full")
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    dice = 2 * float(found[row, column]) / float(fixed.sum() + turned.sum())
    shift = np.array([column, row]) - (side - 1)
    # A point p of the moving section lies at turn (p - centre) + side / 2 of the turned mask.
    return Rigid(degrees, (shift + side / 2 - turn @ centre) * MASK_UM, dice)
