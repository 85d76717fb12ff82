"""Time from objects in memory to a saved ``data.qpdata``, by our bulk path and by paquo's two own ways.

Run with a QuPath (``PAQUO_QUPATH_DIR``)::

    python tests/benchmarks/qupath_write.py --objects 100000 --measurements 50 --route bulk
    python tests/benchmarks/qupath_write.py --objects 10000 --measurements 50 --route load_geojson
    python tests/benchmarks/qupath_write.py --objects 100000 --measurements 50 --route add_detection

Each route runs in its own process. The start of the JVM and the one-time compilation of the Groovy class are printed
apart and not part of ``seconds``; for every route ``seconds`` ends when QuPath's save returns. One JSON line comes out.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from stimage_qupath.qupath.cell_arrays import CellArrays, RingArrays, uuid_halves
from stimage_qupath.qupath.project.jvm import start_qupath

VERTICES = 12
SIDE = 20_000


def make_arrays(n: int, m: int) -> CellArrays:
    """Return ``n`` nuclei of 12 corners with ``m`` measurements."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    ring = np.column_stack([np.cos(angle), np.sin(angle)]) * 8
    xy = np.round(rng.uniform(20, SIDE - 20, size=(n, 1, 2)) + ring, 2)
    own = ("STimage: object version",)
    return CellArrays(
        ids=uuid_halves([str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)]),
        outlines=RingArrays(
            xy.reshape(-1, 2),
            np.arange(0, n * VERTICES + 1, VERTICES, dtype=np.int32),
            np.arange(n + 1, dtype=np.int32),
        ),
        measurement_names=own + tuple(f"STimage: GENE{i}: mean" for i in range(m - 1)),
        values=rng.random((n, m), dtype=np.float32),
        class_of=np.full(n, -1, dtype=np.int32),
        classes=(),
        parent_of=np.zeros(n, dtype=np.int32),
    )


def split(cells: CellArrays, size: int) -> list[CellArrays]:
    """Return the nuclei in blocks, as a run is read."""
    blocks = []
    for a in range(0, len(cells), size):
        b = min(a + size, len(cells))
        xy = cells.outlines.xy[a * VERTICES : b * VERTICES]
        rings = RingArrays(xy, cells.outlines.ring_starts[: b - a + 1], cells.outlines.part_starts[: b - a + 1])
        rows = cells.values[a:b], cells.class_of[a:b]
        blocks.append(CellArrays(cells.ids[a:b], rings, cells.measurement_names, *rows, (), cells.parent_of[a:b]))
    return blocks


def bulk(entry: Any, cells: CellArrays) -> dict[str, float]:
    """Time our route: Groovy compile apart, then make, attach and save."""
    from stimage_qupath.qupath.project.bulk import choose_bulk

    start = time.perf_counter()
    way = choose_bulk()
    compiled = time.perf_counter()
    image_data = entry.java_object.readImageData()
    root = image_data.getHierarchy().getRootObject()
    begin = time.perf_counter()
    for block in split(cells, 50_000):
        way.add(block, [root])
    image_data.getHierarchy().fireHierarchyChangedEvent(root)
    made = time.perf_counter()
    entry.java_object.saveImageData(image_data)
    end = time.perf_counter()
    return {"groovy_compile": compiled - start, "make": made - begin, "save": end - made, "seconds": end - begin}


def load_geojson(entry: Any, cells: CellArrays) -> dict[str, float]:
    """Time paquo's ``load_geojson`` on the same objects, as the Python dictionaries it wants."""
    names, rows = cells.measurement_names, cells.values.tolist()
    rings = cells.outlines.xy.reshape(-1, VERTICES, 2).tolist()
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid4()),
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
            "properties": {"objectType": "detection", "measurements": dict(zip(names, row, strict=True))},
        }
        for ring, row in zip(rings, rows, strict=True)
    ]
    begin = time.perf_counter()
    with entry.hierarchy.no_autoflush():
        entry.hierarchy.load_geojson(features)
    made = time.perf_counter()
    entry.save()
    end = time.perf_counter()
    return {"make": made - begin, "save": end - made, "seconds": end - begin}


def add_detection(entry: Any, cells: CellArrays) -> dict[str, float]:
    """Time paquo's ``add_detection`` on the same objects."""
    import shapely

    names, rows = cells.measurement_names, cells.values.tolist()
    polygons = shapely.polygons(cells.outlines.xy.reshape(-1, VERTICES, 2))
    measured = [dict(zip(names, row, strict=True)) for row in rows]
    begin = time.perf_counter()
    hierarchy = entry.hierarchy
    with hierarchy.no_autoflush():
        for polygon, values in zip(polygons, measured, strict=True):
            hierarchy.add_detection(polygon, measurements=values)
    made = time.perf_counter()
    entry.save()
    end = time.perf_counter()
    return {"make": made - begin, "save": end - made, "seconds": end - begin}


ROUTES = {"bulk": bulk, "load_geojson": load_geojson, "add_detection": add_detection}


def main() -> None:
    """Run one route and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--measurements", type=int, default=50)
    parser.add_argument("--route", choices=sorted(ROUTES), default="bulk")
    given = parser.parse_args()
    cells = make_arrays(given.objects, given.measurements)
    start = time.perf_counter()
    version = start_qupath()
    jvm = time.perf_counter() - start
    from paquo.projects import QuPathProject

    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.tif"
        tifffile.imwrite(image, np.full((256, 256, 3), 230, dtype=np.uint8), photometric="rgb")
        project = QuPathProject(Path(folder) / "project" / "project.qpproj", mode="x")
        entry = project.add_image(image)
        project.save()
        result = ROUTES[given.route](entry, cells)
        file_mib = (Path(str(entry.entry_path)) / "data.qpdata").stat().st_size / 2**20
    result = {name: round(value, 2) for name, value in result.items()}
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    record = {"qupath": version, "route": given.route, "objects": given.objects, "measurements": given.measurements}
    record |= {"jvm_start": round(jvm, 2), **result, "file_mib": round(file_mib, 1), "peak_gib": peak}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
