"""``cells.geojson.gz``: what QuPath imports."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from stimage_qupath.export.output_file import OutputFile
from stimage_qupath.export.tables import Columns
from stimage_qupath.geojson_dialect import CellFeatureWriter, Color
from stimage_qupath.results import Cells

GZIP_LEVEL: Final = 3
"""Measured on 100,000 nuclei x 40 measurements: level 4 takes a tenth longer for 4 % less, level 1 makes 8 % more."""


def gzip_stream(file: BinaryIO | OutputFile) -> gzip.GzipFile:
    """Return a compressing stream into ``file`` with neither time nor name in its header."""
    return gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0)


class GeojsonSink:
    """Writes nuclei as gzip-compressed GeoJSON; equal input gives equal bytes."""

    def __init__(self, path: Path, *, color_of_class: Mapping[str, Color] | None = None) -> None:
        self._file = OutputFile(path)
        self._gzip = gzip_stream(self._file)
        self._features = CellFeatureWriter(self._gzip, color_of_class=color_of_class)

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
        self._gzip.close()
        self._file.close()
