"""Arrays of the first spatial transcriptomics generation (Ståhl et al. 2016, doi 10.1126/science.aaf2403)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from stimage_qupath.spots.measurement import Measurement, join
from stimage_qupath.spots.source import Source

COLUMNS = ("x", "y", "pixel_x", "pixel_y")


def read_legacy_st(source: Source) -> Measurement:
    """Read a table with a row ``XxY`` a spot and a column a gene, and where each spot lies.

    ``spots`` has the columns ``x, y, pixel_x, pixel_y`` and, where a person chose the spots under tissue,
    ``selected``. Rows are joined on the array position, never on the row number.
    """
    if source.spots is None:
        msg = "expected a spot table for platform legacy_st, found none; fill the column spots"
        raise ValueError(msg)
    table = pd.read_csv(source.counts, sep="\t", index_col=0)
    # pandas renames doubled columns to A, A.1; the header itself says what they are.
    genes = pd.read_csv(source.counts, sep="\t", header=None, nrows=1, dtype=str).iloc[0, 1:].tolist()
    place = pd.read_csv(source.spots, sep="\t")
    missing = [c for c in COLUMNS if c not in place.columns]
    if missing:
        msg = f"expected the columns {', '.join(COLUMNS)} in {source.spots.name}, found no {', '.join(missing)}"
        raise ValueError(msg)
    if "selected" in place.columns:
        place = place[place.selected.astype(int) == 1]
    place = place.set_index(place.x.round().astype(int).astype(str) + "x" + place.y.round().astype(int).astype(str))
    rows, places, notes = join(
        table.index.astype(str).tolist(), place, matrix=source.counts.name, table=source.spots.name
    )
    return Measurement(
        values=sparse.csr_matrix(table.to_numpy(dtype=np.float64)[rows]),
        genes=tuple(genes),
        positions_px=place[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)[places],
        notes=notes,
    )
