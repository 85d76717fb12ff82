"""Measured sections from a dataset table and the files it names; one reader a platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.anndata_sections import read_anndata
from stimage_qupath.spots.gene_names import read_gene_table, with_symbols
from stimage_qupath.spots.legacy_st import read_legacy_st
from stimage_qupath.spots.measurement import Measurement
from stimage_qupath.spots.section import Section
from stimage_qupath.spots.source import Source
from stimage_qupath.spots.spatialdata_sections import read_spatialdata
from stimage_qupath.spots.visium import read_visium
from stimage_qupath.spots.visium_hd import read_visium_hd
from stimage_qupath.spots.xenium import NO_ALIGNMENT, read_xenium
from stimage_qupath.word_table import read_words

COLUMNS = ("section", "patient", "image", "counts", "spots", "platform", "mpp")
OPTIONAL = ("spots", "mpp")
EXTRA = ("kind", "alignment", "coordinate_system", "axes", "image_scale")
"""Columns that a table may have besides; see :func:`read_dataset`."""

READERS: Mapping[str, Callable[[Source], Measurement]] = {
    "legacy_st": read_legacy_st,
    "visium": read_visium,
    "visium_hd": read_visium_hd,
    "xenium": read_xenium,
    "anndata": read_anndata,
    "spatialdata": read_spatialdata,
}
MPP_TOLERANCE = 0.05
"""Relative difference between the stated pixel size and that of the array from which it is said."""


def read_dataset(table: Path, *, gene_table: Path | None = None) -> list[Section]:
    """Read every section that a dataset table names.

    The table is CSV with the columns ``section, patient, image, counts, spots, platform, mpp``; paths are relative to
    the table or absolute, and ``counts`` may be a folder; ``mpp`` may be empty where the image or the platform states
    the pixel size, ``spots`` where ``counts`` holds the positions. It may have these columns too:

    ``kind``
        ``counts`` (default) or ``protein``.
    ``alignment``
        Xenium: the matrix that Xenium Explorer exports, or ``none``.
    ``coordinate_system``
        SpatialData: the frame of the image.
    ``axes``
        ``xy`` (default), or ``yx`` for files that name rows x and columns y.
    ``image_scale``
        Pixels of ``image`` per pixel of the full image (``tissue_hires_scalef``), where only a small one is left.

    Parameters
    ----------
    table
        Path of the CSV.
    gene_table
        CSV with the columns ``gene_id, symbol``, for files that hold accessions alone.

    Raises
    ------
    UsageError
        The table or a file it names is missing, of another form, or names a platform that is not read.
    MissingPartError
        A platform needs a package that is not installed.
    """
    if not table.is_file():
        msg = f"expected a dataset table at {table}, found no file; pass a CSV with the columns {','.join(COLUMNS)}"
        raise UsageError(msg)
    rows = read_words(table, what="a dataset table")
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
    symbols = {} if gene_table is None else read_gene_table(gene_table)
    return [_read_row(row, table.parent, symbols) for row in rows.to_dict("records")]


def _read_row(row: dict[str, str], folder: Path, symbols: Mapping[str, str]) -> Section:
    """Read one row; errors name the section."""
    row = {key: value.strip() for key, value in row.items()}
    platform = row["platform"]
    if platform not in READERS:
        msg = f"expected a platform out of {', '.join(READERS)} for section {row['section']}, found '{platform}'"
        raise UsageError(msg)
    _check_words(row)
    files = {key: folder / row[key] for key in ("image", "counts", "spots") if row.get(key)}
    for key, there in (("image", Path.is_file), ("counts", Path.exists)):
        if key not in files or not there(files[key]):
            msg = f"expected the {key} of section {row['section']} at {files.get(key, '(empty cell)')}, found no file"
            raise UsageError(msg)
    try:
        measured = READERS[platform](_source(row, files, folder)).with_single_genes()
        measured = with_symbols(measured, symbols).with_single_genes()
        return _section(row, files["image"], measured)
    except (ValueError, KeyError, OSError) as error:
        msg = f"section {row['section']} cannot be read: {error}"
        raise UsageError(msg) from error


def _check_words(row: Mapping[str, str]) -> None:
    """Refuse words that no reader knows: a typing error must not pass as the default."""
    for column, words in (("kind", ("counts", "protein")), ("axes", ("xy", "yx"))):
        if row.get(column) and row[column] not in words:
            msg = f"expected {column} {' or '.join(words)} for section {row['section']}, found '{row[column]}'"
            raise UsageError(msg)


def _source(row: Mapping[str, str], files: Mapping[str, Path], folder: Path) -> Source:
    alignment = row.get("alignment", "")
    return Source(
        counts=files["counts"],
        spots=files.get("spots"),
        alignment=str(folder / alignment) if alignment not in ("", NO_ALIGNMENT) else alignment,
        kind="protein" if row.get("kind") == "protein" else "counts",
        coordinate_system=row.get("coordinate_system") or "global",
    )


def _section(row: Mapping[str, str], image: Path, measured: Measurement) -> Section:
    scale = float(row.get("image_scale") or 1)
    if not 0 < scale <= 1:
        msg = f"expected image_scale above 0 and up to 1, found {scale}"
        raise ValueError(msg)
    positions = measured.positions_px[:, ::-1] if row.get("axes") == "yx" else measured.positions_px
    stated = float(row["mpp"]) if row.get("mpp") else None
    of_array = None if measured.mpp is None else measured.mpp / scale
    section = Section(
        name=row["section"],
        patient=row["patient"],
        image=image,
        mpp=of_array if stated is None else stated,
        genes=measured.genes,
        counts=measured.values,
        positions_px=positions * scale,
        notes=measured.notes,
        kind="protein" if row.get("kind") == "protein" else "counts",
        gene_ids=measured.gene_ids,
    )
    if stated is not None and of_array is not None and abs(stated / of_array - 1) > MPP_TOLERANCE:
        note = f"the table says {stated:g} um per pixel, the array's own geometry {of_array:.3g}; check the column mpp"
        return replace(section, notes=(*section.notes, note))
    return section
