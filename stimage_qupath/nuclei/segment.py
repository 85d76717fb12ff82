"""Nuclei of whole regions, block by block, without seams.

The blocks lie on a grid that is anchored at the slide's corner and are segmented with all the context that a nucleus
needs, so that its outline depends on the slide alone: not on the annotation that selected it, nor on the order or the
number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.nuclei.blocks import BlockNuclei, BlockReader, Grid, Place, expansion_halo_um
from stimage_qupath.nuclei.kept import KeptNuclei
from stimage_qupath.nuclei.ownership import RegionOwners, Seams
from stimage_qupath.nuclei.prefetch import in_order
from stimage_qupath.nuclei.segmenter import Segmenter
from stimage_qupath.regions.tiles import blocks_over
from stimage_qupath.results import (
    CancelCheck,
    Cells,
    ProgressCallback,
    Region,
    Timer,
    never_cancelled,
    no_progress,
    stop_if,
    untimed,
)
from stimage_qupath.slide.base import Slide

STAGE: Final = "nuclei"
BLOCK_UM: Final = 1024.0
"""Side of a block: what a network reads beyond it is then a fifth of the work. Encoders use blocks of the same size, so
that the nuclei of one block lie in one image of the encoder."""

_NAMESPACE: Final = uuid5(NAMESPACE_URL, "https://doi.org/10.1038/s41467-026-68487-0#nucleus")
PART_PX: Final = 128
"""Working pixels in which the part of a block that is looked at grows."""
_REMEMBERED_BLOCKS: Final = 32  # neighbouring regions share blocks; a block holds a few MB of outlines


@dataclass(frozen=True, slots=True)
class CellChunk:
    """Nuclei of one region from one block, never empty.

    Attributes
    ----------
    region_index
        Which of the regions that were passed.
    cells
        The nuclei.
    """

    region_index: int
    cells: Cells


def segment_regions(
    slide: Slide,
    mpp: float,
    regions: Sequence[Region],
    segmenter: Segmenter,
    *,
    image_id: str,
    block_um: float = BLOCK_UM,
    threads: int = 2,
    simplify_um: float = 0.25,
    expansion_um: float = 0.0,
    kept: KeptNuclei | None = None,
    timed: Timer = untimed,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> Iterator[CellChunk]:
    """Find the nuclei of regions.

    A nucleus belongs to the smallest region that contains its centroid (of equal ones the first), hence to one region
    at most, and is found once although blocks overlap. Memory holds a few blocks, whatever the size of the slide.

    Parameters
    ----------
    slide
        Open slide.
    mpp
        Level-0 pixel size, µm.
    regions
        Where to look.
    segmenter
        How to look.
    image_id
        Identity of the image, part of each cell's id.
    block_um
        Side of a block without its halo, µm; made a multiple of the segmenter's stride. Affects speed and memory only.
    threads
        Blocks that are read and segmented at once.
    simplify_um
        How far simplification may move an outline, µm.
    expansion_um
        How far a cell reaches beyond its nucleus, µm; 0 finds nuclei alone.
    kept
        Where blocks of an interrupted run are, and those of this one go; None keeps nothing.
    timed
        Books the seconds of the threads.
    on_progress
        Called after each block with stage ``nuclei``.
    cancelled
        Asked before each block.

    Yields
    ------
    CellChunk
        Regions in order, each region block by block, row by row.

    Raises
    ------
    ValueError
        If a size is not positive.
    CancelledError
        If ``cancelled`` says so.
    """
    for name, value in (("mpp", mpp), ("block_um", block_um), ("threads", threads), ("simplify_um", simplify_um)):
        if not 0 < value < math.inf:
            msg = f"expected {name} above 0, found {value}"
            raise ValueError(msg)
    if not 0 <= expansion_um < math.inf:
        msg = f"expected expansion_um of at least 0, found {expansion_um}"
        raise ValueError(msg)
    grid = Grid(
        downsample=segmenter.mpp / mpp,
        block=_multiple(max(1, round(block_um / segmenter.mpp)), segmenter.stride),
        halo=_multiple(
            math.ceil((segmenter.halo_um + expansion_halo_um(expansion_um)) / segmenter.mpp), segmenter.stride
        ),
    )
    run = _Run(
        slide=slide,
        mpp=mpp,
        regions=regions,
        segmenter=segmenter,
        grid=grid,
        simplify_px=simplify_um / mpp,
        expansion_um=expansion_um,
        kept=kept,
        timed=timed,
    )
    return run.chunks(image_id=image_id, threads=threads, on_progress=on_progress, cancelled=cancelled)


def _multiple(pixels: int, stride: int) -> int:
    """Return the least multiple of ``stride`` that is not below ``pixels``."""
    return -(-pixels // stride) * stride


@dataclass(frozen=True, slots=True)
class _Run:
    """Arguments of :func:`segment_regions`, checked."""

    slide: Slide
    mpp: float
    regions: Sequence[Region]
    segmenter: Segmenter
    grid: Grid
    simplify_px: float
    expansion_um: float
    kept: KeptNuclei | None
    timed: Timer

    def chunks(
        self, *, image_id: str, threads: int, on_progress: ProgressCallback, cancelled: CancelCheck
    ) -> Iterator[CellChunk]:
        """Yield the nuclei of each region, block by block."""
        stop_if(cancelled)
        owners = RegionOwners(self.regions)
        places = self._all_places()
        total, done, count = sum(map(len, places)), 0, 0
        with closing(self._found([place for some in places for place in some], threads=threads)) as found:
            for index, region in enumerate(self.regions):
                seams = Seams(size_px=self.grid.size_px, reach_px=self.grid.halo_px)
                for place in places[index]:
                    stop_if(cancelled)
                    nuclei = next(found)
                    ours = seams.unseen(*place[:2], nuclei.polygons) & owners.owned(index, nuclei.centroids_px)
                    if ours.any():
                        cells = _cells(nuclei, ours, prefix=f"{image_id}|{region.id}")
                        count += len(cells)
                        yield CellChunk(region_index=index, cells=cells)
                    done += 1
                    on_progress(STAGE, done, total, f"{count} nuclei")

    def _all_places(self) -> list[list[Place]]:
        """Return, for each region, the blocks of the slide that can tell of a nucleus in it.

        Those within a halo of it are among them, because their nuclei may reach over the seam and settle what becomes
        of a nucleus inside (see :class:`Seams`). Of a block that only a corner is asked for, the corner is looked at:
        as much as all regions together ask for, so that they share it.
        """
        near = [region.geometry.buffer(self.grid.halo_px) for region in self.regions]
        blocks = [
            [
                (block.row, block.col)
                for block in blocks_over(geometry, size_px=self.grid.size_px)
                if 0 <= block.x < self.slide.width and 0 <= block.y < self.slide.height
            ]
            for geometry in near
        ]
        asked: dict[tuple[int, int], list[int]] = {}
        for index, some in enumerate(blocks):
            for block in some:
                asked.setdefault(block, []).append(index)
        bounds = np.array([geometry.bounds for geometry in near]).reshape(-1, 4)
        step = _multiple(PART_PX, self.segmenter.stride)
        part: dict[tuple[int, int], Place] = {}
        for block, regions in asked.items():
            left, top = bounds[regions, :2].min(axis=0).tolist()
            right, bottom = bounds[regions, 2:].max(axis=0).tolist()
            part[block] = self.grid.part(*block, (left, top, right, bottom), step=step)
        return [[part[block] for block in some] for some in blocks]

    def _found(self, places: Sequence[Place], *, threads: int) -> Generator[BlockNuclei, None, None]:
        """Yield the nuclei of each block."""
        reader = BlockReader(
            slide=self.slide,
            mpp=self.mpp,
            segmenter=self.segmenter.calibrate(self.slide, self.mpp, self.regions),
            grid=self.grid,
            simplify_px=self.simplify_px,
            expansion_um=self.expansion_um,
            timed=self.timed,
        )
        found = reader.nuclei if self.kept is None else partial(_kept_or_found, self.kept, reader)
        return in_order(places, found, threads=threads, remembered=_REMEMBERED_BLOCKS)


def _kept_or_found(kept: KeptNuclei, reader: BlockReader, place: Place) -> BlockNuclei:
    """Return the nuclei of a block, from an earlier run where there was one."""
    nuclei = kept.load(place)
    if nuclei is None:
        nuclei = reader.nuclei(place)
        kept.save(place, nuclei)
    return nuclei


def nucleus_id(prefix: str, x: float, y: float) -> str:
    """Return the UUIDv5 of a nucleus: image and region in ``prefix``, and its centroid at 0.01 px."""
    return str(uuid5(_NAMESPACE, f"{prefix}|{x:.2f}|{y:.2f}"))


def _cells(nuclei: BlockNuclei, ours: NDArray[np.bool_], *, prefix: str) -> Cells:
    """Return nuclei as cells with ids; of two that would have the same id, the first."""
    first: dict[str, int] = {}
    for index in np.flatnonzero(ours).tolist():
        first.setdefault(nucleus_id(prefix, *nuclei.centroids_px[index].tolist()), index)
    kept = np.fromiter(first.values(), dtype=np.intp)
    return Cells(
        ids=np.array(list(first), dtype=object),
        polygons=nuclei.polygons[kept],
        centroids_px=nuclei.centroids_px[kept],
        measurements={name: values[kept] for name, values in nuclei.measurements.items()},
        boundaries=None if nuclei.boundaries is None else nuclei.boundaries[kept],
    )
