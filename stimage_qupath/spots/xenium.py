"""Xenium: cells, their outlines, and how they lie on an H&E image of the same section.

A Xenium bundle measures in um of its own morphology image. Xenium Explorer aligns an H&E image to it and exports a
3 x 3 matrix that carries H&E pixels to morphology pixels
(https://www.10xgenomics.com/support/software/xenium-explorer/latest/tutorials/xe-image-alignment).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from stimage_qupath.spots.measurement import Measurement, join
from stimage_qupath.spots.source import Source, find_one
from stimage_qupath.spots.tenx_matrix import GENE_TYPES, PROTEIN_TYPES, read_matrix

PIXEL_UM: Final = 0.2125
"""Of the morphology image, where ``experiment.xenium`` does not say."""
MATRICES: Final = ("cell_feature_matrix.h5", "cell_feature_matrix")
CELLS: Final = ("cells.parquet", "cells.csv.gz", "cells.csv")
OUTLINES: Final = ("cell_boundaries.parquet", "cell_boundaries.csv.gz", "cell_boundaries.csv")
NO_ALIGNMENT: Final = "none"


def read_xenium(source: Source) -> Measurement:
    """Read the cells of a bundle, each at its centroid on the H&E image.

    ``counts`` is the bundle or its matrix, ``spots`` the table of cells if it lies elsewhere, ``alignment`` the matrix
    that Xenium Explorer exports, or ``none`` where the image is the morphology image's own frame.
    """
    bundle = source.counts if _is_bundle(source.counts) else source.counts.parent
    matrix_path = find_one(bundle, MATRICES, what="a matrix of cells") if bundle == source.counts else source.counts
    to_image = image_transform(source.alignment, pixel_um=morphology_pixel_um(bundle))
    matrix, notes = read_matrix(matrix_path).of_types(PROTEIN_TYPES if source.kind == "protein" else GENE_TYPES)
    cells, file = _centres(bundle, source.spots)
    rows, found, unplaced = join(matrix.barcodes, cells, matrix=matrix_path.name, table=file)
    return Measurement(
        values=matrix.values[rows],
        genes=matrix.names,
        gene_ids=matrix.ids,
        positions_px=moved(cells.to_numpy(dtype=np.float64)[found], to_image),
        notes=(*notes, *unplaced),
        mpp=float(1 / np.sqrt(abs(np.linalg.det(to_image[:2, :2])))),
    )


def read_outlines(bundle: Path, *, alignment: str = NO_ALIGNMENT) -> dict[str, shapely.Polygon]:
    """Return the outline of each cell on the H&E image, level-0 px, by cell id; cells with under three corners are out.

    Parameters
    ----------
    bundle
        Folder of Xenium.
    alignment
        As for :func:`read_xenium`.

    Raises
    ------
    ValueError
        A file is missing or of another form.
    """
    to_image = image_transform(alignment, pixel_um=morphology_pixel_um(bundle))
    table = _read_table(find_one(bundle, OUTLINES, what="the outlines of the cells"), ("vertex_x", "vertex_y"))
    corners = moved(table.to_numpy(dtype=np.float64), to_image)
    ids, number = np.unique(table.index.to_numpy(dtype=str), return_inverse=True)
    order = np.argsort(number, kind="stable")
    rings = np.split(corners[order], np.flatnonzero(np.diff(number[order])) + 1)
    return {str(name): shapely.Polygon(ring) for name, ring in zip(ids, rings, strict=True) if len(ring) > 2}


def image_transform(alignment: str, *, pixel_um: float) -> NDArray[np.float64]:
    """Return the (3, 3) matrix from um of the bundle to pixels of the H&E image.

    Raises
    ------
    ValueError
        There is no matrix, or one that cannot be turned round.
    """
    to_morphology = np.diag([1 / pixel_um, 1 / pixel_um, 1.0])
    if alignment == NO_ALIGNMENT:
        return to_morphology
    if not alignment:
        msg = (
            "expected how the image lies on the Xenium bundle, found nothing; export the alignment from Xenium "
            f"Explorer and name the CSV in the column alignment, or write {NO_ALIGNMENT} for the morphology image"
        )
        raise ValueError(msg)
    matrix = _read_transform(Path(alignment))
    return np.asarray(np.linalg.inv(matrix) @ to_morphology)


def _read_transform(path: Path) -> NDArray[np.float64]:
    if not path.is_file():
        msg = f"expected an alignment matrix at {path}, found no file"
        raise ValueError(msg)
    matrix = np.loadtxt(path, delimiter=",", ndmin=2)
    if matrix.shape != (3, 3) or not np.allclose(matrix[2], (0, 0, 1), atol=1e-6) or abs(np.linalg.det(matrix)) < 1e-9:
        msg = f"expected a 3 x 3 matrix ending in 0,0,1 in {path.name}, found {matrix.tolist()}"
        raise ValueError(msg)
    return matrix


def moved(points: NDArray[np.float64], transform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (point, 2) under an affine (3, 3) matrix."""
    return np.asarray(points @ transform[:2, :2].T + transform[:2, 2])


def morphology_pixel_um(bundle: Path) -> float:
    """Return the pixel size of the morphology image: what ``experiment.xenium`` states, else 0.2125 um."""
    path = bundle / "experiment.xenium"
    if not path.is_file():
        return PIXEL_UM
    return float(json.loads(path.read_text(encoding="utf-8")).get("pixel_size", PIXEL_UM))


def _is_bundle(path: Path) -> bool:
    return path.is_dir() and not any(path.glob("matrix.mtx*"))


def _centres(bundle: Path, spots: Path | None) -> tuple[pd.DataFrame, str]:
    """Return x and y in um of each cell, by its id, and the name of the file: the outlines serve where cells lack."""
    if spots is None and not any((bundle / name).is_file() for name in CELLS):
        outlines = read_outlines(bundle)
        centres = shapely.centroid(np.array(list(outlines.values()), dtype=object))
        um = np.column_stack([shapely.get_x(centres), shapely.get_y(centres)]) * morphology_pixel_um(bundle)
        return pd.DataFrame(um, columns=["x", "y"], index=pd.Index(list(outlines))), "cell_boundaries"
    path = spots or find_one(bundle, CELLS, what="the table of cells")
    return _read_table(path, ("x_centroid", "y_centroid")), path.name


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return ``columns`` by ``cell_id``, which is text, bytes or a number."""
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    missing = [column for column in ("cell_id", *columns) if column not in table.columns]
    if missing:
        msg = f"expected the columns cell_id, {', '.join(columns)} in {path.name}, found no {', '.join(missing)}"
        raise ValueError(msg)
    ids = [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in table["cell_id"]]
    return table[list(columns)].set_index(pd.Index(ids))
