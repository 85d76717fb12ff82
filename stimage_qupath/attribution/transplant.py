"""What stands in for nuclei when an attribution is tested: pieces of the tissue beside them.

No method may be tested with the fill that it was computed with, or it would be praised for knowing its own fill. This
one is used for nothing but tests, so that all methods and fills are judged alike; and it consists of pixels that the
slide shows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NAME: Final = "transplanted"
STEPS_UM: Final = (7.0, 10.0, 14.0, 20.0, 28.0)
"""How far away a piece may come from, the nearest first: beyond a nucleus of usual size, within its compartment."""
DIRECTIONS: Final = 8
MARGIN_UM: Final = 1.5
"""Rim of a nucleus that its outline misses, and that would give its place away."""


def transplanted(image: NDArray[np.uint8], nuclei: NDArray[np.bool_], mpp: float) -> NDArray[np.uint8]:
    """Return each pixel replaced by one beside it that is no nucleus, of the same step for whole patches.

    Pixels with nuclei on all sides get the nearest pixel that is none; a picture of nuclei alone stays as it is.

    Parameters
    ----------
    image
        (height, width, 3) uint8.
    nuclei
        (height, width) bool.
    mpp
        um per pixel.
    """
    bare = ~ndimage.binary_dilation(nuclei, iterations=max(1, round(MARGIN_UM / mpp)))
    if not bare.any():
        return image.copy()
    missing = np.ones(bare.shape, dtype=bool)
    found = np.empty_like(image)
    for down, right in _steps(mpp):
        target, source = _overlap(bare.shape, down, right)
        usable = bare[source] & missing[target]
        found[target][usable] = image[source][usable]
        missing[target] &= ~usable
    if missing.any():
        rows, columns = ndimage.distance_transform_edt(~bare, return_distances=False, return_indices=True)
        found[missing] = image[rows[missing], columns[missing]]
    return found


def _steps(mpp: float) -> list[tuple[int, int]]:
    angles = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    unit = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return [(round(y), round(x)) for far in STEPS_UM for y, x in (unit * far / mpp).tolist()]


def _overlap(shape: tuple[int, ...], down: int, right: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where a picture and the same moved by a step have both a pixel: targets, and where they come from."""
    target, source = [], []
    for size, step in zip(shape, (down, right), strict=True):
        target.append(slice(max(0, -step), max(0, min(size, size - step))))
        source.append(slice(max(0, step), max(0, min(size, size + step))))
    return tuple(target), tuple(source)
