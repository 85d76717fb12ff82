"""Nuclei as primitive arrays, the form in which they cross into QuPath's process; read from a run a block at a time."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.export.run_reader import Run
from stimage_qupath.geojson_dialect import Color

BLOCK_CELLS: Final = 50_000
"""Bounds the memory; with 50 measurements a block is 10 MB of numbers."""


@dataclass(frozen=True, slots=True)
class RingArrays:
    """Polygons, flat.

    Attributes
    ----------
    xy
        (position, 2) float64, level-0 px; rings are open: the last position is not the first again.
    ring_starts
        (ring + 1,) int32, first position of each ring, and their number.
    part_starts
        (polygon + 1,) int32, first ring of each polygon, its outline, and their number.
    """

    xy: NDArray[np.float64]
    ring_starts: NDArray[np.int32]
    part_starts: NDArray[np.int32]

    def __post_init__(self) -> None:
        """Refuse starts that do not fit."""
        if self.ring_starts[-1] != len(self.xy) or self.part_starts[-1] != len(self.ring_starts) - 1:
            msg = f"expected starts that end with {len(self.xy)} positions, found {self.ring_starts[-1]}"
            raise ValueError(msg)

    def take(self, index: NDArray[np.intp]) -> RingArrays:
        """Return some of the polygons, in the order of ``index``."""
        rings = [np.arange(*self.part_starts[i : i + 2].tolist()) for i in index.tolist()]
        ring = np.concatenate([np.empty(0, dtype=np.intp), *rings])
        positions = [self.xy[self.ring_starts[r] : self.ring_starts[r + 1]] for r in ring.tolist()]
        return RingArrays(
            xy=np.concatenate([np.empty((0, 2)), *positions]),
            ring_starts=_starts([len(part) for part in positions]),
            part_starts=_starts([len(part) for part in rings]),
        )

    @classmethod
    def from_coordinates(cls, polygons: Sequence[Sequence[Any]]) -> RingArrays:
        """Return the polygons whose closed rings are given, (x, y) lists or arrays."""
        rings = [np.asarray(ring, dtype=np.float64)[:-1] for polygon in polygons for ring in polygon]
        return cls(
            xy=np.concatenate(rings) if rings else np.empty((0, 2)),
            ring_starts=_starts([len(ring) for ring in rings]),
            part_starts=_starts([len(polygon) for polygon in polygons]),
        )


@dataclass(frozen=True, slots=True)
class CellArrays:
    """Nuclei that become detections, or cells where there are ``nuclei``.

    Attributes
    ----------
    ids
        (cell, 2) int64, halves of each UUID, the most significant first.
    outlines
        Polygon of each.
    measurement_names
        Columns of ``values``.
    values
        (cell, measurement) float32; NaN is left out.
    class_of
        (cell,) int32 into ``classes``, -1 for none.
    classes
        Name and colour of each class.
    parent_of
        (cell,) int32 into the parents of the write.
    nuclei
        Polygon of each nucleus, where ``outlines`` are whole cells.
    plane
        Their z and t.
    """

    ids: NDArray[np.int64]
    outlines: RingArrays
    measurement_names: tuple[str, ...]
    values: NDArray[np.float32]
    class_of: NDArray[np.int32]
    classes: tuple[tuple[str, Color], ...]
    parent_of: NDArray[np.int32]
    nuclei: RingArrays | None = None
    plane: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Refuse arrays of different length."""
        n = len(self.ids)
        found = {len(self.outlines.part_starts) - 1, len(self.values), len(self.class_of), len(self.parent_of)}
        found |= set() if self.nuclei is None else {len(self.nuclei.part_starts) - 1}
        if found != {n} or self.values.shape[1] != len(self.measurement_names):
            msg = f"expected {n} outlines, rows, classes, parents and nuclei, found {sorted(found)}"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of nuclei."""
        return len(self.ids)

    def take(self, index: NDArray[np.intp]) -> CellArrays:
        """Return some of the nuclei, in the order of ``index``."""
        return replace(
            self,
            ids=self.ids[index],
            outlines=self.outlines.take(index),
            values=self.values[index],
            class_of=self.class_of[index],
            parent_of=self.parent_of[index],
            nuclei=None if self.nuclei is None else self.nuclei.take(index),
        )


def uuid_halves(identities: Sequence[str]) -> NDArray[np.int64]:
    """Return (id, 2) int64, the two halves of each UUID as Java holds them."""
    data = b"".join(uuid.UUID(identity).bytes for identity in identities)
    return np.frombuffer(data, dtype=">i8").astype(np.int64).reshape(-1, 2)


def run_parents(run: Run) -> tuple[str, ...]:
    """Return the id of each region of a run, in its order."""
    return tuple(span.region.id for span in run.spans)


def iter_cells(run: Run, *, block_cells: int = BLOCK_CELLS) -> Iterator[CellArrays]:
    """Yield the nuclei of a run, in file order; ``parent_of`` counts its regions.

    Raises
    ------
    UsageError
        The file holds other nuclei than ``run.json`` says: another number, or another first one of a region.
    """
    parents = np.repeat(np.arange(len(run.spans), dtype=np.int32), [span.count for span in run.spans])
    measurement_names = tuple(run.record["measurements"])
    plane = (run.spans[0].region.z, run.spans[0].region.t) if run.spans else (0, 0)  # a run is of one plane
    first_ids = {span.first: span.first_id for span in run.spans if span.count}
    done = 0
    try:
        with gzip.open(run.geojson_path, "rb") as stream:
            next(stream)  # the head of the collection; one feature a line follows
            lines = (line for line in stream if line.startswith(b'{"type"'))
            while block := [orjson.loads(line.rstrip(b",\n")) for line in islice(lines, block_cells)]:
                _check_first(block, first_ids, done, run)
                for index in _alike(block):
                    members = [block[i] for i in index.tolist()]
                    yield _block(members, measurement_names, parents[done + index], plane)
                done += len(block)
    except (OSError, EOFError, StopIteration, ValueError, KeyError, TypeError) as error:
        msg = f"expected the nuclei of a run in {run.geojson_path}, found: {error!r}; run the prediction again"
        raise UsageError(msg) from error
    if done != len(parents):
        msg = f"expected {len(parents)} nuclei in {run.geojson_path}, found {done}; run the prediction again"
        raise UsageError(msg)


def _check_first(block: list[dict[str, Any]], first_ids: dict[int, str | None], done: int, run: Run) -> None:
    """Refuse a block in which a region begins with another nucleus than the record says."""
    for first, expected in first_ids.items():
        if done <= first < done + len(block) and block[first - done]["id"] != expected:
            found = block[first - done]["id"]
            msg = f"expected nucleus {expected} at place {first} of {run.geojson_path}, found {found}; "
            msg += "run the prediction again"
            raise UsageError(msg)


def _alike(block: list[dict[str, Any]]) -> Iterator[NDArray[np.intp]]:
    """Yield the places of the detections and of the cells of a block, which the user's own file may mix."""
    is_cell = np.array(["nucleusGeometry" in feature for feature in block])
    yield from (index for index in (np.flatnonzero(~is_cell), np.flatnonzero(is_cell)) if len(index))


def _block(
    features: list[dict[str, Any]], names: tuple[str, ...], parents: NDArray[np.int32], plane: tuple[int, int]
) -> CellArrays:
    properties = [feature["properties"] for feature in features]
    nan = float("nan")
    rows = [[row.get(name, nan) for name in names] for row in (p.get("measurements") or {} for p in properties)]
    classes = [p.get("classification") for p in properties]
    known = {c["name"]: tuple(c["color"]) for c in classes if c}
    index = {name: i for i, name in enumerate(known)}
    nuclei = [feature["nucleusGeometry"]["coordinates"] for feature in features if "nucleusGeometry" in feature]
    return CellArrays(
        ids=uuid_halves([feature["id"] for feature in features]),
        outlines=RingArrays.from_coordinates([feature["geometry"]["coordinates"] for feature in features]),
        measurement_names=names,
        values=np.array(rows, dtype=np.float32).reshape(len(features), len(names)),
        class_of=np.array([index[c["name"]] if c else -1 for c in classes], dtype=np.int32),
        classes=tuple(known.items()),
        parent_of=parents,
        nuclei=RingArrays.from_coordinates(nuclei) if nuclei else None,
        plane=plane,
    )


def _starts(lengths: list[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
