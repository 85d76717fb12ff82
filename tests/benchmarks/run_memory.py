"""Memory of a prediction on a small and on a very large slide with the same tissue, and of a very large run folder.

    python tests/benchmarks/run_memory.py slides [--large 100000] [--small 20000] [--mpp 0.25] [--tissue-tiles 190]
    python tests/benchmarks/run_memory.py folder [--cells 1000000] [--genes 769]

``slides`` predicts on two synthetic pyramids in processes of their own, with pieces of tissue that are scattered over
all of either (190 tiles of 512 px are 0.5 % of 100,000 x 100,000 px). Expected: the large one needs at most 1.2 times
the peak memory. ``folder`` writes ``cells.h5ad`` with the whole panel in three matrices and GeoJSON with 40
measurements a nucleus. Expected: under 2 GB. Else the exit code is 1. Disk: 0.5 GB for the slides; 12 bytes a gene and
nucleus for the folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import shapely

from stimage_qupath.export.run_folder import RunWriter
from stimage_qupath.pipeline.record import peak_memory_mib
from stimage_qupath.results import Cells, Panel, Prediction, Region
from stimage_qupath.slide.synthetic import write_synthetic_slide

MOST_RATIO = 1.2
MOST_MIB = 2e9 / 2**20
BLOCK = 2_000
MEASURED_GENES = 11
"""Of three measurements each; with shape, stain and the rest that makes 40."""


def slides(given: argparse.Namespace) -> int:
    """Predict on both slides and compare the peaks."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for side in (given.small, given.large):
            slide = Path(folder) / f"s{side}.ome.tif"
            tiles = write_synthetic_slide(slide, side, side, mpp=given.mpp, tissue_tiles=given.tissue_tiles)
            command = [sys.executable, "-m", "stimage_qupath", "predict", str(slide), "--output", str(slide) + ".run"]
            done = subprocess.run([*command, "--json"], capture_output=True, text=True, encoding="utf-8", check=True)
            record = json.loads(done.stdout)
            peaks.append(record["peak_memory_mib"])
            print(
                f"{side:,} x {side:,} px, {tiles} tiles of tissue: {record['cells']:,} nuclei in "
                f"{record['seconds']:.0f} s, peak {peaks[-1]:,.0f} MiB"
            )
    ratio = peaks[1] / peaks[0]
    print(f"ratio {ratio:.3f}")
    return 0 if ratio <= MOST_RATIO else 1


def block(rng: np.random.Generator, count: int) -> Cells:
    """Return nuclei of 20 vertices with the measurements that a run has."""
    centres = rng.uniform(100, 90_000, (count, 2))
    angle = np.arange(20) / 20 * 2 * np.pi
    rings = centres[:, None] + rng.uniform(8, 16, (count, 1, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    polygons = shapely.polygons(shapely.linearrings(rings))
    ids = np.array([str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(count)], dtype=object)
    measured = {f"Shape {number}": rng.gamma(2.0, 1.5, count).astype(np.float32) for number in range(4)}
    return Cells(ids=ids, polygons=polygons, centroids_px=centres, measurements=measured)


def folder(given: argparse.Namespace) -> int:
    """Write a run folder and say how much memory that took."""
    rng = np.random.default_rng(0)
    panel = Panel(tuple(f"GENE{number}" for number in range(given.genes)))
    before = peak_memory_mib() or 0.0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as parent:
        output = Path(parent) / "run"
        genes = panel.genes[:MEASURED_GENES]
        with RunWriter(output, panel=panel, genes=genes, model_card={}) as writer:
            writer.start_region(Region(id=str(uuid.uuid4()), geometry=shapely.box(0, 0, 100_000, 100_000)))
            matrix = rng.gamma(2.0, 1.5, (BLOCK, given.genes)).astype(np.float32)
            for first in range(0, given.cells, BLOCK):
                count = min(BLOCK, given.cells - first)
                rows = matrix[:count]
                writer.append(block(rng, count), Prediction(rows, rows, rows, rows[:, 0].copy()))
            writer.finish({})
        size = sum(path.stat().st_size for path in output.iterdir())
    peak = peak_memory_mib() or 0.0
    took = time.perf_counter() - start
    print(
        f"{given.cells:,} nuclei x {given.genes} genes: {took:.0f} s, {size / 1e9:.1f} GB on the disk, peak "
        f"{peak:,.0f} MiB ({before:,.0f} before)"
    )
    return 0 if peak <= MOST_MIB else 1


def main(arguments: list[str]) -> int:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    of_slides = parts.add_parser("slides")
    of_slides.set_defaults(do=slides)
    of_slides.add_argument("--small", type=int, default=20_000)
    of_slides.add_argument("--large", type=int, default=100_000)
    of_slides.add_argument("--mpp", type=float, default=0.25)
    of_slides.add_argument("--tissue-tiles", type=int, default=190)
    of_folder = parts.add_parser("folder")
    of_folder.set_defaults(do=folder)
    of_folder.add_argument("--cells", type=int, default=1_000_000)
    of_folder.add_argument("--genes", type=int, default=769)
    given = parser.parse_args(arguments)
    return int(given.do(given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
