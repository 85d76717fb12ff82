"""Visium: the output folder of Space Ranger, versions 1 to 4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.spots.measurement import Measurement, join
from stimage_qupath.spots.source import Source, find_one
from stimage_qupath.spots.tenx_matrix import GENE_TYPES, PROTEIN_TYPES, read_matrix

MATRICES: Final = (
    "filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "raw_feature_bc_matrix.h5",
    "raw_feature_bc_matrix",
)
POSITIONS: Final = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
"""Of Visium HD; of Space Ranger 2 and later, with a header; of Space Ranger 1, without."""
COLUMNS: Final = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
ROW_PITCH_UM: Final = 50 * 3**0.5
COLUMN_PITCH_UM: Final = 50.0
"""Spots stand 100 um apart in a honeycomb; ``array_col`` counts by two within a row (10x Genomics, CG000239)."""


def read_visium(source: Source) -> Measurement:
    """Read ``outs`` (or the matrix alone in ``counts``, and its ``spatial`` folder or positions file in ``spots``).

    Spots that Space Ranger found outside tissue are left out. Positions are joined on the barcode.
    """
    matrix_path = find_one(source.counts, MATRICES, what="a matrix of Visium") if _is_outs(source) else source.counts
    places_path = _positions_file(source, matrix_path)
    matrix, notes = read_matrix(matrix_path).of_types(PROTEIN_TYPES if source.kind == "protein" else GENE_TYPES)
    places = read_positions(places_path)
    rows, found, unplaced = join(matrix.barcodes, places, matrix=matrix_path.name, table=places_path.name)
    kept, outside = _in_tissue(places.in_tissue.to_numpy()[found])
    rows, found = rows[kept], found[kept]
    return Measurement(
        values=matrix.values[rows],
        genes=matrix.names,
        gene_ids=matrix.ids,
        positions_px=pixel_positions(places)[found],
        notes=(*notes, *unplaced, *outside),
        mpp=_pixel_size(places, places_path.parent),
    )


def _is_outs(source: Source) -> bool:
    return source.counts.is_dir() and not any(source.counts.glob("matrix.mtx*"))


def _positions_file(source: Source, matrix: Path) -> Path:
    if source.spots is not None and source.spots.is_file():
        return source.spots
    folder = source.spots if source.spots is not None else matrix.parent / "spatial"
    return find_one(folder, POSITIONS, what="the positions of the spots")


def read_positions(path: Path) -> pd.DataFrame:
    """Return Space Ranger's table of positions, by barcode.

    Raises
    ------
    ValueError
        It has other columns.
    """
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, header=None, dtype=str)
        if table.iloc[0, 0] == COLUMNS[0]:
            table = table[1:].set_axis(table.iloc[0].tolist(), axis=1)
        elif table.shape[1] == len(COLUMNS):
            table = table.set_axis(list(COLUMNS), axis=1)
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        msg = f"expected the columns {', '.join(COLUMNS)} in {path.name}, found no {', '.join(map(str, missing))}"
        raise ValueError(msg)
    table = table.set_index(table["barcode"].astype(str))
    return table[list(COLUMNS[1:])].astype(np.float64)


def pixel_positions(places: pd.DataFrame) -> NDArray[np.float64]:
    """Return x and y of each place: Space Ranger names the row (y) first."""
    return np.asarray(places[["pxl_col_in_fullres", "pxl_row_in_fullres"]], dtype=np.float64)


def _in_tissue(flag: NDArray[np.float64]) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    kept = np.flatnonzero(flag == 1)
    if not kept.size:
        msg = "expected spots under tissue, found in_tissue 0 for every spot of the matrix"
        raise ValueError(msg)
    outside = len(flag) - len(kept)
    return kept, (f"{outside} of {len(flag)} spots outside tissue (in_tissue 0) left out",) if outside else ()


def _pixel_size(places: pd.DataFrame, folder: Path) -> float | None:
    """Return um per pixel: Visium HD states it, Visium's spots stand at a known pitch."""
    stated = read_scale_factors(folder).get("microns_per_pixel")
    if stated is not None:
        return float(stated)
    array = places[["array_row", "array_col"]].to_numpy() * (ROW_PITCH_UM, COLUMN_PITCH_UM)
    array = array - array.mean(axis=0)
    pixels = pixel_positions(places)
    # A similarity: |pixels|^2 / |um|^2 about their centres is the square of px per um, whatever the rotation.
    spread_um, spread_px = (array**2).sum(), ((pixels - pixels.mean(axis=0)) ** 2).sum()
    return float(np.sqrt(spread_um / spread_px)) if spread_um > 0 and spread_px > 0 else None


def read_scale_factors(folder: Path) -> dict[str, float]:
    """Return ``scalefactors_json.json`` of a ``spatial`` folder; empty where there is none.

    Raises
    ------
    ValueError
        It is no JSON object.
    """
    path = folder / "scalefactors_json.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        msg = f"expected a JSON object in {path.name}, found {type(found).__name__}"
        raise ValueError(msg)
    return {key: float(value) for key, value in found.items() if isinstance(value, (int, float))}
