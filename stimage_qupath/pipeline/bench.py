"""Seconds a stage on this machine: the one path, run a few times in processes of their own, median of each stage.

A process a run, since the peak memory of a process only grows, and so that each run pays for what a user pays for.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from stimage_qupath import names
from stimage_qupath.config import BenchSettings, PredictSettings
from stimage_qupath.errors import StimageError
from stimage_qupath.export.run_reader import read_run
from stimage_qupath.export.run_record import to_json
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.pipeline.record import versions
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.synthetic import DENSITY_UM2, write_synthetic_slide

TISSUE_SHARE: Final = 0.66
SYNTHETIC_MPP: Final = 0.5


def run(
    settings: BenchSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Time every stage, and write the figures where a file is asked for.

    Returns
    -------
    dict
        ``machine``, ``versions``, ``slide``, ``stages`` (seconds, items and items a second, medians), ``seconds`` end
        to end, ``nuclei_per_second``, ``peak_memory_mib``, ``device_memory_mib``.

    Raises
    ------
    StimageError
        Of the kind that fits, as a prediction does.
    """
    with tempfile.TemporaryDirectory(prefix="stimage-bench-") as folder:
        slide, mpp = _slide(settings, Path(folder))
        runs = []
        for number in range(settings.repeats):
            stop_if(cancelled)
            on_progress("bench", number, settings.repeats, slide.name)
            runs.append(_one(settings, slide, mpp, Path(folder) / f"run{number}"))
        on_progress("bench", settings.repeats, settings.repeats, slide.name)
        found = {
            "machine": machine(),
            "versions": versions(),
            "settings": settings.to_dict(),
            "slide": _said_of(slide, mpp, synthetic=settings.slide is None),
            **_median(runs),
        }
    if settings.output is not None:
        with output_errors(settings.output):
            settings.output.write_bytes(to_json(found))
    return found


def machine() -> dict[str, Any]:
    """Return what the timings depend on besides the package."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _slide(settings: BenchSettings, folder: Path) -> tuple[Path, float | None]:
    if settings.slide is not None:
        return settings.slide, settings.mpp
    side = int(np.sqrt(settings.cells / DENSITY_UM2 / TISSUE_SHARE) / SYNTHETIC_MPP)
    path = folder / "synthetic.ome.tif"
    write_synthetic_slide(path, side, side, mpp=SYNTHETIC_MPP)
    return path, None


def _said_of(path: Path, mpp: float | None, *, synthetic: bool) -> dict[str, Any]:
    with open_slide(path) as slide:
        return {
            "name": "synthetic" if synthetic else path.name,
            "width_px": slide.width,
            "height_px": slide.height,
            "mpp": mpp or slide.mpp,
        }


def _one(settings: BenchSettings, slide: Path, mpp: float | None, output: Path) -> dict[str, Any]:
    """Predict in a process of its own, read the result back, and return what was timed."""
    asked = PredictSettings(
        image=slide,
        mpp=mpp,
        output=output,
        model=settings.model,
        segmenter=settings.segmenter,
        device=settings.device,
        threads=settings.threads,
        overview=False,
    )
    job = {"settings": asked.to_dict(), "explain": settings.explain}
    command = [sys.executable, "-m", "stimage_qupath.pipeline.bench"]
    start = time.perf_counter()
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        msg = (done.stderr.strip().splitlines() or ["the run ended without a word"])[-1]
        raise StimageError(msg)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"with_start_seconds": time.perf_counter() - start}


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    """Do one run; called in the process that does nothing else."""
    from stimage_qupath.export.cell_outlines import read_outlines
    from stimage_qupath.pipeline import explain, predict
    from stimage_qupath.pipeline.record import peak_memory_mib

    settings = PredictSettings.from_dict(job["settings"])
    record = predict.run(settings)
    found = {
        "stages": dict(record["stages"]),
        "seconds": record["seconds"],
        "cells": record["cells"],
        "peak_memory_mib": peak_memory_mib(),
        "device_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
    }
    finished = read_run(settings.output)
    start = time.perf_counter()
    read_outlines(finished.path / names.CELLS_GEOJSON)
    found["stages"]["import"] = _stage(time.perf_counter() - start, record["cells"])
    if job["explain"] and record["cells"]:
        from stimage_qupath.config import ExplainSettings

        start = time.perf_counter()
        gene = tuple(finished.record["genes"][:1])
        explain.run(ExplainSettings(run=settings.output, genes=gene, device=settings.device))
        found["stages"]["explain"] = _stage(time.perf_counter() - start, record["cells"])
    return found


def _stage(seconds: float, items: int) -> dict[str, Any]:
    rate = round(items / seconds, 1) if seconds > 0 else None
    return {"seconds": round(seconds, 3), "items": items, "items_per_second": rate}


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median over runs of every figure."""

    def median(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return round(statistics.median(there), 3) if there else None

    stages = {
        name: _stage(float(median([one["stages"][name]["seconds"] for one in runs]) or 0.0), of["items"])
        for name, of in runs[0]["stages"].items()
        if all(name in one["stages"] for one in runs)
    }
    seconds = float(median([one["seconds"] for one in runs]) or 0.0)
    cells = int(runs[0]["cells"])
    return {
        "stages": stages,
        "cells": cells,
        "seconds": seconds,
        "seconds_with_start": median([one["with_start_seconds"] for one in runs]),
        "nuclei_per_second": round(cells / seconds, 1) if seconds else None,
        "peak_memory_mib": median([one["peak_memory_mib"] for one in runs]),
        "device_memory_mib": median([one["device_memory_mib"] for one in runs]),
        "repeats": len(runs),
    }


if __name__ == "__main__":
    try:
        sys.stdout.write(f"\n{json.dumps(_measure(json.loads(sys.stdin.read())))}\n")
    except StimageError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
