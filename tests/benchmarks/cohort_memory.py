"""Peak memory and seconds of a cohort of one run of 100,000 nuclei x 769 genes.

Run as ``python tests/benchmarks/cohort_memory.py``. Another process writes the run, so that its memory does not count.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import shapely

NUCLEI, GENES, BLOCK, SIDE_PX = 100_000, 769, 10_000, 20_000


def write_run(folder: Path) -> None:
    """Write a run of uniform nuclei with gamma expression."""
    from stimage_qupath import names
    from stimage_qupath.export.run_folder import RunWriter
    from stimage_qupath.results import Cells, Panel, Prediction, Region

    panel = Panel(tuple(f"G{i}" for i in range(GENES)))
    rng = np.random.default_rng(0)
    with RunWriter(folder / "run", panel=panel, genes=panel.genes[:1], model_card={}) as writer:
        box = shapely.box(0, 0, SIDE_PX, SIDE_PX)
        writer.start_region(Region(id=str(uuid.UUID(int=1)), geometry=box, classification="Tumor"))
        for first in range(0, NUCLEI, BLOCK):
            places = rng.uniform(0, SIDE_PX, (BLOCK, 2))
            mean = rng.gamma(2, 1, (BLOCK, GENES)).astype(np.float32)
            ids = np.array([str(uuid.UUID(int=first + i + 5)) for i in range(BLOCK)], dtype=object)
            measured = {names.AREA: np.full(BLOCK, 40, np.float32), names.TISSUE_FRACTION: np.ones(BLOCK, np.float32)}
            outlines = shapely.buffer(shapely.points(places), 5, quad_segs=2)
            writer.append(Cells(ids, outlines, places, measured), Prediction(mean, mean, mean / 10, mean[:, 0] * 0))
        model = {"name": "synthetic", "sha256": "a" * 64, "patients": 1, "encoder": {"tile_um": 100.0}}
        record = {
            "image": {"name": "big.svs", "mpp": 0.5},
            "model": model,
            "settings": {},
            "research_use": "Synthetic.",
        }
        writer.finish(record)
    (folder / "clinical.csv").write_text("slide,patient\nbig.svs,P1\n", encoding="utf-8")


def peak_mib() -> float:
    """Return the most memory this process has held; macOS counts in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Write, measure, print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writing = multiprocessing.get_context("spawn").Process(target=write_run, args=(folder,))
        writing.start()
        writing.join()
        from stimage_qupath.config import CohortSettings
        from stimage_qupath.pipeline import cohort

        before, start = peak_mib(), time.perf_counter()
        runs = ((folder / "run").as_posix(),)
        cohort.run(CohortSettings(runs=runs, clinical=folder / "clinical.csv", output=folder / "cohort.parquet"))
        size = (folder / "run" / "cells.h5ad").stat().st_size / 2**20
        print(f"cells.h5ad {size:.0f} MiB, {time.perf_counter() - start:.1f} s")
        print(f"memory before {before:.0f} MiB, at most {peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()
