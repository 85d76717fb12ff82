"""Times the streamed GeoJSON of nuclei against ``geojson.Feature`` + ``geojson.dumps`` on the same nuclei.

    python tests/benchmarks/geojson_export.py --cells 100000 --measurements 20
    python tests/benchmarks/geojson_export.py --cells 1000000 --measurements 40 --stream-only --gzip --read-back

Prints seconds on the clock and of the processor (the fairer ones on a busy machine), their ratios, the size, and by how
much the peak resident memory grew while streaming. Nuclei are made block by block and their making is not timed; both
ways get the same shapely polygons and float32 columns. ``--read-back`` times our reader of outlines on the packed file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import geojson
import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath.export.cell_outlines import read_outlines
from stimage_qupath.export.packed_stream import PackedStream
from stimage_qupath.geojson_dialect import CellFeatureWriter
from stimage_qupath.results import Cells

Block = tuple[Cells, dict[str, NDArray[np.float32]]]


def make_blocks(n: int, measurements: int, *, size: int, seed: int) -> Iterator[Block]:
    """Yield nuclei of 12 to 30 vertices on a 50,000 px slide and ``measurements`` columns each."""
    random = np.random.default_rng(seed)
    for start in range(0, n, size):
        count = min(size, n - start)
        centres = random.uniform(100, 50_000, (count, 2))
        vertices = random.integers(12, 31, count)
        owner = np.repeat(np.arange(count), vertices)
        step = np.concatenate([np.arange(v) / v for v in vertices]) * 2 * np.pi
        radius = random.uniform(8, 16, count)[owner] * random.uniform(0.9, 1.1, len(owner))
        ring = centres[owner] + radius[:, None] * np.column_stack([np.cos(step), np.sin(step)])
        polygons = shapely.polygons(shapely.linearrings(ring, indices=owner))
        ids = np.array([str(uuid.UUID(bytes=random.bytes(16))) for _ in range(count)], dtype=object)
        columns = {
            f"STimage: GENE{i:02d}: mean": random.gamma(2.0, 1.5, count).astype(np.float32) for i in range(measurements)
        }
        yield Cells(ids=ids, polygons=polygons, centroids_px=centres), columns


class Watch:
    """Adds up what happens inside its ``with`` blocks: seconds on the clock and of the processor."""

    def __init__(self) -> None:
        self.clock = self.processor = 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.clock += time.perf_counter() - self._begin[0]
        self.processor += time.process_time() - self._begin[1]

    def __str__(self) -> str:
        return f"{self.clock:7.2f} s, processor {self.processor:7.2f} s"


def stream(blocks: Iterator[Block], file: BinaryIO, *, packed: bool) -> Watch:
    """Time the streamed writer."""
    sink = PackedStream(file) if packed else file
    watch = Watch()
    with watch:
        writer = CellFeatureWriter(sink)
    for cells, columns in blocks:
        with watch:
            writer.append(cells, columns)
    with watch:
        writer.close()
        sink.close()
    return watch


def typed(blocks: Iterator[Block], file: BinaryIO, *, packed: bool) -> Watch:
    """Time ``geojson.Feature`` per nucleus and one ``geojson.dumps``."""
    sink = PackedStream(file) if packed else file
    watch = Watch()
    features = []
    for cells, columns in blocks:
        with watch:
            for i, (identity, polygon) in enumerate(zip(cells.ids, cells.polygons, strict=True)):
                geometry = geojson.Polygon([shapely.get_coordinates(polygon).tolist()], precision=2)
                values = {name: float(column[i]) for name, column in columns.items()}
                properties = {"objectType": "detection", "measurements": values}
                features.append(geojson.Feature(id=identity, geometry=geometry, properties=properties))
    with watch:
        sink.write(geojson.dumps(geojson.FeatureCollection(features)).encode())
        sink.close()
    return watch


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB; NaN on Windows."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    """Run both ways and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--measurements", type=int, default=20)
    parser.add_argument("--block", type=int, default=10_000, help="nuclei made and appended at a time")
    parser.add_argument("--gzip", action="store_true", help="both ways through the same packing")
    parser.add_argument("--stream-only", action="store_true", help="leave the geojson package out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read-back", action="store_true", help="read the outlines again; with --gzip")
    options = parser.parse_args()
    if options.read_back and not options.gzip:
        parser.error("expected --gzip with --read-back, found none")

    def blocks() -> Iterator[Block]:
        return make_blocks(options.cells, options.measurements, size=options.block, seed=options.seed)

    next(blocks())  # so that the making of one block is in the memory before
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.geojson"
        before = peak_mib()
        with path.open("wb") as file:
            streamed = stream(blocks(), file, packed=options.gzip)
        growth = peak_mib() - before
        size = path.stat().st_size / 2**20
        rate = options.cells / streamed.clock
        sys.stdout.write(
            f"streamed      {streamed}, {rate:,.0f} nuclei/s, {size:.1f} MiB, peak memory grew {growth:.0f} MiB\n"
        )
        if options.read_back:
            watch = Watch()
            with watch:
                _, starts = read_outlines(path)
            rate = (len(starts) - 1) / watch.clock
            sys.stdout.write(f"read back     {watch}, {rate:,.0f} nuclei/s of {len(starts) - 1:,}\n")
        if options.stream_only:
            return
        with path.open("wb") as file:
            built = typed(blocks(), file, packed=options.gzip)
        size = path.stat().st_size / 2**20
        sys.stdout.write(f"geojson.dumps {built}, {size:.1f} MiB\n")
        ratio, of_processor = built.clock / streamed.clock, built.processor / streamed.processor
        sys.stdout.write(f"ratio         {ratio:.1f}, of the processor {of_processor:.1f}\n")


if __name__ == "__main__":
    main()
