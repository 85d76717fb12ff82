"""The nuclei of one block of the slide, read with its halo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath.nuclei.expansion import REACH_UM, SPACING_UM, cell_measurements, cell_outlines
from stimage_qupath.nuclei.features import shape_measurements, stain_measurements
from stimage_qupath.nuclei.outline import outlines
from stimage_qupath.nuclei.segmenter import BoundSegmenter
from stimage_qupath.results import Timer, untimed
from stimage_qupath.slide.base import Slide

_BLANK: Final = 230  # every channel above it: glass, whatever the segmenter
_BLANK_STEP: Final = 4  # working pixels: 2 µm of 0.5, so that no nucleus slips through


@dataclass(frozen=True, slots=True)
class BlockNuclei:
    """Nuclei whose centroid lies in the core of a block, or up to a tolerance outside it.

    Attributes
    ----------
    polygons
        (nucleus,) shapely Polygons, level-0 px.
    centroids_px
        (nucleus, 2) float64, x and y.
    measurements
        Name to (nucleus,) float32.
    boundaries
        (nucleus,) shapely Polygons of the whole cells, or None where only nuclei are asked for.
    """

    polygons: NDArray[np.object_]
    centroids_px: NDArray[np.float64]
    measurements: dict[str, NDArray[np.float32]]
    boundaries: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        """Return the number of nuclei."""
        return len(self.polygons)


Place: TypeAlias = tuple[int, int, int, int, int, int]
"""Row and column of a block, and left, top, right and bottom of the part of it that is looked at, working pixels."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Blocks in the working pixels of a segmenter, anchored at level-0 (0, 0).

    Attributes
    ----------
    downsample
        Level-0 px per working pixel.
    block
        Side of a core, working pixels.
    halo
        Context on each side, working pixels.
    """

    downsample: float
    block: int
    halo: int

    def __post_init__(self) -> None:
        """Refuse blocks without pixels."""
        if self.block < 1 or self.halo < 0 or not 0 < self.downsample < math.inf:
            msg = f"expected a Grid with block >= 1, halo >= 0 and downsample > 0, found {self}"
            raise ValueError(msg)

    def part(self, row: int, col: int, bounds_px: tuple[float, float, float, float], *, step: int) -> Place:
        """Return a block with as much of it as bounds (left, top, right, bottom; level-0 px) ask for.

        ``step`` is the grid of the part's edges, working pixels; the least part is one step in each direction.
        """
        left, top, right, bottom = bounds_px
        across = _span(left, right, col * self.size_px, self.downsample, self.block, step)
        down = _span(top, bottom, row * self.size_px, self.downsample, self.block, step)
        return row, col, across[0], down[0], across[1], down[1]

    @property
    def size_px(self) -> float:
        """Side of a core, level-0 px."""
        return self.block * self.downsample

    @property
    def halo_px(self) -> float:
        """Context on each side, level-0 px."""
        return self.halo * self.downsample

    @property
    def tolerance_px(self) -> float:
        """How far outside its core a block still reports a centroid: one working pixel, in level-0 px."""
        return self.downsample


@dataclass(frozen=True, slots=True)
class BlockReader:
    """Segments one block after another; may be called from many threads at once.

    Attributes
    ----------
    slide
        Open slide.
    mpp
        Level-0 pixel size, µm.
    segmenter
        Calibrated for the slide.
    grid
        Where the blocks are.
    simplify_px
        Tolerance of the outlines, level-0 px.
    expansion_um
        How far cells reach beyond their nucleus, µm; 0 makes nuclei alone. The halo holds :func:`expansion_halo_um`
        more for it.
    timed
        Books the seconds of reading, labelling and measuring.
    """

    slide: Slide
    mpp: float
    segmenter: BoundSegmenter
    grid: Grid
    simplify_px: float
    expansion_um: float = 0.0
    timed: Timer = untimed

    def nuclei(self, place: Place) -> BlockNuclei:
        """Return the nuclei of (a part of) a block."""
        grid = self.grid
        row, col, left, top, right, bottom = place
        x = (col * grid.block + left - grid.halo) * grid.downsample
        y = (row * grid.block + top - grid.halo) * grid.downsample
        width, height = (side + 2 * grid.halo for side in (right - left, bottom - top))
        with self.timed("read"):
            rgb = self.slide.read_region(x, y, width=width, height=height, downsample=grid.downsample)
        if rgb[::_BLANK_STEP, ::_BLANK_STEP].min() > _BLANK:
            return _NONE
        with self.timed("label"):
            labels = _near_core(self.segmenter.label(rgb), margin=self._margin)
        with self.timed("measure"):
            return self._measured(rgb, labels, x, y)

    def _measured(self, rgb: NDArray[np.uint8], labels: NDArray[np.int32], x: float, y: float) -> BlockNuclei:
        """Return the labels that lie in the core as nuclei with outline, shape and stain."""
        grid = self.grid
        values, polygons = outlines(labels, x=x, y=y, downsample=grid.downsample, tolerance_px=self.simplify_px)
        centroids = shapely.get_coordinates(shapely.centroid(polygons))
        corner = np.array([x, y]) + grid.halo_px
        size = (np.array(labels.shape)[::-1] - 2 * grid.halo) * grid.downsample
        ours = (centroids >= corner - grid.tolerance_px) & (centroids < corner + size + grid.tolerance_px)
        kept = np.flatnonzero(ours.all(axis=1))
        stains = stain_measurements(rgb, labels, values[kept])
        measurements = shape_measurements(polygons[kept], mpp=self.mpp) | stains
        boundaries = None
        if self.expansion_um:
            boundaries = self._cells(polygons, kept)
            measurements |= cell_measurements(polygons[kept], boundaries, mpp=self.mpp)
        return BlockNuclei(
            polygons=polygons[kept], centroids_px=centroids[kept], measurements=measurements, boundaries=boundaries
        )

    @property
    def _margin(self) -> int:
        """Working pixels from the edge of the image within which nuclei are not outlined."""
        extra = math.floor(expansion_halo_um(self.expansion_um) / (self.grid.downsample * self.mpp))
        halo = self.grid.halo - extra
        return halo - halo // 4  # a crescent's centroid lies outside it, by less than a quarter of the halo

    def _cells(self, polygons: NDArray[np.object_], kept: NDArray[np.intp]) -> NDArray[np.object_]:
        return cell_outlines(
            polygons,
            kept,
            distance_px=self.expansion_um / self.mpp,
            spacing_px=SPACING_UM / self.mpp,
            slide_size=(self.slide.width, self.slide.height),
        )


def expansion_halo_um(expansion_um: float) -> float:
    """Return the context beyond a segmenter's own that cells need, so that a block knows the nuclei they border on."""
    return 2 * expansion_um + REACH_UM if expansion_um else 0.0


def _span(low: float, high: float, origin: float, downsample: float, block: int, step: int) -> tuple[int, int]:
    """Return the ends, on a grid of ``step`` in a block that begins at ``origin``, of what lies between two points."""
    first = math.floor((low - origin) / downsample / step) * step
    first = min(max(first, 0), (block - 1) // step * step)
    last = math.ceil((high - origin) / downsample / step) * step
    return first, min(max(last, first + step), block)


def _near_core(labels: NDArray[np.int32], *, margin: int) -> NDArray[np.int32]:
    """Return the labels that come within the margin; the others belong to other blocks and need no outline."""
    core = labels[margin : labels.shape[0] - margin, margin : labels.shape[1] - margin]
    near = np.bincount(core.ravel(), minlength=int(labels.max()) + 1) > 0
    return np.where(near[labels], labels, np.int32(0))


_NONE: Final = BlockNuclei(polygons=np.empty(0, dtype=object), centroids_px=np.empty((0, 2)), measurements={})
