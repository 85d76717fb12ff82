"""Columns added to a finished run: the folder is made anew beside it and takes its place at the very end.

Whatever else lies in the folder, the user's own files too, is copied, so that nothing is lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.export.cell_outlines import feature_lines
from stimage_qupath.export.output_file import OutputFile
from stimage_qupath.export.packed_stream import PackedStream
from stimage_qupath.export.partial_folder import OWNER_FILE, PartialFolder
from stimage_qupath.export.run_reader import CELL_FILES, Run
from stimage_qupath.export.run_record import to_json
from stimage_qupath.export.tables import table_column
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.geojson_dialect.stream import HEAD, TAIL

ROWS: Final = 2**14
"""Of a chunk of a layer; one column wide, so that genes without values take no room."""
LINES: Final = 1000
"""Features that are written at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewColumns:
    """What a run gets.

    Attributes
    ----------
    measurements
        QuPath's name to (cell,) float32; NaN where a nucleus has none. Those that are there already are replaced.
    layers
        Layer of ``cells.h5ad`` to gene to (cell,) float32; other genes keep what they have, else NaN.
    tables
        Columns of ``cells.parquet`` alone.
    record
        Keys of ``run.json`` to set, and as text under ``uns["stimage_qupath"]``.
    files
        Further files of the folder: name to content.
    """

    measurements: Mapping[str, NDArray[np.float32]]
    layers: Mapping[str, Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)
    tables: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def add_columns(run: Run, new: NewColumns) -> Path:
    """Write ``new`` into a run and return its folder; until the end the run stays as it was.

    Raises
    ------
    ValueError
        A column has another number of values than the run has nuclei.
    OutputError
        The disk is full or not writable; the run is as it was.
    """
    columns = [*new.measurements.items(), *new.tables.items()]
    columns += [(f"{layer} {gene}", v) for layer, genes in new.layers.items() for gene, v in genes.items()]
    wrong = [name for name, values in columns if len(values) != len(run)]
    if wrong:
        msg = f"expected {len(run)} values a column, found others for {', '.join(wrong)}"
        raise ValueError(msg)
    with PartialFolder(run.path, force=True, why_keep=_nothing_is_lost) as folder, output_errors(run.path):
        _copy_rest(run.path, folder.path, leave=(*CELL_FILES, names.RUN_JSON, OWNER_FILE, *new.files))
        _rewrite_geojson(run.geojson_path, folder.path / names.CELLS_GEOJSON, new.measurements)
        table = {table_column(name): values for name, values in new.measurements.items()} | dict(new.tables)
        _rewrite_parquet(run.parquet_path, folder.path / names.CELLS_PARQUET, table)
        _extend_h5ad(run.h5ad_path, folder.path / names.CELLS_H5AD, new)
        (folder.path / names.RUN_JSON).write_bytes(_record(run, new))
        for name, content in new.files.items():
            (folder.path / name).write_bytes(content)
        return folder.publish()


def _nothing_is_lost(folder: Path) -> None:
    """Everything in the folder is in the new one, so that any may be replaced."""


def _copy_rest(source: Path, target: Path, *, leave: tuple[str, ...]) -> None:
    for entry in source.iterdir():
        if entry.name in leave:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, target / entry.name, follow_symlinks=False)


def _rewrite_geojson(source: Path, target: Path, columns: Mapping[str, NDArray[np.float32]]) -> None:
    """Copy features in order, each with its values."""
    with OutputFile(target) as raw:
        with PackedStream(raw) as stream:
            stream.write(HEAD)
            waiting: list[bytes] = []
            for row, line in enumerate(feature_lines(source)):
                waiting.append((b",\n" if row else b"\n") + _with_values(line, row, columns))
                if len(waiting) == LINES:
                    stream.write(b"".join(waiting))
                    raw.check()
                    waiting = []
            stream.write(b"".join(waiting) + TAIL)
        raw.check()


def _with_values(line: bytes, row: int, columns: Mapping[str, NDArray[np.float32]]) -> bytes:
    feature = orjson.loads(line)
    measurements = feature["properties"].setdefault("measurements", {})
    for name, values in columns.items():
        if np.isfinite(values[row]):
            measurements[name] = values[row]
        else:
            measurements.pop(name, None)
    return orjson.dumps(feature, option=orjson.OPT_SERIALIZE_NUMPY)


def _rewrite_parquet(source: Path, target: Path, columns: Mapping[str, NDArray[np.float32]]) -> None:
    """Copy the table a row group at a time; equal names are replaced in place, new columns come last."""
    with OutputFile(target) as raw, pq.ParquetFile(source) as old:
        fields = list(old.schema_arrow)
        fields += [pa.field(name, pa.float32()) for name in columns if name not in old.schema_arrow.names]
        schema = pa.schema(fields)
        with pq.ParquetWriter(raw, schema, compression="zstd") as writer:
            first = 0
            for group in range(old.num_row_groups):
                table = old.read_row_group(group)
                part = {n: pa.array(v[first : first + len(table)], pa.float32()) for n, v in columns.items()}
                data = {name: part.get(name) if name in part else table[name] for name in schema.names}
                writer.write_table(pa.table(data, schema=schema), row_group_size=max(1, len(table)))
                first += len(table)
        raw.check()


def _extend_h5ad(source: Path, target: Path, new: NewColumns) -> None:
    """Copy the file and set columns of its layers in the copy."""
    with OutputFile(target) as raw:
        with source.open("rb") as stream:
            shutil.copyfileobj(stream, raw, 2**22)
        raw.check()
        raw.seek(0)
        with h5py.File(raw, "r+") as file:
            genes = [gene.decode() for gene in file["var"]["gene"][:]]
            for layer, values in new.layers.items():
                matrix = _layer(file["layers"], layer, (len(file["obs"]["cell_id"]), len(genes)))
                for gene, column in values.items():
                    matrix[:, genes.index(gene)] = column
            for key, value in new.record.items():
                _set_text(file["uns"]["stimage_qupath"], key, to_json(value).decode())
        raw.check()


def _layer(parent: h5py.Group, name: str, shape: tuple[int, int]) -> h5py.Dataset:
    """Return a layer; a new one is NaN throughout and takes room only where it is written."""
    if name not in parent:
        chunks = (max(1, min(ROWS, shape[0])), 1)
        dataset = parent.create_dataset(
            name, shape, np.float32, chunks=chunks, maxshape=(None, shape[1]), fillvalue=np.nan, track_times=False
        )
        dataset.attrs["encoding-type"], dataset.attrs["encoding-version"] = "array", "0.2.0"
    return parent[name]


def _set_text(group: h5py.Group, key: str, text: str) -> None:
    if key in group:
        del group[key]
    dataset = group.create_dataset(key, data=text, dtype=h5py.string_dtype(), track_times=False)
    dataset.attrs["encoding-type"], dataset.attrs["encoding-version"] = "string", "0.2.0"


def _record(run: Run, new: NewColumns) -> bytes:
    """Return ``run.json`` with the new keys and the new measurements."""
    record = orjson.loads((run.path / names.RUN_JSON).read_bytes())
    measured = [*record["measurements"], *(name for name in new.measurements if name not in record["measurements"])]
    return to_json({**record, "measurements": measured, **new.record})
