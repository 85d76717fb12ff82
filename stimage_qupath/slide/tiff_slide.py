"""TIFF, BigTIFF, SVS and OME-TIFF, tile by tile through tifffile's page interface."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.slide.base import DEFAULT_CACHE_BYTES, Level
from stimage_qupath.slide.plane import FIRST, Plane
from stimage_qupath.slide.segments import SegmentedSlide, UnreadableSegmentError
from stimage_qupath.slide.tiff_page import TiffImage
from stimage_qupath.slide.tiff_pyramid import MALFORMED, read_pyramid


class TiffSlide(SegmentedSlide):
    """A tiled or stripped TIFF of 8-bit RGB or grey pixels.

    Memory does not grow with the image, but for a compressed file that is one single strip.

    Parameters
    ----------
    path
        File.
    plane
        Which image of the file.
    cache_bytes
        Bound of the decoded tiles that are kept.

    Raises
    ------
    ImageError
        If the file is damaged, truncated, no 8-bit RGB image, or does not hold that plane.
    """

    reader = "tiff"

    def __init__(self, path: Path, *, plane: Plane = FIRST, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._images, mpp_xy = read_pyramid(path, plane)
        self._plane = plane
        base = self._images[0]
        super().__init__(
            path,
            levels=tuple(_level(image, base) for image in self._images),
            mpp_xy=mpp_xy,
            segment_shapes=tuple((image.segment_width, image.segment_height) for image in self._images),
            cache_bytes=cache_bytes,
        )
        self._file = path.open("rb")
        self._file_lock = threading.Lock()

    def content_id(self) -> str:
        """Return an identity of the file's bytes and of the plane."""
        of_file = super().content_id()
        return of_file if self._plane.is_first else hashlib.sha256(f"{of_file}:{self._plane}".encode()).hexdigest()

    def _decode(self, level: int, row: int, column: int) -> NDArray[np.uint8] | None:
        image = self._images[level]
        planes = []
        for index in image.segments(row, column):
            if image.byte_counts[index] == 0 or image.offsets[index] == 0:
                return None
            try:
                planes.append(image.decode(self._read(image.offsets[index], image.byte_counts[index]), index))
            except MALFORMED as error:
                msg = f"tile {index} of level {level} of {self.path.name} cannot be decoded"
                raise UnreadableSegmentError(msg) from error
        return image.to_rgb(planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1))

    def _read(self, offset: int, count: int) -> bytes:
        """Return bytes of the file; only the read itself is locked, decoding runs in parallel."""
        with self._file_lock:
            self._file.seek(offset)
            return self._file.read(count)

    def close(self) -> None:
        """Close the file; reading afterwards is a ValueError."""
        super().close()
        self._file.close()


def _level(image: TiffImage, base: TiffImage) -> Level:
    return Level(
        width=image.width,
        height=image.height,
        downsample_x=base.width / image.width,
        downsample_y=base.height / image.height,
    )
