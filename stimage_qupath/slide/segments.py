"""Slides made of tiles or strips: decoded one by one, kept in a bounded cache, counted."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.slide.base import DEFAULT_CACHE_BYTES, Level, Slide
from stimage_qupath.slide.colour import WHITE

SegmentKey: TypeAlias = tuple[int, int, int]
"""(level, row, column) of a tile or strip."""

_BLOCK_AREA_PX: Final = 2**24
_UNSEEN, _READ, _BAD = 0, 1, 2


class UnreadableSegmentError(Exception):
    """A tile or strip cannot be decoded; it is counted and shown white, so this never leaves the folder."""


class SegmentCache:
    """Least recently used decoded segments, up to a number of bytes; may be shared by threads.

    A segment larger than the whole bound is kept until the next one comes, so that strips as large as the image are
    not decoded once per window.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            msg = f"expected a cache of at least 0 bytes, found {max_bytes}"
            raise ValueError(msg)
        self.max_bytes = max_bytes
        self._segments: OrderedDict[SegmentKey, NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, key: SegmentKey) -> NDArray[np.uint8] | None:
        """Return the segment, or None when it is not held."""
        with self._lock:
            if key in self._segments:
                self._segments.move_to_end(key)
            return self._segments.get(key)

    def put(self, key: SegmentKey, segment: NDArray[np.uint8]) -> None:
        """Hold a segment and let go of the ones that were not used for longest."""
        with self._lock:
            if key in self._segments:
                return
            self._segments[key] = segment
            self._bytes += segment.nbytes
            while self._bytes > self.max_bytes and len(self._segments) > 1:
                _, oldest = self._segments.popitem(last=False)
                self._bytes -= oldest.nbytes

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._segments.clear()
            self._bytes = 0


class SegmentedSlide(Slide):
    """A slide whose levels are grids of tiles or strips.

    Parameters
    ----------
    path, levels, mpp_xy
        As for :class:`Slide`.
    segment_shapes
        (width, height) of a segment, for each level.
    cache_bytes
        Bound of the decoded segments that are kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        levels: tuple[Level, ...],
        mpp_xy: tuple[float, float] | None,
        segment_shapes: tuple[tuple[int, int], ...],
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        super().__init__(path, levels=levels, mpp_xy=mpp_xy)
        self._shapes = segment_shapes
        self._across = [-(-level.width // shape[0]) for level, shape in zip(levels, segment_shapes, strict=True)]
        self._down = [-(-level.height // shape[1]) for level, shape in zip(levels, segment_shapes, strict=True)]
        self._cache = SegmentCache(cache_bytes)
        # One byte a segment, so that the counts do not depend on how often the cache let a segment go.
        self._state = [bytearray(across * down) for across, down in zip(self._across, self._down, strict=True)]
        self._count_lock = threading.Lock()
        self._read_tiles = 0
        self._bad_tiles = 0

    @property
    def read_tiles(self) -> int:
        """Number of different segments that were decoded so far, the unreadable ones included."""
        return self._read_tiles

    @property
    def bad_tiles(self) -> int:
        """Number of different segments that could not be decoded so far; their pixels are white."""
        return self._bad_tiles

    @abstractmethod
    def _decode(self, level: int, row: int, column: int) -> NDArray[np.uint8] | None:
        """Return one segment as (height, width, 3) RGB, None where the file leaves it out.

        Raises
        ------
        UnreadableSegmentError
            If its bytes are damaged.
        """

    def _block_shape(self, level: int) -> tuple[int, int]:
        """Return the box of one step: full rows where segments are strips, which would be decoded many times else."""
        width = self.levels[level].width
        if self._shapes[level][0] < width:
            return super()._block_shape(level)
        return 2 * width, max(1, _BLOCK_AREA_PX // width)

    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        """Return a box of the level, pasted together from its segments."""
        box = np.full((height, width, 3), WHITE, dtype=np.uint8)
        segment_width, segment_height = self._shapes[level]
        for row in range(y // segment_height, (y + height - 1) // segment_height + 1):
            for column in range(x // segment_width, (x + width - 1) // segment_width + 1):
                segment = self._segment(level, row, column)
                if segment is not None:
                    _paste(segment, box, x=column * segment_width - x, y=row * segment_height - y)
        return box

    def _segment(self, level: int, row: int, column: int) -> NDArray[np.uint8] | None:
        key = (level, row, column)
        segment = self._cache.get(key)
        if segment is not None:
            return segment
        try:
            segment = self._decode(level, row, column)
        except UnreadableSegmentError:
            self._count(key, _BAD)
            return None
        if segment is not None:
            segment.flags.writeable = False
            self._cache.put(key, segment)
            self._count(key, _READ)
        return segment

    def _count(self, key: SegmentKey, state: int) -> None:
        level, row, column = key
        index = row * self._across[level] + column
        with self._count_lock:
            if self._state[level][index] == _UNSEEN:
                self._state[level][index] = state
                self._read_tiles += 1
                self._bad_tiles += state == _BAD

    def close(self) -> None:
        """Release the file and the cache; reading afterwards is a ValueError."""
        super().close()
        self._cache.clear()


def _paste(segment: NDArray[np.uint8], box: NDArray[np.uint8], *, x: int, y: int) -> None:
    """Write the part of ``segment`` that meets ``box`` when its corner stands at (x, y) of the box."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + segment.shape[1], box.shape[1]), min(y + segment.shape[0], box.shape[0])
    box[y0:y1, x0:x1] = segment[y0 - y : y1 - y, x0 - x : x1 - x]
