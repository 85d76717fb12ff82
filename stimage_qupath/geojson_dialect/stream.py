"""Nuclei by the million to GeoJSON, a block at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from stimage_qupath.geojson_dialect.color import Color, default_color
from stimage_qupath.geojson_dialect.rings import polygons_on_grid, ring_arrays
from stimage_qupath.results import Cells

BLOCK_CELLS: Final = 1_000
"""Small enough for the processor's cache: blocks of 10,000 took nearly twice the time."""
HEAD: Final = b'{"type":"FeatureCollection","features":['
TAIL: Final = b"\n]}\n"


class ByteSink(Protocol):
    """Anything that takes bytes."""

    def write(self, data: bytes, /) -> Any:
        """Take ``data``."""


class CellFeatureWriter:
    """Streams nuclei as one FeatureCollection, one feature a line, in the order they come.

    Polygons have two decimals and are valid after rounding (see :func:`polygons_on_grid`); measurements print the
    shortest text that is the same float32; those that are not finite are left out. Equal input gives equal bytes.

    Parameters
    ----------
    stream
        Takes the bytes; it is not closed here.
    color_of_class
        Class name to colour; classes not in it get :func:`default_color`, since QuPath refuses a class without.
    """

    def __init__(self, stream: ByteSink, *, color_of_class: Mapping[str, Color] | None = None) -> None:
        self._stream = stream
        self._color_of_class = color_of_class or {}
        self._separator = b"\n"
        self.count = 0
        stream.write(HEAD)

    def append(
        self, cells: Cells, measurements: Mapping[str, NDArray[np.float32]], *, plane: tuple[int, int] = (0, 0)
    ) -> None:
        """Write ``cells``: a ``detection`` each, or a ``cell`` with its nucleus where one has a boundary.

        Parameters
        ----------
        cells
            Nuclei with finite coordinates; ``cells.measurements`` is not looked at.
        measurements
            Name to (cell,) float32, in the order QuPath shall show.
        plane
            Their z and t.
        """
        for start in range(0, len(cells), BLOCK_CELLS):
            stop = min(start + BLOCK_CELLS, len(cells))
            part = {name: values[start:stop] for name, values in measurements.items()}
            self._append_block(cells.take(np.arange(start, stop)), part, plane)

    def close(self) -> None:
        """End the collection."""
        self._stream.write(TAIL)

    def _append_block(
        self, cells: Cells, measurements: Mapping[str, NDArray[np.float32]], plane: tuple[int, int]
    ) -> None:
        outlines = _polygons(cells.polygons, cells.centroids_px, plane)
        rows = _rows(measurements, len(cells))
        classes = [None] * len(cells) if cells.classifications is None else cells.classifications.tolist()
        nuclei: list[Any] = [None] * len(cells)
        if cells.boundaries is not None:
            there = np.flatnonzero(~shapely.is_missing(cells.boundaries)).tolist()
            whole = _polygons(cells.boundaries[there], cells.centroids_px[there], plane)
            for i, outline in zip(there, whole, strict=True):
                nuclei[i], outlines[i] = outlines[i], outline
        columns = zip(cells.ids.tolist(), outlines, nuclei, classes, rows, strict=True)
        lines = [orjson.dumps(self._feature(*row), option=orjson.OPT_SERIALIZE_NUMPY) for row in columns]
        self._stream.write(self._separator + b",\n".join(lines))
        self._separator = b",\n"
        self.count += len(lines)

    def _feature(
        self, identity: str, outline: Any, nucleus: Any, classification: str | None, row: dict[str, float]
    ) -> dict[str, object]:
        feature: dict[str, object] = {"type": "Feature", "id": identity, "geometry": outline}
        properties: dict[str, object] = {"objectType": "detection"}
        if nucleus is not None:
            feature["nucleusGeometry"] = nucleus
            properties["objectType"] = "cell"
        if classification is not None:
            color = self._color_of_class.get(classification) or default_color(classification)
            properties["classification"] = {"name": classification, "color": color}
        if row:
            properties["measurements"] = row
        feature["properties"] = properties
        return feature


def _polygons(
    polygons: NDArray[np.object_], centres_px: NDArray[np.float64], plane: tuple[int, int]
) -> list[dict[str, object]]:
    """Return GeoJSON polygons whose coordinates are still numpy arrays, which orjson prints itself.

    QuPath reads the plane inside the geometry, and takes the first one where there is none.
    """
    z, t = plane
    where: dict[str, object] = {"plane": {"c": -1, "z": z, "t": t}} if z or t else {}
    outlines = ring_arrays(polygons_on_grid(polygons, centres_px))
    return [{"type": "Polygon", "coordinates": rings, **where} for rings in outlines]


def _rows(measurements: Mapping[str, NDArray[np.float32]], n: int) -> list[dict[str, float]]:
    """Return each cell's measurements by name; printing and parsing float32 once gives the shortest numbers."""
    if not measurements:
        return [{}] * n
    names = list(measurements)
    matrix = np.column_stack([np.asarray(values, dtype=np.float32) for values in measurements.values()])
    table = orjson.loads(orjson.dumps(matrix, option=orjson.OPT_SERIALIZE_NUMPY))
    rows = [dict(zip(names, values, strict=True)) for values in table]
    for i in np.flatnonzero(~np.isfinite(matrix).all(axis=1)):
        rows[i] = {name: value for name, value in rows[i].items() if value is not None}
    return rows
