"""Outlines of a run's nuclei, read back from ``cells.geojson.gz`` a line at a time."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.geojson_dialect.stream import HEAD, TAIL

SEPARATOR: Final = b",\n"
COORDINATES: Final = b'"coordinates":'
GATHERED: Final = 20_000
"""Nuclei whose vertices wait as lists before they become one array."""


def feature_lines(path: Path) -> Iterator[bytes]:
    """Yield the text of each feature of a file that this package wrote, one a line, without the comma.

    Raises
    ------
    UsageError
        The file was written by another program.
    """
    with gzip.open(path, "rb") as stream:
        if next(stream, b"").rstrip(b"\n") != HEAD:
            msg = f"expected {path.name} as this package writes it, found another file; run the prediction again"
            raise UsageError(msg)
        for line in stream:
            if line == TAIL.lstrip(b"\n"):
                return
            yield line.rstrip(SEPARATOR)


def read_outlines(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the outer rings of the nuclei, in file order.

    Parameters
    ----------
    path
        ``cells.geojson.gz``.

    Returns
    -------
    tuple of ndarray
        (vertex, 2) x and y in level-0 px, and (nucleus + 1,) where the vertices of each nucleus begin, and the end.
    """
    parts, counts, waiting = [np.empty((0, 2), dtype=np.float32)], [0], []
    for line in feature_lines(path):
        ring = outer_ring(line)
        waiting.append(np.asarray(ring, dtype=np.float32))
        counts.append(len(ring))
        if len(waiting) == GATHERED:
            parts.append(np.concatenate(waiting))
            waiting = []
    return np.concatenate([*parts, *waiting]), np.cumsum(counts)


def outer_ring(line: bytes) -> list[list[float]]:
    """Return the outline of a feature's nucleus: of a cell, that is the geometry beside its own.

    Only the coordinates are parsed: the measurements that follow are most of the line.
    """
    nucleus = line.find(b'"nucleusGeometry":{')  # in a text its quotes would be escaped
    start = line.index(COORDINATES, max(nucleus, 0)) + len(COORDINATES)
    ring: list[list[float]] = orjson.loads(line[start : line.index(b"]]]", start) + 3])[0]
    return ring
