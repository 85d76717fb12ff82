"""The noun of this folder: a slide, its levels, and a region of it at any scale."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.slide.colour import WHITE
from stimage_qupath.slide.resample import Axis, output_blocks, resample

DEFAULT_CACHE_BYTES: Final = 128 * 2**20
_IDENTITY_BYTES: Final = 2**20
_BLOCK_PX: Final = 4096  # side of the level pixels held at once: 48 MiB of RGB, whatever the size of the slide


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Attributes
    ----------
    width, height
        Size in pixels of this level.
    downsample_x, downsample_y
        Level-0 pixels per pixel of this level, exact and per axis: 2220 / 574 is not rounded to 4.
    """

    width: int
    height: int
    downsample_x: float
    downsample_y: float

    def __post_init__(self) -> None:
        """Refuse a level without pixels or finer than level 0."""
        if self.width < 1 or self.height < 1:
            msg = f"expected a Level of at least 1 x 1 px, found {self.width} x {self.height}"
            raise ValueError(msg)
        if not (1 <= self.downsample_x < math.inf and 1 <= self.downsample_y < math.inf):
            msg = f"expected downsamples of at least 1, found {self.downsample_x} and {self.downsample_y}"
            raise ValueError(msg)

    def serves(self, downsample: float) -> bool:
        """Return whether this level has the detail that ``downsample`` asks for.

        A level that is half of an odd width has lost up to one pixel by rounding: 4443 px halve to 2221, a ratio of
        2.0005. It still serves a downsample of 2, so the comparison is with the ratio of a level one pixel larger.
        """
        least_x = self.downsample_x * self.width / (self.width + 1)
        least_y = self.downsample_y * self.height / (self.height + 1)
        return max(least_x, least_y) <= downsample


class Slide(ABC):
    """An image that is read region by region; a context manager.

    Coordinates are (x, y) in level-0 pixels of the image as QuPath shows it. ``read_region`` may be called from many
    threads at once.

    Attributes
    ----------
    path
        File the pixels come from.
    width, height
        Size of level 0 in pixels.
    levels
        From the finest to the coarsest; the first is level 0.
    mpp_x, mpp_y
        Micrometres per level-0 pixel as the file states them, None where it states none.
    reader
        ``tiff``, ``flat`` or ``openslide``, for the run record.
    """

    reader: ClassVar[str]

    def __init__(self, path: Path, *, levels: tuple[Level, ...], mpp_xy: tuple[float, float] | None) -> None:
        self.path = path
        self.levels = levels
        self.width = levels[0].width
        self.height = levels[0].height
        self.mpp_x: float | None
        self.mpp_y: float | None
        self.mpp_x, self.mpp_y = mpp_xy or (None, None)
        self._closed = False

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 pixel, mean of x and y, or None when the file states none."""
        return None if self.mpp_x is None or self.mpp_y is None else (self.mpp_x + self.mpp_y) / 2

    @property
    @abstractmethod
    def read_tiles(self) -> int:
        """Number of different tiles or strips of the file that were decoded so far, the unreadable ones included."""

    @property
    @abstractmethod
    def bad_tiles(self) -> int:
        """Number of different tiles or strips that could not be decoded so far; their pixels are white."""

    @abstractmethod
    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        """Return the level pixels of a box that lies inside the level, (height, width, 3)."""

    def _block_shape(self, level: int) -> tuple[int, int]:
        """Return width and height of the box of level pixels that one step of a large read may hold."""
        return _BLOCK_PX, _BLOCK_PX

    def level_for(self, downsample: float) -> int:
        """Return the index of the coarsest level that has the detail of ``downsample``."""
        return max((i for i, level in enumerate(self.levels) if level.serves(downsample)), default=0)

    def read_region(self, x: float, y: float, *, width: int, height: int, downsample: float = 1.0) -> NDArray[np.uint8]:
        """Return a region as RGB; everything outside the image is white.

        Output pixel (row i, column j) covers the level-0 square from ``(x + j * downsample, y + i * downsample)`` to
        ``(x + (j + 1) * downsample, y + (i + 1) * downsample)``. Pixels come from the coarsest level that is fine
        enough, through a triangle filter as wide as the output pixel; the content of a pixel does not depend on the
        region it is read in (to one grey level, which is rounding). Where ``downsample`` is that of a level and the
        corner lies on its grid, the pixels are those of the file.

        Parameters
        ----------
        x, y
            Top-left corner, level-0 px.
        width, height
            Size of the result in output pixels.
        downsample
            Level-0 pixels per output pixel; below 1 magnifies.

        Returns
        -------
        numpy.ndarray
            (height, width, 3) uint8.

        Raises
        ------
        ValueError
            If the slide is closed or an argument is no size, no scale or not finite.
        """
        self._check_request(x, y, width, height, downsample)
        index = self.level_for(downsample)
        level = self.levels[index]
        across = Axis(origin=x / level.downsample_x, scale=downsample / level.downsample_x, length=width)
        down = Axis(origin=y / level.downsample_y, scale=downsample / level.downsample_y, length=height)
        if across.on_grid and down.on_grid:
            return self._read_padded(index, round(across.origin), round(down.origin), width=width, height=height)
        region = np.empty((height, width, 3), dtype=np.uint8)
        for columns, rows in output_blocks(across, down, self._block_shape(index)):
            source_x, source_y = columns.source, rows.source
            source = self._read_padded(index, source_x.start, source_y.start, width=len(source_x), height=len(source_y))
            block = resample(source, columns=columns, rows=rows)
            region[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length] = block
        return region

    def _check_request(self, x: float, y: float, width: int, height: int, downsample: float) -> None:
        if self._closed:
            msg = f"expected an open slide, found {self.path.name} closed; read inside its with block"
            raise ValueError(msg)
        if width < 1 or height < 1:
            msg = f"expected a region of at least 1 x 1 px, found {width} x {height}"
            raise ValueError(msg)
        if not (math.isfinite(x) and math.isfinite(y)):
            msg = f"expected a finite corner, found ({x}, {y})"
            raise ValueError(msg)
        if not 0 < downsample < math.inf:
            msg = f"expected a downsample above 0, found {downsample}"
            raise ValueError(msg)

    def _read_padded(self, index: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        """Return a box of level pixels, white where it leaves the level."""
        level = self.levels[index]
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, level.width), min(y + height, level.height)
        if (x0, y0, x1, y1) == (x, y, x + width, y + height):
            return self._read_inside(index, x, y, width=width, height=height)
        box = np.full((height, width, 3), WHITE, dtype=np.uint8)
        if x0 < x1 and y0 < y1:
            inside = self._read_inside(index, x0, y0, width=x1 - x0, height=y1 - y0)
            box[y0 - y : y1 - y, x0 - x : x1 - x] = inside
        return box

    def content_id(self) -> str:
        """Return an identity of the file's bytes that does not depend on its name or place.

        SHA-256 (hex) over the size of the file and its first and last MiB: cheap on a slide of many GiB. For a format
        of several files it is that of the file that was opened.
        """
        size = self.path.stat().st_size
        digest = hashlib.sha256(f"{size}:".encode())
        with self.path.open("rb") as file:
            digest.update(file.read(_IDENTITY_BYTES))
            file.seek(max(file.tell(), size - _IDENTITY_BYTES))
            digest.update(file.read(_IDENTITY_BYTES))
        return digest.hexdigest()

    def close(self) -> None:
        """Release the file; reading afterwards is a ValueError."""
        self._closed = True

    def __enter__(self) -> Self:
        """Return the slide itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the slide."""
        self.close()
