"""``run.json``: the record of a run and where each region's nuclei stand in the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape

from stimage_qupath.errors import UsageError
from stimage_qupath.results import Region

FORMAT: Final = 1
RESERVED: Final = frozenset({"format", "cells", "genes", "measurements", "regions"})
"""Keys of ``run.json`` that the writer itself fills."""


@dataclass(frozen=True, slots=True)
class RegionSpan:
    """A region and its nuclei: ``count`` of them from ``first`` (from 0), in file order.

    Attributes
    ----------
    region
        The analysed area.
    first, count
        Place of its nuclei in ``cells.geojson.gz``, ``cells.h5ad`` and ``cells.parquet`` alike.
    first_id
        Id of the nucleus at ``first``, by which an importer knows that record and file belong together; None without.
    """

    region: Region
    first: int
    count: int
    first_id: str | None = None

    @property
    def rows(self) -> slice:
        """The region's rows in the tables."""
        return slice(self.first, self.first + self.count)


def to_json(value: object, *, sort_keys: bool = False) -> bytes:
    """Return ``value`` as indented JSON: numpy numbers are numbers, paths text, NaN and infinities null.

    Raises
    ------
    TypeError
        It holds something JSON cannot.
    """
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, default=_path_text, option=option | (orjson.OPT_SORT_KEYS if sort_keys else 0))


def _path_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError  # orjson says of what


def run_json(
    record: Mapping[str, object], spans: Sequence[RegionSpan], *, genes: Sequence[str], measurements: Sequence[str]
) -> bytes:
    """Return the text of ``run.json``.

    Raises
    ------
    ValueError
        ``record`` uses a key that the writer fills.
    """
    taken = sorted(RESERVED & record.keys())
    if taken:
        msg = f"expected a record without the keys the writer fills, found {', '.join(taken)}"
        raise ValueError(msg)
    filled = {
        "format": FORMAT,
        "cells": sum(span.count for span in spans),
        "genes": list(genes),
        "measurements": list(measurements),
        "regions": [region_record(span, with_geometry=True) for span in spans],
    }
    return to_json({**record, **filled})


def region_record(span: RegionSpan, *, with_geometry: bool) -> dict[str, object]:
    """Return a region as JSON can hold it, its geometry (full precision) last."""
    region = span.region
    record: dict[str, object] = {"id": region.id, "name": region.name, "classification": region.classification}
    record |= {"first": span.first, "count": span.count, "first_id": span.first_id}
    if with_geometry:
        record |= {"color": region.color, "is_locked": region.is_locked, "source": region.source}
        record |= {"z": region.z, "t": region.t, "geometry": mapping(region.geometry)}
    return record


def parse_run_json(path: Path) -> tuple[dict[str, Any], tuple[RegionSpan, ...]]:
    """Return the record (all keys) and the regions of a ``run.json``.

    Raises
    ------
    UsageError
        It cannot be read or was not written by :func:`run_json`.
    """
    try:
        record = orjson.loads(path.read_bytes())
        if record["format"] != FORMAT:
            msg = f"expected format {FORMAT} in {path}, found {record['format']}; read it with a newer version"
            raise UsageError(msg)
        return record, tuple(_span(entry) for entry in record["regions"])
    except (OSError, ValueError, KeyError, TypeError, ShapelyError) as error:
        msg = f"expected the record of a run in {path}, found: {error!r}; run the prediction again"
        raise UsageError(msg) from error


def _span(entry: Mapping[str, Any]) -> RegionSpan:
    keys = ("id", "name", "classification", "is_locked", "source", "z", "t")
    color = None if entry["color"] is None else tuple(entry["color"])
    region = Region(geometry=shape(entry["geometry"]), color=color, **{key: entry[key] for key in keys})
    return RegionSpan(region=region, first=entry["first"], count=entry["count"], first_id=entry.get("first_id"))
