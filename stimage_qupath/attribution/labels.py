"""Pixels to features: outlines drawn as masks, and the grid over what lies between."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon

from stimage_qupath.attribution.scene import ELSEWHERE


def draw_nuclei(outlines: Iterable[NDArray[np.floating]], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return the number of the nucleus at each pixel, -1 for none.

    A pixel belongs to the nucleus whose outline holds its centre; where outlines overlap, to the smaller one. A nucleus
    that holds no pixel's centre gets the pixel that it lies in, so that none is lost.

    Parameters
    ----------
    outlines
        (vertex, 2) x and y of each nucleus, in pixels from the picture's corner.
    shape
        Height and width of the picture.
    """
    labels = np.full(shape, ELSEWHERE, dtype=np.int32)
    drawn = [_inside(ring, shape) for ring in outlines]
    middles = [np.floor(ring.mean(axis=0)).astype(int) for ring in outlines]
    for number in sorted(range(len(drawn)), key=lambda n: -len(drawn[n][0])):
        labels[drawn[number]] = number
    owned = np.bincount(labels[labels >= 0], minlength=len(drawn))
    for number in np.flatnonzero(owned == 0).tolist():
        x, y = middles[number]
        if 0 <= y < shape[0] and 0 <= x < shape[1]:
            labels[y, x] = number
    return labels


def _inside(ring: NDArray[np.floating], shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the pixels whose centre lies in a ring."""
    rows, columns = polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, shape)  # type: ignore[no-untyped-call]
    return rows, columns


def divide_background(
    labels: NDArray[np.int32], *, ours: int, corner: tuple[int, int], block: tuple[int, int], cell: int, cells: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return labels whose background within one block is divided by a grid, and the middle of each cell.

    Parameters
    ----------
    labels
        As :func:`draw_nuclei` gives them; the nuclei from ``ours`` on belong to other blocks.
    ours
        Nuclei of this block.
    corner
        x and y of the picture on the slide's pixel grid.
    block
        Row and column of the block.
    cell
        Side of a cell, pixels.
    cells
        Cells along a block.

    Returns
    -------
    tuple of ndarray
        Labels, in which cells follow the nuclei and everything else is elsewhere; and (cell, 2) x and y of the cells'
        middles in pixels of the picture.
    """
    height, width = labels.shape
    row = (np.arange(height) + corner[1]) // cell - block[0] * cells
    column = (np.arange(width) + corner[0]) // cell - block[1] * cells
    inside = ((row >= 0) & (row < cells))[:, None] & ((column >= 0) & (column < cells))
    number = row[:, None] * cells + column
    background = inside & (labels == ELSEWHERE)
    present, position = np.unique(number[background], return_inverse=True)
    divided = np.where(labels < ours, labels, np.int32(ELSEWHERE))
    divided[background] = ours + position.astype(np.int32)
    at_row, at_column = np.divmod(present, cells)
    first = np.array([block[1], block[0]]) * cells
    middles = (np.stack([at_column, at_row], axis=1) + first + 0.5) * cell - np.array(corner)
    return divided, middles.astype(np.float64)
