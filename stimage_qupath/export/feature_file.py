"""A QuPath GeoJSON file written a feature at a time, and the nuclei of a run in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from stimage_qupath import names
from stimage_qupath.export.cell_outlines import feature_lines
from stimage_qupath.export.packed_stream import PackedStream
from stimage_qupath.export.run_blocks import Selection, blocks
from stimage_qupath.export.whole_file import whole_file
from stimage_qupath.geojson_dialect.stream import HEAD, TAIL


def write_features(path: Path, features: Iterable[Mapping[str, Any]]) -> int:
    """Write a FeatureCollection, one feature a line, gzip if ``path`` ends in ``.gz``; return how many there were.

    Raises
    ------
    OutputError
        The disk is full or not writable; nothing is left behind.
    """
    count = 0
    with whole_file(path) as draft, draft.open("wb") as file:
        packed = path.suffix.lower() == ".gz"
        stream: Any = PackedStream(file) if packed else file
        try:
            stream.write(HEAD)
            for feature in features:
                stream.write((b",\n" if count else b"\n") + orjson.dumps(feature, option=orjson.OPT_SERIALIZE_NUMPY))
                count += 1
            stream.write(TAIL)
        finally:
            if packed:
                stream.close()
    return count


def cell_features(chosen: Selection) -> Iterator[dict[str, Any]]:
    """Yield the nuclei of a selection as the run wrote them, with the measurements of the selection."""
    lines = enumerate(feature_lines(chosen.finished.geojson_path))
    for block in blocks(chosen):
        last = block.first + len(block.keys)
        values = {name: column.astype(np.float32) for name, column in block.columns.items()}
        for row, line in lines:
            if row >= block.first:
                yield _feature(line, values, row - block.first)
            if row == last - 1:
                break


def _feature(line: bytes, values: Mapping[str, Any], place: int) -> dict[str, Any]:
    feature: dict[str, Any] = orjson.loads(line)
    written = feature["properties"].get("measurements", {})
    own = {names.OBJECT_VERSION: written[names.OBJECT_VERSION]} if names.OBJECT_VERSION in written else {}
    finite = {name: column[place] for name, column in values.items() if np.isfinite(column[place])}
    feature["properties"]["measurements"] = own | finite
    return feature
