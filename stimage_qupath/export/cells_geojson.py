"""``cells.geojson.gz``: what QuPath imports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stimage_qupath.export.output_file import OutputFile
from stimage_qupath.export.packed_stream import PackedStream
from stimage_qupath.export.tables import Columns
from stimage_qupath.geojson_dialect import CellFeatureWriter, Color
from stimage_qupath.results import Cells


class GeojsonSink:
    """Writes nuclei as gzip-compressed GeoJSON; equal input gives equal bytes."""

    def __init__(self, path: Path, *, color_of_class: Mapping[str, Color] | None = None) -> None:
        self._file = OutputFile(path)
        self._packed = PackedStream(self._file)
        self._features = CellFeatureWriter(self._packed, color_of_class=color_of_class)

    def append(self, cells: Cells, columns: Columns, *, plane: tuple[int, int] = (0, 0)) -> None:
        """Write ``cells`` of ``plane`` (z, t) with ``columns`` as their measurements."""
        self._features.append(cells, columns, plane=plane)
        self._file.check()

    def close(self) -> None:
        """End the file."""
        self._features.close()
        self.abandon()
        self._file.check()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        self._packed.close()
        self._file.close()
