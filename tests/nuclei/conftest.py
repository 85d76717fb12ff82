"""Slides in memory with nuclei at known places, and a segmenter so simple that its result is known too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.results import Region
from stimage_qupath.slide.base import Level, Slide

TISSUE = np.array([232.0, 190, 214])
NUCLEUS = np.array([92.0, 60, 150])


class ArraySlide(Slide):
    """A slide whose only level is an array; counts its reads."""

    reader = "array"

    def __init__(self, pixels: NDArray[np.uint8], mpp: float) -> None:
        height, width, _ = pixels.shape
        super().__init__(Path("array"), levels=(Level(width, height, 1.0, 1.0),), mpp_xy=(mpp, mpp))
        self.pixels = pixels
        self.reads: list[tuple[float, float]] = []
        self._lock = Lock()

    @property
    def read_tiles(self) -> int:
        return len(self.reads)

    @property
    def bad_tiles(self) -> int:
        return 0

    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        with self._lock:
            self.reads.append((x, y))
        return self.pixels[y : y + height, x : x + width]


@pytest.fixture(scope="session")
def array_slide() -> type[ArraySlide]:
    """Return the class of slides in memory."""
    return ArraySlide


@pytest.fixture(scope="session")
def disc_slide() -> Callable[..., ArraySlide]:
    """Return a function that paints discs of (x, y, radius), level-0 px, on pink tissue, smooth at the edge."""

    def paint(width: int, height: int, mpp: float, discs: NDArray[np.float64]) -> ArraySlide:
        cover = np.zeros((height, width))
        for x, y, radius in discs:
            left, top = max(int(x - radius) - 2, 0), max(int(y - radius) - 2, 0)
            box = cover[top : int(y + radius) + 3, left : int(x + radius) + 3]
            row, col = np.mgrid[: box.shape[0], : box.shape[1]]
            distance = np.hypot(col + left + 0.5 - x, row + top + 0.5 - y)
            np.maximum(box, np.clip(radius + 0.5 - distance, 0, 1), out=box)
        pixels = TISSUE + cover[..., None] * (NUCLEUS - TISSUE)
        return ArraySlide(np.rint(pixels).astype(np.uint8), mpp)

    return paint


@dataclass(frozen=True)
class DarkParts:
    """Labels the parts darker than half-way between tissue and nucleus: a nucleus looks alike from every block."""

    def label(self, rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
        labels, _ = ndimage.label(rgb[..., 0] < (TISSUE + NUCLEUS)[0] / 2)
        return labels.astype(np.int32)


@dataclass(frozen=True)
class DarkPartsSegmenter:
    """The segmenter that :class:`DarkParts` is bound from."""

    name: str = "dark parts"
    mpp: float = 0.5
    halo_um: float = 16.0
    stride: int = 1
    bound: DarkParts = field(default_factory=DarkParts)

    def calibrate(self, slide: Slide, mpp: float, regions: Sequence[Region]) -> DarkParts:
        return self.bound


@pytest.fixture(scope="session")
def dark_parts() -> type[DarkPartsSegmenter]:
    """Return the class of the simple segmenter."""
    return DarkPartsSegmenter
