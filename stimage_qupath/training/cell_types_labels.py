"""Nuclei of one image with the type that a person or a measurement gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.geojson_dialect import Color
from stimage_qupath.nuclei.foreign import ForeignNuclei
from stimage_qupath.nuclei.foreign_reader import read_nuclei
from stimage_qupath.results import Cells
from stimage_qupath.slide.reader import Slide
from stimage_qupath.spots.anndata_sections import open_h5ad

SIMPLIFY_UM: Final = 0.25
NEAR_UM: Final = 5.0
"""How far the centroid of a measured cell may lie from the nucleus outlined in the image: about its radius."""
DEFAULT_COLUMN: Final = "cell_type"


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Labelled places of one image.

    Attributes
    ----------
    points_px
        (place, 2) x and y, level-0 px.
    shares
        (place, class) table of the classes' shares, each row sums to 1; a known type is a single 1.
    weight
        (place,) how much each counts.
    nuclei
        The nucleus at each place, or None where there are only places.
    colors
        Colours that the classes have in the file.
    notes
        What was left out.
    """

    points_px: NDArray[np.float64]
    shares: pd.DataFrame
    weight: NDArray[np.float64]
    nuclei: Cells | None = None
    colors: Mapping[str, Color] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of_types(
        cls, types: Sequence[str], cells: Cells, *, colors: Mapping[str, Color], notes: tuple[str, ...]
    ) -> Self:
        """Return nuclei with a type each."""
        return cls(cells.centroids_px, one_hot(types), np.ones(len(types)), cells, colors, notes)

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.points_px)


def one_hot(types: Sequence[str]) -> pd.DataFrame:
    """Return shares of places whose type is known, (place, class)."""
    return pd.get_dummies(pd.Series(list(types), dtype="object"), dtype=float).reset_index(drop=True)


def classified_nuclei(path: Path, slide: Slide, mpp: float) -> Labels:
    """Read the classified cells and detections of a GeoJSON file; those without a class are left out.

    Raises
    ------
    UsageError, AnnotationError
        The file is missing or faulty, or no nucleus in it has a class.
    """
    found = nuclei_of_image(path, slide, mpp)
    there = np.array([name is not None for name in found.classifications])
    if not there.any():
        msg = f"expected nuclei with a class in {path.name}, found {len(found)} without; classify them in QuPath"
        raise UsageError(msg)
    left = int((~there).sum())
    notes = (*found.warnings, *((f"{left} nuclei without a class were left out",) if left else ()))
    types = found.classifications[there].tolist()
    return Labels.of_types(types, as_cells(found.polygons[there]), colors=found.color_of_class, notes=notes)


def labelled_cells(path: Path, slide: Slide, mpp: float, *, nuclei: Path | None, column: str) -> Labels:
    """Read measured cells (Xenium, CosMx) with labels from AnnData, and find each one's nucleus in the image.

    ``obsm["spatial"]`` holds x and y in level-0 px of the image.

    Raises
    ------
    UsageError
        A file is missing or of another form, or no cell lies on a nucleus.
    """
    try:
        data = open_h5ad(path)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if "spatial" not in data.obsm or column not in data.obs:
        msg = f"expected obsm['spatial'] in pixels and obs['{column}'] in {path.name}, found one of them missing"
        raise UsageError(msg)
    labels = data.obs[column].astype(object).where(data.obs[column].notna(), None)
    points = np.asarray(data.obsm["spatial"], dtype=np.float64)[:, :2]
    return on_nuclei(points, labels.to_numpy(), _nuclei_of(nuclei, path), slide, mpp)


def on_nuclei(
    points_px: NDArray[np.float64], labels: NDArray[np.object_], nuclei: Path, slide: Slide, mpp: float
) -> Labels:
    """Give the labels of measured cells to nuclei of the image: the one that holds the cell's centroid, else the next.

    Parameters
    ----------
    points_px
        (cell, 2) centroids, level-0 px.
    labels
        (cell,) text, or None for cells whose type is not known.
    nuclei
        File of nuclei outlined in the image, for example ``cells.geojson.gz`` of ``stimage-qupath segment``.
    slide, mpp
        The image and its pixel size.

    Raises
    ------
    UsageError
        No labelled cell lies within :data:`NEAR_UM` of a nucleus.
    """
    found = nuclei_of_image(nuclei, slide, mpp)
    known = np.flatnonzero([label is not None for label in labels])
    tree = shapely.STRtree(found.polygons)
    (cell, nucleus), distance = tree.query_nearest(
        shapely.points(points_px[known]), max_distance=NEAR_UM / mpp, return_distance=True, all_matches=False
    )
    order = np.argsort(distance, kind="stable")
    nucleus, first = np.unique(nucleus[order], return_index=True)  # of two cells on one nucleus the nearer
    cell = cell[order][first]
    if not len(cell):
        msg = (
            f"expected labelled cells on the nuclei of {nuclei.name}, found none of {len(known)} within {NEAR_UM:g} um "
            "of one; check that the positions are pixels of this image"
        )
        raise UsageError(msg)
    note = f"{len(cell)} of {len(known)} labelled cells lie on a nucleus of the image; the others were left out"
    types = labels[known[cell]].tolist()
    return Labels.of_types(types, as_cells(found.polygons[nucleus]), colors=found.color_of_class, notes=(note,))


def _nuclei_of(path: Path | None, what: Path) -> Path:
    if path is None:
        msg = (
            f"expected the nuclei of the image that {what.name} belongs to, found none; outline them with "
            "`stimage-qupath segment` and name its cells.geojson.gz in the column nuclei"
        )
        raise UsageError(msg)
    return path


def nuclei_of_image(path: Path, slide: Slide, mpp: float) -> ForeignNuclei:
    """Return the nuclei of a file, see :func:`read_nuclei`, simplified by at most :data:`SIMPLIFY_UM`."""
    return read_nuclei(path, slide_size=(slide.width, slide.height), simplify_px=SIMPLIFY_UM / mpp)


def as_cells(polygons: NDArray[np.object_]) -> Cells:
    """Return nuclei that need no identity."""
    return Cells(
        ids=np.arange(len(polygons)).astype(str).astype(object),
        polygons=polygons,
        centroids_px=shapely.get_coordinates(shapely.centroid(polygons)),
    )
