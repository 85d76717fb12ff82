"""Everything only OpenSlide knows: NDPI, MRXS, SCN, BIF, VMS, DICOM and rarely used TIFF."""

from __future__ import annotations

import importlib
import math
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import ImageError, MissingPartError
from stimage_qupath.slide.base import DEFAULT_CACHE_BYTES, Level
from stimage_qupath.slide.colour import over_white
from stimage_qupath.slide.segments import SegmentedSlide, UnreadableSegmentError

_SEGMENT_PX: Final = 512


class OpenSlideSlide(SegmentedSlide):
    """A slide read by OpenSlide, cropped to its bounds as QuPath shows it.

    Where the file states the non-empty area (``openslide.bounds-*``), (0, 0) is the corner of that area.

    Parameters
    ----------
    path
        File.
    cache_bytes
        Bound of the decoded segments that are kept.

    Raises
    ------
    MissingPartError
        If OpenSlide is not installed.
    ImageError
        If OpenSlide cannot open the file.
    """

    reader = "openslide"

    def __init__(self, path: Path, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._openslide = _require_openslide(path)
        self._handle = self._open(path)
        self._handle_lock = threading.Lock()
        properties = dict(self._handle.properties)
        full_width, full_height = self._handle.dimensions
        self._corner = _integer(properties, "openslide.bounds-x", 0), _integer(properties, "openslide.bounds-y", 0)
        width = _integer(properties, "openslide.bounds-width", full_width)
        height = _integer(properties, "openslide.bounds-height", full_height)
        levels = tuple(
            _cropped_level((width, height), full=(full_width, full_height), level=size)
            for size in self._handle.level_dimensions
        )
        super().__init__(
            path,
            levels=levels,
            mpp_xy=_stated_mpp(properties),
            segment_shapes=((_SEGMENT_PX, _SEGMENT_PX),) * len(levels),
            cache_bytes=cache_bytes,
        )

    def _open(self, path: Path) -> Any:
        try:
            return self._openslide.OpenSlide(str(path))
        except self._openslide.OpenSlideUnsupportedFormatError as error:
            msg = f"expected a slide format, found none that is known in {path.name}; convert it to OME-TIFF"
            raise ImageError(msg) from error
        except self._openslide.OpenSlideError as error:
            msg = (
                f"expected a slide OpenSlide reads, found {path.name}: {error}; copy it again or convert it to OME-TIFF"
            )
            raise ImageError(msg) from error

    def _decode(self, level: int, row: int, column: int) -> NDArray[np.uint8] | None:
        shape = self.levels[level]
        x, y = column * _SEGMENT_PX, row * _SEGMENT_PX
        size = min(_SEGMENT_PX, shape.width - x), min(_SEGMENT_PX, shape.height - y)
        # OpenSlide takes the corner in whole level-0 pixels, so a coarse level may lie half such a pixel off.
        corner = self._corner[0] + round(x * shape.downsample_x), self._corner[1] + round(y * shape.downsample_y)
        handle = self._handle
        try:
            rgba = np.asarray(handle.read_region(corner, level, size))
        except self._openslide.OpenSlideError as error:
            self._replace(handle)
            msg = f"the area at {corner} of level {level} of {self.path.name} cannot be decoded"
            raise UnreadableSegmentError(msg) from error
        return over_white(rgba[..., :3], rgba[..., 3:])

    def _replace(self, broken: Any) -> None:
        """Open the file anew: after one error OpenSlide answers every further call with that error."""
        with self._handle_lock:
            if self._handle is broken:
                self._handle = self._open(self.path)

    def close(self) -> None:
        """Close the file; reading afterwards is a ValueError."""
        super().close()
        self._handle.close()


def _require_openslide(path: Path) -> ModuleType:
    try:
        return importlib.import_module("openslide")
    except (ImportError, OSError) as error:  # OSError: the Python part is there, the library is not
        msg = f'expected OpenSlide to read {path.name}, found none; run: pip install "stimage-qupath[openslide]"'
        raise MissingPartError(msg) from error


def _cropped_level(size: tuple[int, int], *, full: tuple[int, int], level: tuple[int, int]) -> Level:
    """Return a level of the bounds; its downsample is that of the whole slide, which the crop does not change."""
    downsample_x, downsample_y = full[0] / level[0], full[1] / level[1]
    return Level(
        width=max(1, round(size[0] / downsample_x)),
        height=max(1, round(size[1] / downsample_y)),
        downsample_x=downsample_x,
        downsample_y=downsample_y,
    )


def _integer(properties: dict[str, str], name: str, default: int) -> int:
    return int(properties.get(name) or default)


def _stated_mpp(properties: dict[str, str]) -> tuple[float, float] | None:
    try:
        mpp = float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])
    except (KeyError, ValueError):
        return None
    return mpp if all(map(math.isfinite, mpp)) else None
