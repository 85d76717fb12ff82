"""An outline of its own for every nucleus: between its inside and its surroundings.

One threshold for a whole slide draws dark nuclei too large and pale ones too small. Given roughly right nuclei, the
edge of each is where the density is half-way between what it is inside and what it is around: the half-maximum of a
blurred step lies on the step, whatever its height.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as parts_of_equal_value

from stimage_qupath.nuclei.raster import eroded, grown_labels, opened

_DEPTH_PX: Final = 2  # from the edge at which the inside begins
_LEAST_PIXELS: Final = 8  # below, an inside or a ring is too small for a mean


def refined(
    labels: NDArray[np.int32],
    density: NDArray[np.float32],
    *,
    surroundings: NDArray[np.float32],
    edge_level: float,
    reach_px: float,
    hole_px: float,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Move the edge of every nucleus to its own level.

    Parameters
    ----------
    labels
        (row, col) int32, 0 is background; at least one nucleus.
    density
        (row, col) stain, high in nuclei.
    surroundings
        (row, col) mean stain of a wider neighbourhood, for a nucleus that others wall in.
    edge_level
        Where between the surroundings (0) and the inside (1) the edge is; 0.5 is the half-maximum.
    reach_px
        How far an edge may move outwards, and the width of the ring it is compared with. Half-way to a neighbour it
        stops.
    hole_px
        Holes of at most so many pixels are filled.

    Returns
    -------
    labels : numpy.ndarray
        (row, col) int32, the same numbers, each in one piece; a nucleus without contrast is gone.
    contrast : numpy.ndarray
        (highest label + 1,) inside minus surroundings.
    """
    size = int(labels.max()) + 1
    territory = grown_labels(labels, reach_px)
    deep = np.where(eroded(labels > 0, iterations=_DEPTH_PX), labels, 0)
    ring = np.where(labels > 0, 0, territory)
    inside = _means(deep, density, size=size, otherwise=_means(labels, density, size=size))
    around = _means(ring, density, size=size, otherwise=_means(labels, surroundings, size=size))
    level = (around + edge_level * (inside - around)).astype(np.float32)
    core = opened((territory > 0) & (density > level[territory]))
    pieces = _largest_pieces(np.where(core, territory, 0))
    holes = without_small_parts(pieces == 0, hole_px) ^ (pieces == 0)
    return np.where(holes, territory, pieces), inside - around


def without_small_parts(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    """Return the mask without its 4-connected parts of at most ``pixels``."""
    parts, _ = ndimage.label(mask)
    kept = np.bincount(parts.ravel()) > pixels
    kept[0] = False
    return np.asarray(kept[parts])


def _largest_pieces(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the labels with only the largest 4-connected piece of each (of equal ones the first)."""
    pieces = parts_of_equal_value(labels, background=0, connectivity=1)  # type: ignore[no-untyped-call]
    pixels = np.bincount(pieces.ravel())
    inside = np.flatnonzero(labels)
    label = np.zeros(len(pixels), dtype=labels.dtype)
    label[pieces.ravel()[inside]] = labels.ravel()[inside]
    order = np.lexsort((-pixels, label))
    largest = order[np.diff(label[order], prepend=-1) != 0]
    kept = np.zeros(len(pixels), dtype=bool)
    kept[largest] = True
    return np.where(kept[pieces], labels, np.int32(0))


def _means(
    labels: NDArray[np.int32],
    values: NDArray[np.float32],
    *,
    size: int,
    otherwise: NDArray[np.float64] | float = 0.0,
) -> NDArray[np.float64]:
    """Return the mean of each label, or ``otherwise`` where there are too few pixels for one."""
    where = np.flatnonzero(labels)
    label = labels.ravel()[where]
    pixels = np.bincount(label, minlength=size)
    sums = np.bincount(label, weights=values.ravel()[where], minlength=size)
    return np.where(pixels >= _LEAST_PIXELS, sums / np.maximum(pixels, 1), otherwise)
