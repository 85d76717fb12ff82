"""A slide as QuPath shows it when it turns or crops an image: the same contract, other coordinates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.slide.base import Level, Slide
from stimage_qupath.slide.colour import WHITE
from stimage_qupath.slide.plane import FIRST, Plane
from stimage_qupath.slide.reader import open_slide

QUARTERS: Final = {90: 1, 180: 2, 270: 3}
STEP: Final = re.compile(
    r"series (?P<series>\d+)|plane (?P<plane>\d+,\d+)|rotate (?P<degrees>90|180|270)|crop (?P<box>\d+,\d+,\d+,\d+)"
)


def open_view(path: Path, steps: Sequence[str] = (), **options: Any) -> Slide:
    """Open an image and apply ``steps`` to it, the first one first.

    Parameters
    ----------
    path
        File.
    steps
        ``series N`` and ``plane Z,T``, which say what of the file is read; ``rotate 90``, ``rotate 180`` or
        ``rotate 270`` (clockwise, as QuPath's rotation on import), and ``crop X,Y,WIDTH,HEIGHT`` in the level-0 pixels
        of what the steps before made.
    **options
        As :func:`open_slide`.

    Raises
    ------
    UsageError
        A step is not one of these, or crops beyond the image; else as :func:`open_slide`.
    """
    parsed = [(step, STEP.fullmatch(step)) for step in steps]
    for step, match in parsed:
        if match is None:
            msg = "expected a view 'series N', 'plane Z,T', 'rotate 90|180|270' or 'crop X,Y,WIDTH,HEIGHT', "
            msg += f"found '{step}'"
            raise UsageError(msg)
    slide = open_slide(path, plane=plane_of(steps), **options)
    try:
        for _, match in parsed:
            if match is not None and match["degrees"]:
                slide = RotatedSlide(slide, int(match["degrees"]))
            elif match is not None and match["box"]:
                x, y, width, height = map(int, match["box"].split(","))
                slide = CroppedSlide(slide, x, y, width=width, height=height)
    except BaseException:
        slide.close()
        raise
    return slide


def plane_of(steps: Sequence[str]) -> Plane:
    """Return which image of the file ``steps`` ask for."""
    plane = FIRST
    for match in filter(None, map(STEP.fullmatch, steps)):
        if match["series"]:
            plane = replace(plane, series=int(match["series"]))
        elif match["plane"]:
            z, t = map(int, match["plane"].split(","))
            plane = replace(plane, z=z, t=t)
    return plane


class SlideView(Slide):
    """A slide whose pixels come from another one, which it closes with itself.

    Parameters
    ----------
    source
        Open slide.
    levels, mpp_xy
        As of :class:`Slide`.
    change
        What was done, for the identity: nuclei of a turned slide have other ids.
    """

    def __init__(
        self, source: Slide, *, levels: tuple[Level, ...], mpp_xy: tuple[float, float] | None, change: str
    ) -> None:
        super().__init__(source.path, levels=levels, mpp_xy=mpp_xy)
        self._source = source
        self._change = change
        self.reader = source.reader  # type: ignore[misc]  # a view reads as its source does

    @property
    def read_tiles(self) -> int:
        """As of the source."""
        return self._source.read_tiles

    @property
    def bad_tiles(self) -> int:
        """As of the source."""
        return self._source.bad_tiles

    def content_id(self) -> str:
        """Return an identity of the file's bytes and of what is done to them."""
        return hashlib.sha256(f"{self._source.content_id()}:{self._change}".encode()).hexdigest()

    def close(self) -> None:
        """Close the source too."""
        super().close()
        self._source.close()


class RotatedSlide(SlideView):
    """A slide turned clockwise by 90, 180 or 270 degrees, as QuPath's ``RotatedImageServer``.

    Raises
    ------
    ValueError
        For any other angle.
    """

    def __init__(self, source: Slide, degrees: int) -> None:
        if degrees not in QUARTERS:
            msg = f"expected a rotation by 90, 180 or 270 degrees, found {degrees}"
            raise ValueError(msg)
        self._quarters = QUARTERS[degrees]
        mpp = None if source.mpp_x is None or source.mpp_y is None else (source.mpp_x, source.mpp_y)
        if self._quarters % 2:
            levels = tuple(Level(v.height, v.width, v.downsample_y, v.downsample_x) for v in source.levels)
            mpp = mpp and (mpp[1], mpp[0])
        else:
            levels = source.levels
        super().__init__(source, levels=levels, mpp_xy=mpp, change=f"rotate {degrees}")

    def _block_shape(self, level: int) -> tuple[int, int]:
        width, height = self._source._block_shape(level)
        return (height, width) if self._quarters % 2 else (width, height)

    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        turned = self.levels[level]
        if self._quarters == 1:
            box = self._source._read_inside(level, y, turned.width - x - width, width=height, height=width)
        elif self._quarters == 2:
            corner = turned.width - x - width, turned.height - y - height
            box = self._source._read_inside(level, *corner, width=width, height=height)
        else:
            box = self._source._read_inside(level, turned.height - y - height, x, width=height, height=width)
        return np.ascontiguousarray(np.rot90(box, -self._quarters))


class CroppedSlide(SlideView):
    """A rectangle of a slide, as QuPath's ``CroppedImageServer``; everything around it is white.

    Parameters
    ----------
    source
        Open slide.
    x, y, width, height
        Rectangle, level-0 px of ``source``.

    Raises
    ------
    UsageError
        It is empty or leaves the image.
    """

    def __init__(self, source: Slide, x: int, y: int, *, width: int, height: int) -> None:
        if not (0 <= x < x + width <= source.width and 0 <= y < y + height <= source.height):
            msg = (
                f"expected a crop within {source.width} x {source.height} px, found {width} x {height} at ({x}, {y}); "
                "open the project in QuPath and check the image"
            )
            raise UsageError(msg)
        self._corner = x, y
        levels = tuple(
            Level(
                max(1, round(width / v.downsample_x)),
                max(1, round(height / v.downsample_y)),
                v.downsample_x,
                v.downsample_y,
            )
            for v in source.levels
        )
        levels = (Level(width, height, 1.0, 1.0), *levels[1:])
        mpp = None if source.mpp_x is None or source.mpp_y is None else (source.mpp_x, source.mpp_y)
        super().__init__(source, levels=levels, mpp_xy=mpp, change=f"crop {x},{y},{width},{height}")

    def read_region(self, x: float, y: float, *, width: int, height: int, downsample: float = 1.0) -> NDArray[np.uint8]:
        """Return a region as RGB; see :meth:`Slide.read_region`. Pixels whose centre is outside the crop are white."""
        self._check_request(x, y, width, height, downsample)
        corner = x + self._corner[0], y + self._corner[1]
        region = self._source.read_region(*corner, width=width, height=height, downsample=downsample)
        across = x + (np.arange(width) + 0.5) * downsample
        down = y + (np.arange(height) + 0.5) * downsample
        outside = ~((down >= 0) & (down < self.height))[:, None] | ~((across >= 0) & (across < self.width))[None, :]
        if outside.any():
            region = region.copy()
            region[outside] = WHITE
        return region

    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        shape = self.levels[level]
        corner = self._corner[0] + x * shape.downsample_x, self._corner[1] + y * shape.downsample_y
        return self._source.read_region(*corner, width=width, height=height, downsample=shape.downsample_x)
