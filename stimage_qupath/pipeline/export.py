"""A finished run, or a part of it, for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from stimage_qupath.config.export import ExportSettings
from stimage_qupath.errors import OutputExistsError
from stimage_qupath.export.csv_measurements import write_measurements, write_parquet
from stimage_qupath.export.feature_file import cell_features, write_features
from stimage_qupath.export.h5ad_subset import write_h5ad
from stimage_qupath.export.run_blocks import Selection, select
from stimage_qupath.export.run_reader import Run, read_run
from stimage_qupath.export.spatialdata_export import refuse_folder, write_spatialdata
from stimage_qupath.export.tiles import tile_features
from stimage_qupath.export.uncertain import uncertain_features
from stimage_qupath.export.whole_file import refuse_existing
from stimage_qupath.pipeline.record import Stopwatch
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if

STAGE: Final = "export"


def run(
    settings: ExportSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Write the file.

    Returns
    -------
    dict
        ``output``, ``format``, ``object``, how many objects were ``written``, ``genes`` and ``seconds``.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then that was not there before.
    """
    watch = Stopwatch()
    finished = read_run(settings.run)
    _refuse(settings, finished)
    chosen = select(finished, regions=settings.regions, genes=settings.genes)
    stop_if(cancelled)
    on_progress(STAGE, 0, 1, settings.format)
    written = _write(settings, chosen)
    on_progress(STAGE, 1, 1, settings.format)
    return {
        "output": str(settings.output),
        "format": settings.format,
        "object": settings.object,
        "written": written,
        "regions": [span.region.id for span in chosen.spans],
        "genes": list(settings.genes or finished.record["genes"]),
        "research_use": finished.record.get("research_use"),
        "seconds": watch.record()["seconds"],
    }


def _refuse(settings: ExportSettings, finished: Run) -> None:
    """Refuse outputs that would cost something that is there."""
    output = settings.output.resolve()
    folder = finished.path.resolve()
    if output == folder or (folder in output.parents and output.name in {path.name for path in folder.iterdir()}):
        msg = f"expected an output beside the run, found a part of the run itself, {output}; choose another output"
        raise OutputExistsError(msg)
    if settings.format == "spatialdata":
        refuse_folder(settings.output, force=settings.force)
    else:
        refuse_existing(settings.output, force=settings.force)


def _write(settings: ExportSettings, chosen: Selection) -> int:
    """Write what was asked for and return how many objects that are."""
    path: Path = settings.output
    if settings.object == "tiles":
        return write_features(path, tile_features(chosen, tile_um=settings.tile_um))
    if settings.object == "uncertain":
        return write_features(path, uncertain_features(chosen, quantile=settings.quantile))
    if settings.format == "geojson":
        return write_features(path, cell_features(chosen))
    if settings.format == "csv":
        return write_measurements(path, chosen)
    if settings.format == "parquet":
        return write_parquet(path, chosen)
    if settings.format == "h5ad":
        return write_h5ad(path, chosen.finished, regions=settings.regions, genes=settings.genes)
    return write_spatialdata(path, chosen, force=settings.force)
