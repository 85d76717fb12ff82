"""A finished run as one page that anyone can open: ``report.html``."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from stimage_qupath import names
from stimage_qupath.config.report import ReportSettings
from stimage_qupath.errors import ImageError, UsageError
from stimage_qupath.export.run_reader import Run, read_run
from stimage_qupath.export.run_record import to_json
from stimage_qupath.export.whole_file import refuse_existing, whole_file
from stimage_qupath.pipeline.record import Stopwatch
from stimage_qupath.pipeline.report_content import ReportContent
from stimage_qupath.pipeline.run_layers import read_gene_values
from stimage_qupath.pipeline.run_regions import read_run_regions
from stimage_qupath.pipeline.run_slide import open_run_slide
from stimage_qupath.pipeline.run_spatial import run_patterns
from stimage_qupath.report.run_report import run_page
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if

STAGE: Final = "report"
STEPS: Final = ("reading", "patterns in space", "slide", "page")
LONG_SIDE_PX: Final = 3000
"""Of the slide's picture: nuclei can still be told on a field of some millimetres, and it takes about 2 MB."""
JPEG_QUALITY: Final = 82
DEFAULT_WINDOW_UM: Final = 100.0
"""Taken where a run does not say how much its model looks at."""


def run(
    settings: ReportSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Write the page, and in the run folder ``spatial.json`` beside it.

    Parameters
    ----------
    settings
        Which run, and what of it.
    on_progress, cancelled
        Progress and cancellation.

    Returns
    -------
    dict
        ``output``, its ``bytes``, ``nuclei``, those ``drawn``, ``genes``, ``spatial`` as ``spatial.json`` has it,
        ``warnings`` and ``seconds``.

    Raises
    ------
    StimageError
        Of the kind that fits; an earlier page is as it was then.
    """
    watch = Stopwatch()
    finished = read_run(settings.run)
    output = _output(settings, finished)
    on_progress(STAGE, 0, len(STEPS), STEPS[0])
    table = finished.table()
    genes = read_gene_values(finished, table, settings.genes)
    regions = read_run_regions(finished, table, settings.annotations)
    stop_if(cancelled)
    on_progress(STAGE, 1, len(STEPS), STEPS[1])
    places = table[["x_px", "y_px"]].to_numpy(np.float64)
    patterns = run_patterns(
        genes,
        places * float(finished.record["image"]["mpp"]),
        window_um=_window_um(finished),
        permutations=settings.permutations,
        seed=settings.seed,
    )
    stop_if(cancelled)
    on_progress(STAGE, 2, len(STEPS), STEPS[2])
    slide_uri, warnings = _slide_picture(finished, settings.slide)
    stop_if(cancelled)
    on_progress(STAGE, 3, len(STEPS), STEPS[3])
    content = ReportContent(finished, table, genes, regions, patterns, slide_uri, tuple(warnings))
    text = run_page(content.page()).encode("utf-8")
    if patterns.record and settings.output is None:
        with whole_file(output.with_name(names.SPATIAL_JSON)) as draft:
            draft.write_bytes(to_json(patterns.record))
    with whole_file(output) as draft:
        draft.write_bytes(text)
    on_progress(STAGE, len(STEPS), len(STEPS), output.name)
    return {
        "output": str(output),
        "bytes": len(text),
        "nuclei": len(table),
        "drawn": len(content.shown),
        "genes": list(genes),
        "spatial": patterns.record,
        "warnings": warnings,
        "seconds": watch.record()["seconds"],
    }


def _output(settings: ReportSettings, finished: Run) -> Path:
    """Return the file to write; an earlier one is replaced in the run folder, elsewhere only if asked to."""
    if settings.output is None:
        return finished.path / names.REPORT_HTML
    refuse_existing(settings.output, force=settings.force)
    return settings.output


def _window_um(finished: Run) -> float:
    model = finished.record.get("model") or {}
    return float(model.get("encoder", {}).get("tile_um", DEFAULT_WINDOW_UM))


def _slide_picture(finished: Run, path: Path | None) -> tuple[str | None, list[str]]:
    """Return the slide as a JPEG, or a warning where it is not there any more."""
    try:
        with open_run_slide(finished, path) as slide:
            downsample = max(1.0, max(slide.width, slide.height) / LONG_SIDE_PX)
            size = max(1, int(slide.width / downsample)), max(1, int(slide.height / downsample))
            pixels = slide.read_region(0, 0, width=size[0], height=size[1], downsample=downsample)
    except (UsageError, ImageError) as error:
        if path is not None:
            raise
        return None, [f"The report shows no slide: {error}"]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), []
