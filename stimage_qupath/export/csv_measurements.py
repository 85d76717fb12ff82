"""Nuclei in the form of QuPath's own measurement table (Measure > Export measurements)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from stimage_qupath.export.run_blocks import RunBlock, Selection, blocks
from stimage_qupath.export.tables import table_column
from stimage_qupath.export.whole_file import whole_file
from stimage_qupath.names import AREA_RATIO
from stimage_qupath.results import Region

HEAD: Final = (
    "Image", "Object ID", "Object type", "Name", "Classification", "Parent", "ROI", "Centroid X µm", "Centroid Y µm",
)  # fmt: skip
"""QuPath's own columns before the measurements, from 0.4 on."""
ROOT: Final = "Root object (Image)"
MISSING: Final = "NaN"


def write_measurements(path: Path, chosen: Selection) -> int:
    """Write the table and return its number of rows; tabs where ``path`` ends in ``.tsv``, else commas.

    Measurements have QuPath's names and print the shortest text that is the same float32.

    Raises
    ------
    OutputError
        The disk is full or not writable; nothing is left behind.
    """
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    image = chosen.finished.record["image"]
    rows = 0
    with whole_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        empty = pd.DataFrame(columns=[*HEAD, *chosen.measurements])
        empty.to_csv(stream, sep=separator, index=False, lineterminator="\n")
        for frame in _frames(chosen, str(image["name"]), float(image["mpp"])):
            frame.to_csv(stream, sep=separator, index=False, header=False, na_rep=MISSING, lineterminator="\n")
            rows += len(frame)
    return rows


def _frames(chosen: Selection, image: str, mpp: float) -> Iterator[pd.DataFrame]:
    for block in blocks(chosen):
        keys = block.keys
        head = {
            "Image": image,
            "Object ID": keys["cell_id"].to_numpy(),
            "Object type": _types(block),
            "Name": "",
            "Classification": keys["cell_type"].astype(object).where(keys["cell_type"].notna(), "").to_numpy(),
            "Parent": parent_name(block.span.region),
            "ROI": "Polygon",
            "Centroid X µm": np.round(keys["x_px"].to_numpy() * mpp, 4),
            "Centroid Y µm": np.round(keys["y_px"].to_numpy() * mpp, 4),
        }
        yield pd.DataFrame({**head, **block.columns})


def parent_name(region: Region) -> str:
    """Return what QuPath calls the parent of a region's nuclei: its name, else its class; the image where none is."""
    if region.source != "annotation":
        return ROOT
    return region.name or region.classification or "Annotation"


def _types(block: RunBlock) -> np.ndarray:
    """Return what each object is: a cell where it has an outline beyond its nucleus."""
    ratio = block.columns.get(AREA_RATIO)
    if ratio is None:
        return np.full(len(block.keys), "Detection", dtype=object)
    return np.where(np.isfinite(ratio), "Cell", "Detection").astype(object)


def write_parquet(path: Path, chosen: Selection) -> int:
    """Write the run's own table of the selection and return its number of rows; columns as in ``cells.parquet``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [(name, pa.string()) for name in ("cell_id", "region_id", "cell_type")]
    fields += [(name, pa.float64()) for name in ("x_px", "y_px")]
    schema = pa.schema(fields + [(table_column(name), pa.float32()) for name in chosen.measurements])
    rows = 0
    with whole_file(path) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as writer:
        for block in blocks(chosen):
            columns = {table_column(name): pa.array(values, pa.float32()) for name, values in block.columns.items()}
            keys = {name: pa.array(block.keys[name], from_pandas=True) for name in block.keys}
            writer.write_table(pa.table({**keys, **columns}, schema=schema))
            rows += len(block.keys)
    return rows
