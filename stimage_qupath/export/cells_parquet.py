"""``cells.parquet``: one row a nucleus, the columns that QuPath got."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stimage_qupath.export.output_file import OutputFile
from stimage_qupath.export.tables import Columns
from stimage_qupath.results import Cells

ROW_GROUP: Final = 50_000
"""Rows gathered before they are written: small regions would else make a row group each."""


class ParquetSink:
    """Writes rows in groups; the first block fixes the columns."""

    def __init__(self, path: Path, *, columns: tuple[str, ...]) -> None:
        fields = [("cell_id", pa.string()), ("region_id", pa.string()), ("cell_type", pa.string())]
        fields += [("x_px", pa.float64()), ("y_px", pa.float64())]
        self._schema = pa.schema(fields + [(name, pa.float32()) for name in columns])
        self._file = OutputFile(path)
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        self._waiting: list[pa.Table] = []

    def append(self, cells: Cells, region_id: str, columns: Columns) -> None:
        """Add ``cells`` of one region."""
        types = np.full(len(cells), None, dtype=object) if cells.classifications is None else cells.classifications
        data: dict[str, pa.Array] = {
            "cell_id": pa.array(cells.ids, pa.string()),
            "region_id": pa.array([region_id] * len(cells), pa.string()),
            "cell_type": pa.array(types, pa.string()),
            "x_px": pa.array(cells.centroids_px[:, 0]),
            "y_px": pa.array(cells.centroids_px[:, 1]),
        }
        data |= {name: pa.array(values, pa.float32()) for name, values in columns.items()}
        self._waiting.append(pa.table(data, schema=self._schema))
        if sum(len(table) for table in self._waiting) >= ROW_GROUP:
            self._write_groups(keep_rest=True)
            self._file.check()

    def close(self) -> None:
        """Write what waits and end the file."""
        self._write_groups(keep_rest=False)
        self.abandon()
        self._file.check()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        self._writer.close()
        self._file.close()

    def _write_groups(self, *, keep_rest: bool) -> None:
        """Write whole row groups, so that the file does not depend on the size of the blocks it came in."""
        table = pa.concat_tables([self._schema.empty_table(), *self._waiting]).combine_chunks()
        whole = len(table) - len(table) % ROW_GROUP if keep_rest else len(table)
        if whole:
            self._writer.write_table(table.slice(0, whole), row_group_size=ROW_GROUP)
        self._waiting = [table.slice(whole)]
