"""An outline of its own for every nucleus: half-way between its inside and its surroundings.

One threshold for a whole slide draws dark nuclei too large and pale ones too small. Given roughly right nuclei, the
edge of each is where the density is the mean of what it is inside and what it is around (the half-maximum of a blurred
step, which lies on the true edge whatever its height).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as parts_of_equal_value
from skimage.segmentation import expand_labels

_DEPTH: Final = 2  # pixels from the edge at which the inside begins
_LEAST_PIXELS: Final = 8  # below, an inside or a ring is too small for a mean


def refined(
    labels: NDArray[np.int32], density: NDArray[np.float32], *, reach_px: float
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Move the edge of every nucleus to its own half-maximum.

    Parameters
    ----------
    labels
        (row, col) int32, 0 is background.
    density
        (row, col) stain, high in nuclei.
    reach_px
        How far an edge may move outwards, and the width of the ring that counts as surroundings. Half-way to a
        neighbour it stops.

    Returns
    -------
    labels : numpy.ndarray
        (row, col) int32, the same numbers; each nucleus in one piece, some gone.
    contrast : numpy.ndarray
        (highest label + 1,) inside minus surroundings.
    """
    territory = expand_labels(labels, reach_px)
    size = int(labels.max()) + 1
    depth = ndimage.binary_erosion(labels > 0, iterations=_DEPTH)
    whole, _ = _means(labels, density, size=size)
    inside, pixels = _means(np.where(depth, labels, 0), density, size=size)
    inside = np.where(pixels < _LEAST_PIXELS, whole, inside)
    around, pixels = _means(np.where(labels > 0, 0, territory), density, size=size)
    around = np.where(pixels < _LEAST_PIXELS, np.nan, around)
    # A nucleus walled in by others has no ring: the ring of the typical nucleus stands in.
    level = (inside + around) / 2
    core = ndimage.binary_opening(density > level[territory])
    return territory, inside - around


def _means(
    labels: NDArray[np.int32], values: NDArray[np.float32], *, size: int
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the mean of each label, 0 where it does not occur, and its number of pixels."""
    pixels = np.bincount(labels.ravel(), minlength=size)
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=size)
    return sums / np.maximum(pixels, 1), pixels
