"""Nuclei that came from the user: they keep outline, id and class, and are handed on as a segmenter's would be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage.draw import polygon as pixels_inside

from stimage_qupath import names
from stimage_qupath.errors import UsageError
from stimage_qupath.nuclei.expansion import SPACING_UM, cell_measurements, cell_outlines
from stimage_qupath.nuclei.features import shape_measurements
from stimage_qupath.nuclei.ownership import RegionOwners
from stimage_qupath.nuclei.prefetch import in_order
from stimage_qupath.nuclei.segment import BLOCK_UM, STAGE, CellChunk, nucleus_id
from stimage_qupath.results import (
    CancelCheck,
    Cells,
    ProgressCallback,
    Region,
    never_cancelled,
    no_progress,
    stop_if,
)
from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.stain import hematoxylin_eosin

STAIN_MPP: Final = 0.5
"""Pixel size at which stain is measured, that of the segmenters."""
_WINDOW_UM: Final = 64.0  # of pixels beyond a block; what a nucleus has further out is not measured


@dataclass(frozen=True, slots=True)
class ForeignNuclei:
    """Nuclei of a file.

    Attributes
    ----------
    polygons
        (nucleus,) valid shapely Polygons, level-0 px.
    ids
        (nucleus,) UUID, or None where the file has none.
    classifications
        (nucleus,) class names, or None.
    boundaries
        (nucleus,) shapely Polygons of the whole cells, or None.
    color_of_class
        Class name to red, green, blue.
    warnings
        What of the file was left out.
    """

    polygons: NDArray[np.object_]
    ids: NDArray[np.object_]
    classifications: NDArray[np.object_]
    boundaries: NDArray[np.object_]
    color_of_class: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse arrays of different length and ids that come twice."""
        lengths = {len(values) for values in (self.polygons, self.ids, self.classifications, self.boundaries)}
        if len(lengths) != 1:
            msg = f"expected as many ids, classes and boundaries as nuclei, found {sorted(lengths)}"
            raise ValueError(msg)
        given = [identity for identity in self.ids if identity is not None]
        if len(set(given)) < len(given):
            doubled = next(identity for identity in given if given.count(identity) > 1)
            msg = f"expected each nucleus once, found id {doubled} more than once; export the objects again from QuPath"
            raise UsageError(msg)

    def __len__(self) -> int:
        """Return the number of nuclei."""
        return len(self.polygons)

    @property
    def has_cells(self) -> bool:
        """Whether some have the outline of their cell already."""
        return not bool(shapely.is_missing(self.boundaries).all())


@dataclass(frozen=True, slots=True)
class PlacedNuclei:
    """Nuclei of the user in the regions of a slide.

    Attributes
    ----------
    nuclei
        All of the file.
    slide, mpp
        Where they lie, and the slide's pixel size.
    regions
        The selection.
    image_id
        Identity of the image, part of the id of a nucleus that brought none.
    expansion_um
        How far a cell reaches beyond its nucleus, µm; 0 makes none.
    """

    nuclei: ForeignNuclei
    slide: Slide
    mpp: float
    regions: Sequence[Region]
    image_id: str
    expansion_um: float = 0.0

    def __post_init__(self) -> None:
        """Refuse to make cells that are there already."""
        if self.expansion_um and self.nuclei.has_cells:
            msg = (
                "expected nuclei alone to make cells of, found cells that have their outline; leave "
                "--cell-expansion-um out, or export the nuclei as detections"
            )
            raise UsageError(msg)

    def chunks(
        self,
        *,
        threads: int = 2,
        on_progress: ProgressCallback = no_progress,
        cancelled: CancelCheck = never_cancelled,
    ) -> Iterator[CellChunk]:
        """Yield the nuclei of each region, block by block, within a block in the order of the file.

        Parameters
        ----------
        threads
            Blocks whose stain is measured at once.
        on_progress
            Called after each block with stage ``nuclei``.
        cancelled
            Asked before each block.

        Raises
        ------
        UsageError
            No nucleus lies in any region.
        """
        centroids = shapely.get_coordinates(shapely.centroid(self.nuclei.polygons))
        groups = self._groups(centroids)
        tree = shapely.STRtree(self.nuclei.polygons) if self.expansion_um else None

        def measured(number: int) -> Cells:
            region_index, index = groups[number]
            return self._cells(self.regions[region_index].id, index, centroids[index], tree)

        done = 0
        with closing(in_order(range(len(groups)), measured, threads=threads, remembered=0)) as found:
            for number, (region_index, _) in enumerate(groups):
                stop_if(cancelled)
                cells = next(found)
                yield CellChunk(region_index=region_index, cells=cells)
                done += len(cells)
                on_progress(STAGE, number + 1, len(groups), f"{done} nuclei")

    def warnings(self) -> tuple[str, ...]:
        """Say what of the file is left out."""
        centroids = shapely.get_coordinates(shapely.centroid(self.nuclei.polygons))
        outside = int((self._region_of(centroids) < 0).sum())
        said = (f"{outside} of {len(self.nuclei)} nuclei lie outside every selected region and were left out",)
        return (*self.nuclei.warnings, *(said if outside else ()))

    def _region_of(self, centroids: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the region that owns each nucleus, -1 for none."""
        owners = RegionOwners(self.regions)
        region_of = np.full(len(centroids), -1, dtype=np.intp)
        for index in range(len(self.regions)):
            region_of[owners.owned(index, centroids)] = index
        return region_of

    def _groups(self, centroids: NDArray[np.float64]) -> list[tuple[int, NDArray[np.intp]]]:
        """Return the region and the nuclei of each block of each region."""
        region_of = self._region_of(centroids)
        if not (region_of >= 0).any():
            msg = (
                f"expected nuclei in the selected regions, found all {len(centroids)} of the file outside; check that "
                "the file is of this image, and the selection"
            )
            raise UsageError(msg)
        column, row = np.floor(centroids * self.mpp / BLOCK_UM).astype(np.int64).T
        order = np.lexsort((np.arange(len(centroids)), column, row, region_of))
        order = order[region_of[order] >= 0]
        keys = np.column_stack([region_of, row, column])[order]
        parts = np.split(order, np.flatnonzero((np.diff(keys, axis=0) != 0).any(axis=1)) + 1)
        return [(int(region_of[part[0]]), part) for part in parts]

    def _cells(
        self, region_id: str, index: NDArray[np.intp], centroids: NDArray[np.float64], tree: shapely.STRtree | None
    ) -> Cells:
        """Measure the nuclei of one group."""
        nuclei, polygons = self.nuclei, self.nuclei.polygons[index]
        boundaries = nuclei.boundaries[index] if nuclei.has_cells else None
        if tree is not None:
            boundaries = self._expanded(index, tree)
        measurements = shape_measurements(polygons, mpp=self.mpp) | self._stains(polygons, centroids)
        if boundaries is not None:
            measurements |= cell_measurements(polygons, boundaries, mpp=self.mpp)
        prefix = f"{self.image_id}|{region_id}"
        ids = [
            identity or nucleus_id(prefix, *place)
            for identity, place in zip(nuclei.ids[index], centroids.tolist(), strict=True)
        ]
        return Cells(
            ids=np.array(ids, dtype=object),
            polygons=polygons,
            centroids_px=centroids,
            measurements=measurements,
            classifications=nuclei.classifications[index],
            boundaries=boundaries,
        )

    def _expanded(self, index: NDArray[np.intp], tree: shapely.STRtree) -> NDArray[np.object_]:
        """Return cells around some nuclei, which know all others of the file."""
        distance = self.expansion_um / self.mpp
        polygons = self.nuclei.polygons
        near = np.unique(tree.query(polygons[index], predicate="dwithin", distance=2 * distance)[1])
        return cell_outlines(
            polygons[near],
            np.searchsorted(near, index),
            distance_px=distance,
            spacing_px=SPACING_UM / self.mpp,
            slide_size=(self.slide.width, self.slide.height),
        )

    def _stains(self, polygons: NDArray[np.object_], centroids: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
        """Return the mean optical density of haematoxylin and eosin in each outline, at least at its centroid."""
        downsample = STAIN_MPP / self.mpp
        low, high = centroids.min(axis=0), centroids.max(axis=0)
        origin = np.floor(np.maximum(shapely.total_bounds(polygons)[:2], low - _WINDOW_UM / self.mpp) / downsample)
        end = np.ceil(np.minimum(shapely.total_bounds(polygons)[2:], high + _WINDOW_UM / self.mpp) / downsample) + 1
        width, height = (end - origin).astype(int).tolist()
        x, y = (origin * downsample).tolist()
        densities = hematoxylin_eosin(self.slide.read_region(x, y, width=width, height=height, downsample=downsample))
        means = np.empty((2, len(polygons)), dtype=np.float32)
        rings = shapely.get_exterior_ring(polygons)
        for i, (ring, centre) in enumerate(zip(rings, centroids / downsample - origin, strict=True)):
            xy = shapely.get_coordinates(ring) / downsample - origin - 0.5  # pixel (i, j) is centred half a pixel on
            rows, columns = pixels_inside(xy[:, 1], xy[:, 0], shape=(height, width))  # type: ignore[no-untyped-call]
            if not len(rows):
                columns, rows = np.clip(centre.astype(int), 0, (width - 1, height - 1))
            means[:, i] = [density[rows, columns].mean() for density in densities]
        return dict(zip((names.HEMATOXYLIN_MEAN, names.EOSIN_MEAN), means, strict=True))
