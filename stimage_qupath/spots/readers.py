"""Measured sections from a dataset table and the files it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.section import Section

COLUMNS = ("section", "patient", "image", "counts", "spots", "platform", "mpp")
OPTIONAL = ("spots", "mpp")


def read_dataset(table: Path) -> list[Section]:
    """Read every section that a dataset table names.

    The table is CSV with the columns ``section, patient, image, counts, spots, platform, mpp``; paths are relative to
    the table or absolute; ``mpp`` may be empty where the image states its pixel size, ``spots`` where ``counts`` holds
    the positions.

    Raises
    ------
    UsageError
        The table or a file it names is missing, of another form, or names a platform that is not read.
    """
    if not table.is_file():
        msg = f"expected a dataset table at {table}, found no file; pass a CSV with the columns {','.join(COLUMNS)}"
        raise UsageError(msg)
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    missing = [c for c in COLUMNS if c not in rows.columns and c not in OPTIONAL]
    if missing or rows.empty:
        msg = (
            f"expected a dataset table with the columns {','.join(COLUMNS)} and at least one row in {table}, "
            f"found {'no rows' if not missing else 'no column ' + ', '.join(missing)}"
        )
        raise UsageError(msg)
    doubled = rows.section[rows.section.duplicated()]
    if len(doubled):
        msg = f"expected each section once in {table}, found {doubled.iloc[0]} more than once"
        raise UsageError(msg)
    return [_read_row(row, table.parent) for row in rows.to_dict("records")]


def _read_row(row: dict[str, str], folder: Path) -> Section:
    """Read one row; errors name the section."""
    platform = row["platform"].strip()
    if platform not in READERS:
        msg = f"expected a platform out of {', '.join(READERS)} for section {row['section']}, found '{platform}'"
        raise UsageError(msg)
    files = {key: folder / row[key] for key in ("image", "counts", "spots") if row.get(key, "").strip()}
    for key in ("image", "counts"):
        if not files.get(key, folder / "").is_file():
            msg = f"expected the {key} of section {row['section']} at {files.get(key, '(empty cell)')}, found no file"
            raise UsageError(msg)
    try:
        mpp = float(row["mpp"]) if row.get("mpp", "").strip() else None
        frame, positions, notes = READERS[platform](files["counts"], files.get("spots"))
        return Section(
            name=row["section"].strip(),
            patient=row["patient"].strip(),
            image=files["image"],
            mpp=mpp,
            genes=tuple(frame.columns),
            counts=sparse.csr_matrix(frame.to_numpy(dtype=np.float64)),
            positions_px=positions,
            notes=notes,
        )
    except (ValueError, KeyError, pd.errors.ParserError) as error:
        msg = f"section {row['section']} cannot be read: {error}"
        raise UsageError(msg) from error


Parts = tuple[pd.DataFrame, "np.ndarray[tuple[int, int], np.dtype[np.float64]]", tuple[str, ...]]


def read_legacy_st(counts: Path, spots: Path | None) -> Parts:
    """Read an array of the first spatial transcriptomics generation (Ståhl et al. 2016, doi 10.1126/science.aaf2403).

    ``counts`` is a tab-separated table with a row ``XxY`` a spot and a column a gene; ``spots`` has the columns
    ``x, y, pixel_x, pixel_y`` and, where a person chose the spots under tissue, ``selected``. Rows are joined on the
    array position, never on the row number.
    """
    if spots is None:
        msg = "expected a spot table for platform legacy_st, found none; fill the column spots"
        raise ValueError(msg)
    table = pd.read_csv(counts, sep="\t", index_col=0)
    # pandas renames doubled columns to A, A.1; the header itself says what they are.
    table.columns = pd.read_csv(counts, sep="\t", header=None, nrows=1, dtype=str).iloc[0, 1:].tolist()
    place = pd.read_csv(spots, sep="\t")
    missing = [c for c in ("x", "y", "pixel_x", "pixel_y") if c not in place.columns]
    if missing:
        msg = f"expected the columns x, y, pixel_x, pixel_y in {spots.name}, found no {', '.join(missing)}"
        raise ValueError(msg)
    if "selected" in place.columns:
        place = place[place.selected.astype(int) == 1]
    place = place.set_index(place.x.round().astype(int).astype(str) + "x" + place.y.round().astype(int).astype(str))
    together = [key for key in table.index.astype(str) if key in place.index]
    if not together:
        msg = (
            f"expected rows such as {place.index[0] if len(place) else '10x21'} in {counts.name}, found none in common"
        )
        raise ValueError(msg)
    lost = len(table) - len(together)
    table, notes = _sum_doubled(table.loc[together])
    if lost:
        notes += (f"{lost} of {lost + len(together)} spots have no position and were left out",)
    return table, place.loc[together, ["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64), notes


def read_anndata(counts: Path, spots: Path | None) -> Parts:
    """Read raw counts from ``X`` (or ``layers["counts"]``) and positions in level-0 px from ``obsm["spatial"]``."""
    if spots is not None:
        msg = f"expected no spot table for platform anndata (positions are in obsm['spatial']), found {spots.name}"
        raise ValueError(msg)
    data = anndata.read_h5ad(counts)
    if "spatial" not in data.obsm:
        msg = (
            f"expected obsm['spatial'] with x, y in pixels in {counts.name}, found {', '.join(data.obsm) or 'nothing'}"
        )
        raise ValueError(msg)
    raw = data.layers.get("counts", data.X)
    dense = raw.toarray() if sparse.issparse(raw) else np.asarray(raw)
    frame, notes = _sum_doubled(pd.DataFrame(dense, columns=data.var_names.astype(str)))
    return frame, np.asarray(data.obsm["spatial"], dtype=np.float64)[:, :2], notes


def _sum_doubled(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Add up columns of the same gene; counts of one gene under two accessions belong together."""
    doubled = table.columns[table.columns.duplicated()].unique()
    if not len(doubled):
        return table, ()
    merged = table.T.groupby(level=0, sort=False).sum().T
    return merged, (f"{len(doubled)} genes appeared more than once and were added up, first {doubled[0]}",)


READERS: dict[str, Callable[[Path, Path | None], Parts]] = {
    "legacy_st": read_legacy_st,
    "anndata": read_anndata,
}
