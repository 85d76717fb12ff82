"""The files of a cohort: measured expression in; the table, its record and the genes compared out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from stimage_qupath import names
from stimage_qupath.clinical.table import CSV_SUFFIXES, listed, read_table
from stimage_qupath.errors import OutputExistsError, UsageError
from stimage_qupath.export.run_record import to_json
from stimage_qupath.geojson_dialect.disk import output_errors


def read_measured(path: Path) -> pd.DataFrame:
    """Read a table of measured expression, the names of its rows as text.

    Genes may be called ``COG8`` and ``COG8.1``, as R makes doubled names different, so that only the head line itself
    tells what is doubled.

    Raises
    ------
    UsageError
        There is no such table, or a column stands in it twice.
    """
    if not path.is_file() or not path.name.lower().endswith(CSV_SUFFIXES):
        return read_table(path, text=())
    separator = "\t" if ".tsv" in path.name.lower() else ","
    try:
        head = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0].tolist()
        doubled = sorted({name for name in head if head.count(name) > 1})
        if doubled:
            msg = f"expected each column once in {path}, found {listed(doubled)} more than once; rename one"
            raise UsageError(msg)
        rest = pd.read_csv(path, sep=separator, header=None, names=head, skiprows=1, dtype={head[0]: str})
    except (ValueError, OSError) as error:
        msg = f"expected a readable table in {path}, found one that is not ({error}); write it again"
        raise UsageError(msg) from error
    return rest


class CohortFiles:
    """``OUTPUT``, ``OUTPUT.json`` and ``OUTPUT.genes.csv``; each appears when it is whole, the table last.

    Parameters
    ----------
    output
        The table, ``.csv`` or ``.parquet``.
    force
        Whether an earlier table is replaced.

    Raises
    ------
    OutputExistsError
        There is something at ``output`` and ``force`` is not set, or it is a folder.
    """

    def __init__(self, output: Path, *, force: bool) -> None:
        self.table_path = output
        self.record_path = output.with_name(f"{output.name}.json")
        self.genes_path = output.with_name(f"{output.name}.genes.csv")
        there = [path for path in (output, self.record_path) if path.exists()]
        if there and (not force or any(path.is_dir() for path in there)):
            msg = f"expected no {there[0]} yet, found one; choose another output or force its replacement (--force)"
            raise OutputExistsError(msg)

    def write(self, table: pd.DataFrame, record: Mapping[str, Any], genes: pd.DataFrame | None) -> None:
        """Write all files.

        Raises
        ------
        OutputError
            The disk is full or not writable.
        """
        with output_errors(self.table_path):
            self.table_path.parent.mkdir(parents=True, exist_ok=True)
            self.genes_path.unlink(missing_ok=True)  # of an earlier table
            if genes is not None:
                _whole(self.genes_path, lambda path: genes.to_csv(path, index=False, lineterminator="\n"))
            _whole(self.record_path, lambda path: path.write_bytes(to_json(record)))
            _whole(self.table_path, lambda path: _write_table(table, path, self.table_path.suffix.lower()))


def _write_table(table: pd.DataFrame, path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, lineterminator="\n")


def _whole(path: Path, write: Any) -> None:
    """Write beside the final name, then take it; nothing half-written is left."""
    partial = path.with_name(path.name + names.PARTIAL_SUFFIX)
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
