"""Watershed of a relief into basins, and the union of those that hardly anything divides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from skimage.morphology import local_maxima
from skimage.segmentation import watershed


def merged_basins(relief: NDArray[np.float32], mask: NDArray[np.bool_], *, depth: float) -> NDArray[np.int32]:
    """Divide a mask into the hills of a relief.

    Each summit has its basin (watershed, 4-connected). Two neighbouring basins are joined when the highest pass between
    them lies less than ``depth`` below the lower of their summits.

    Parameters
    ----------
    relief
        (row, col) heights, positive inside the mask.
    mask
        (row, col) bool.
    depth
        In the unit of the relief.

    Returns
    -------
    numpy.ndarray
        (row, col) int32: 0 outside the mask, 1 ... n inside.
    """
    maxima = local_maxima(relief)  # type: ignore[no-untyped-call]
    summits, count = ndimage.label(maxima & mask, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros(mask.shape, dtype=np.int32)
    basins = watershed(-relief, summits, mask=mask)  # type: ignore[no-untyped-call]
    height = np.zeros(count + 1, dtype=relief.dtype)
    height[summits[summits > 0]] = relief[summits > 0]
    first, second, level = _passes(relief, basins)
    shallow = np.minimum(height[first], height[second]) - level < depth
    links = sparse.coo_matrix(
        (np.ones(shallow.sum(), dtype=np.int8), (first[shallow], second[shallow])), shape=(count + 1, count + 1)
    )
    _, joined = sparse.csgraph.connected_components(links, directed=False)
    return np.asarray(joined[basins], dtype=np.int32)  # 0 has no link and stays component 0


def _passes(
    relief: NDArray[np.float32], basins: NDArray[np.int32]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, for each two basins that share a border, their numbers and the height of their highest pass."""
    borders = [
        _border(basins[:-1], basins[1:], relief[:-1], relief[1:]),
        _border(basins[:, :-1], basins[:, 1:], relief[:, :-1], relief[:, 1:]),
    ]
    first, second, level = (np.concatenate(parts) for parts in zip(*borders, strict=True))
    if len(level) == 0:
        return first, second, level
    order = np.lexsort([-level, second, first])
    first, second, level = first[order], second[order], level[order]
    highest = (np.diff(first, prepend=-1) != 0) | (np.diff(second, prepend=-1) != 0)
    return first[highest], second[highest], level[highest]


def _border(
    here: NDArray[np.int32], there: NDArray[np.int32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return the pairs of basins that meet between two shifted images, and the height at each meeting."""
    where = np.nonzero((here != there) & (here > 0) & (there > 0))
    a, b = here[where].astype(np.intp), there[where].astype(np.intp)
    return np.minimum(a, b), np.maximum(a, b), np.minimum(low[where], high[where])
