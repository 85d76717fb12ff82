"""Visium HD: square bins, and the cells that Space Ranger 4 segments."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.errors import ShapelyError

from stimage_qupath.spots.measurement import Measurement, join
from stimage_qupath.spots.source import Source, find_one
from stimage_qupath.spots.tenx_matrix import GENE_TYPES, PROTEIN_TYPES, read_matrix
from stimage_qupath.spots.visium import POSITIONS, pixel_positions, read_positions, read_scale_factors, read_visium

CELL_MATRICES: Final = ("filtered_feature_cell_matrix.h5", "raw_feature_cell_matrix.h5")
OUTLINES: Final = ("cell_segmentations.geojson",)
MAPPINGS: Final = "barcode_mappings.parquet"
SMALLEST_BIN: Final = "square_002um"
USUAL_BIN: Final = "square_008um"
_CELL_ID: Final = re.compile(r"cellid_0*(\d+)-\d+")
_FRAME_TOLERANCE: Final = 0.02  # of the extent of the section: centroids of bins and outlines differ by less than a bin


def read_visium_hd(source: Source) -> Measurement:
    """Read bins or segmented cells; ``counts`` says which.

    ``counts`` is ``binned_outputs/square_016um`` (any bin), ``segmented_outputs``, one of their matrices, or the whole
    ``outs`` folder: then the 8 um bins.
    """
    folder = source.counts if source.counts.is_dir() else source.counts.parent
    cells = source.counts.name.endswith("_cell_matrix.h5") or any((folder / name).is_file() for name in CELL_MATRICES)
    if cells and not source.counts.name.endswith("_bc_matrix.h5"):
        return _read_cells(source)
    if source.counts.is_dir() and (source.counts / "binned_outputs").is_dir():
        return read_visium(Source(_bin_folder(source.counts / "binned_outputs"), source.spots, kind=source.kind))
    return read_visium(source)


def _bin_folder(binned: Path) -> Path:
    bins = sorted(path for path in binned.glob("square_*um") if path.is_dir())
    usual = binned / USUAL_BIN
    if usual in bins or len(bins) == 1:
        return usual if usual in bins else bins[0]
    listed = ", ".join(path.name for path in bins) or "none"
    msg = f"expected {USUAL_BIN} in {binned}, found {listed}; name the folder of one bin size in the column counts"
    raise ValueError(msg)


def _read_cells(source: Source) -> Measurement:
    folder = source.counts if source.counts.is_dir() else source.counts.parent
    matrix_path = find_one(folder, CELL_MATRICES, what="a matrix of cells") if source.counts.is_dir() else source.counts
    outlines = source.spots or find_one(folder, OUTLINES, what="the outlines of the cells")
    matrix, notes = read_matrix(matrix_path).of_types(PROTEIN_TYPES if source.kind == "protein" else GENE_TYPES)
    centres = outline_centres(outlines)
    from_bins = _centres_from_bins(folder.parent)
    if from_bins is not None:
        centres, moved = _in_frame(centres, from_bins, outlines.name)
        notes += moved
    rows, found, unplaced = join(
        _cell_numbers(matrix.barcodes, matrix_path.name), centres, matrix=matrix_path.name, table=outlines.name
    )
    return Measurement(
        values=matrix.values[rows],
        genes=matrix.names,
        gene_ids=matrix.ids,
        positions_px=centres.to_numpy(dtype=np.float64)[found],
        notes=(*notes, *unplaced),
        mpp=read_scale_factors(folder / "spatial").get("microns_per_pixel"),
    )


def _cell_numbers(barcodes: Sequence[str], file: str) -> list[str]:
    found = [_CELL_ID.fullmatch(barcode) for barcode in barcodes]
    wrong = next((b for b, match in zip(barcodes, found, strict=True) if match is None), None)
    if wrong is not None:
        msg = f"expected barcodes such as cellid_000000001-1 in {file}, found '{wrong}'"
        raise ValueError(msg)
    return [match[1] for match in found if match is not None]


def outline_centres(path: Path) -> pd.DataFrame:
    """Return the centroid of each outline of a GeoJSON of cells, columns x and y, by ``cell_id``.

    Raises
    ------
    ValueError
        The file is no GeoJSON of cells.
    """
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        numbers = [str(int(feature["properties"]["cell_id"])) for feature in features]
        shapes = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in features])
    except (ValueError, KeyError, TypeError, ShapelyError) as error:
        msg = f"expected a GeoJSON of cells with properties.cell_id in {path.name}, found otherwise: {error}"
        raise ValueError(msg) from error
    centres = shapely.centroid(shapes)
    table = pd.DataFrame({"x": shapely.get_x(centres), "y": shapely.get_y(centres)}, index=pd.Index(numbers))
    return table[~table.index.duplicated()].dropna()


def _centres_from_bins(outs: Path) -> pd.DataFrame | None:
    """Return the mean place of each cell's 2 um bins, columns x and y, or None where the bins are not there."""
    mappings, bins = outs / MAPPINGS, outs / "binned_outputs" / SMALLEST_BIN / "spatial"
    if not mappings.is_file() or not bins.is_dir():
        return None
    of_bin = pd.read_parquet(mappings, columns=[SMALLEST_BIN, "cell_id"]).dropna()
    places = read_positions(find_one(bins, POSITIONS, what="the positions of the bins"))
    row = places.index.get_indexer(pd.Index(of_bin[SMALLEST_BIN].astype(str)))
    xy = pixel_positions(places)[row[row >= 0]]
    number = _plain_numbers(of_bin["cell_id"])[row >= 0]
    return pd.DataFrame(xy, columns=["x", "y"]).groupby(number).mean() if len(xy) else None


def _plain_numbers(cell_ids: pd.Series) -> NDArray[np.object_]:
    """Return cell ids as plain numbers in text: Space Ranger writes ``cellid_000000012-1``, others 12.0."""
    if cell_ids.dtype.kind in "if":
        return np.asarray(cell_ids.astype(np.int64).astype(str), dtype=object)
    return np.asarray(cell_ids.astype(str).str.replace(_CELL_ID, r"\1", regex=True), dtype=object)


def _in_frame(centres: pd.DataFrame, from_bins: pd.DataFrame, file: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the centres of the outlines, or of the bins where the outlines are in another frame than the image."""
    both = centres.index.intersection(from_bins.index)
    if not len(both):
        return centres, ()
    extent = float(np.ptp(from_bins.loc[both].to_numpy(), axis=0).max())
    apart = float(np.median(np.abs(centres.loc[both].to_numpy() - from_bins.loc[both].to_numpy())))
    if apart <= max(_FRAME_TOLERANCE * extent, 1.0):
        return centres, ()
    note = f"{file} is not in pixels of the full image; the cells were placed by their {SMALLEST_BIN} bins"
    return from_bins, (note,)
