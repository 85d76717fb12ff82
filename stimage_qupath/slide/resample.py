"""Scale of one axis, and level pixels resampled to output pixels.

Pillow's ``resize`` with a ``box`` of floats maps the box onto the output exactly, corner to corner, so that nothing
moves when the scale or the corner is not an integer. The triangle filter (``BILINEAR``) widens with the scale, hence
does not alias, and is symmetric and continuous: a blob keeps its centroid, which Pillow's ``BOX``, made of whole source
pixels, does not promise. It runs on floats: on bytes Pillow rounds after each of its two passes, and then two regions
may differ by two grey levels where they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ON_GRID_PX: Final = 1e-3  # a shift this small changes no pixel by more than a quarter of a grey level


@dataclass(frozen=True)
class Axis:
    """Output pixels along one axis and where they lie on a level.

    Attributes
    ----------
    origin
        Position of output pixel 0's outer edge, level px.
    scale
        Level px per output px.
    length
        Number of output pixels.
    start
        Index of the first of them; output pixel k covers ``origin + k * scale`` to ``origin + (k + 1) * scale``.
    """

    origin: float
    scale: float
    length: int
    start: int = 0

    @property
    def on_grid(self) -> bool:
        """Whether output pixels are level pixels, one for one."""
        drift = abs(self.scale - 1) * (self.start + self.length)
        return drift < _ON_GRID_PX and abs(self.origin - round(self.origin)) < _ON_GRID_PX

    @property
    def span(self) -> tuple[float, float]:
        """First and last edge, level px."""
        return self.origin + self.start * self.scale, self.origin + (self.start + self.length) * self.scale

    @property
    def source(self) -> range:
        """Level pixels that the filter looks at, its reach beyond the span included."""
        first, last = self.span
        reach = math.ceil(max(self.scale, 1.0)) + 1
        return range(math.floor(first) - reach, math.ceil(last) + reach)

    def split(self, source_px: int) -> Iterator[Axis]:
        """Yield runs of output pixels that cover about ``source_px`` level pixels each."""
        step = max(1, int(source_px / self.scale))
        for start in range(self.start, self.start + self.length, step):
            yield replace(self, start=start, length=min(step, self.start + self.length - start))


def output_blocks(across: Axis, down: Axis, source_px: tuple[int, int]) -> Iterator[tuple[Axis, Axis]]:
    """Yield (columns, rows) of the blocks, row by row, that cover ``source_px`` (width, height) level pixels each."""
    for rows in down.split(source_px[1]):
        for columns in across.split(source_px[0]):
            yield columns, rows


def resample(source: NDArray[np.uint8], *, columns: Axis, rows: Axis) -> NDArray[np.uint8]:
    """Return the output pixels of one block.

    Parameters
    ----------
    source
        (len(rows.source), len(columns.source), 3) level pixels.
    columns, rows
        The block.

    Returns
    -------
    numpy.ndarray
        (rows.length, columns.length, 3) uint8.
    """
    left, right = (edge - columns.source.start for edge in columns.span)
    top, bottom = (edge - rows.source.start for edge in rows.span)
    size, box = (columns.length, rows.length), (left, top, right, bottom)
    block = np.empty((rows.length, columns.length, 3), dtype=np.uint8)
    for channel in range(3):
        plane = Image.fromarray(source[..., channel].astype(np.float32))
        block[..., channel] = np.rint(np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box=box)))
    return block
