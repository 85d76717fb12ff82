"""A grid of square blocks over a slide, and the blocks that a geometry needs.

The grid is anchored at level-0 (0, 0) and knows nothing of the geometry, so that two annotations that share a block
share its result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True, slots=True)
class Block:
    """The core of one block: what it owns, without the context that is read around it.

    Attributes
    ----------
    row, col
        Place in the grid; negative where a geometry leaves the slide at the top or left.
    x, y
        Top-left corner, level-0 px.
    width, height
        Size, level-0 px.
    """

    row: int
    col: int
    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        """Refuse a block without area."""
        if not (0 < self.width < math.inf and 0 < self.height < math.inf):
            msg = f"expected a Block of positive size, found {self.width} x {self.height} px"
            raise ValueError(msg)


def blocks_over(geometry: BaseGeometry, *, size_px: float) -> Iterator[Block]:
    """Yield the blocks whose core shares area with a geometry, row by row, each row from left to right.

    Parameters
    ----------
    geometry
        Valid Polygon or MultiPolygon, level-0 px. One without area needs no block.
    size_px
        Side of a block, level-0 px; need not be an integer.

    Raises
    ------
    ValueError
        If ``size_px`` is not a positive number.
    """
    if not 0 < size_px < math.inf:
        msg = f"expected a block size above 0 px, found {size_px}"
        raise ValueError(msg)
    return _blocks_over(geometry, size_px)


def _blocks_over(geometry: BaseGeometry, size_px: float) -> Iterator[Block]:
    if geometry.is_empty or geometry.area == 0:
        return
    left, top, right, bottom = geometry.bounds
    cols = np.arange(math.floor(left / size_px), math.ceil(right / size_px))
    shapely.prepare(geometry)
    for row in range(math.floor(top / size_px), math.ceil(bottom / size_px)):
        cores = shapely.box(cols * size_px, row * size_px, (cols + 1) * size_px, (row + 1) * size_px)
        # Two areas that intersect and do more than touch share area.
        needed = shapely.intersects(geometry, cores) & ~shapely.touches(geometry, cores)
        for col in cols[needed].tolist():
            yield Block(row=row, col=col, x=col * size_px, y=row * size_px, width=size_px, height=size_px)
