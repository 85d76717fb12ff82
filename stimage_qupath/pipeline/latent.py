"""The latent view of a finished run: nuclei side by side that the model takes for alike.

Some nuclei are drawn at random and looked at again, since a run keeps predictions and no features; the run gets a table
and pictures, everything else in it stays as it is.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.config.latent import LatentSettings
from stimage_qupath.errors import MissingPartError, UnknownGeneError, UsageError
from stimage_qupath.export.run_reader import Run, read_run
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.models.checkpoint import Model
from stimage_qupath.pipeline.record import Stopwatch
from stimage_qupath.pipeline.run_model import model_of_run
from stimage_qupath.pipeline.run_slide import open_run_slide
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.regions.stain_overview import normalised, target_of
from stimage_qupath.report.latent_plots import latent_plots
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress
from stimage_qupath.validation.latent import PCA, UMAP, principal_components, umap

GENES_SHOWN: Final = 3
FEWEST: Final = 3
OOD: Final = "OOD score"
COLUMNS: Final = {"ood_score": OOD, "cell_type": "cell type"}
"""Columns of the run that nuclei are coloured by, where they say something, and what they are called."""


def run(
    settings: LatentSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Write ``latent.parquet`` and ``latent_<what>.png`` into a run.

    Parameters
    ----------
    settings
        Which run, and what to colour by.
    on_progress, cancelled
        Progress and cancellation; a cancelled view leaves the run as it was.

    Returns
    -------
    dict
        ``output``, the ``files`` written, the number of ``places``, ``methods``, ``warnings`` and seconds.

    Raises
    ------
    StimageError
        Of the kind that fits.
    """
    finished, watch = read_run(settings.run), Stopwatch()
    model = model_of_run(finished)
    rows = _drawn(len(finished), settings)
    colours = _colours(finished, rows, settings.genes)
    features = _features(finished, model, rows, settings, on_progress, cancelled)
    with watch.stage("latent", len(rows)):
        planes, warnings = _planes(features, settings.seed)
    ids = finished.table(["cell_id"])["cell_id"].to_numpy(object)[rows]
    places = pd.concat(
        [
            pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "method": method, "cell_id": ids})
            for method, xy in planes.items()
        ],
        ignore_index=True,
    )
    repeated = {what: pd.concat([values] * len(planes), ignore_index=True) for what, values in colours.items()}
    table = io.BytesIO()
    places.to_parquet(table, index=False)
    pictures = latent_plots(places, repeated, note=model.research_use)
    files = {names.LATENT_PARQUET: table.getvalue()} | pictures
    _write(finished.path, files)
    record = {"places": len(rows), "methods": list(planes), "warnings": warnings, "research_use": model.research_use}
    return {**record, **watch.record(), "files": sorted(files), "output": str(finished.path)}


def _drawn(count: int, settings: LatentSettings) -> NDArray[np.intp]:
    """Return the rows of some nuclei, ascending."""
    if count < FEWEST:
        msg = f"expected at least {FEWEST} nuclei to show side by side, found {count}; predict a larger region"
        raise UsageError(msg)
    draw = np.random.default_rng(settings.seed).permutation(count)[: settings.places]
    return np.sort(draw).astype(np.intp)


def _colours(finished: Run, rows: NDArray[np.intp], genes: tuple[str, ...]) -> dict[str, pd.Series]:
    """Return what nuclei are coloured by, to their values."""
    table = finished.table().iloc[rows].reset_index(drop=True)
    measured = [gene for gene in finished.record["genes"] if names.gene_column(gene, "mean") in table]
    missing = [gene for gene in genes if gene not in measured]
    if missing:
        msg = f"expected genes that the run measured ({', '.join(measured)}), found {', '.join(missing)}"
        raise UnknownGeneError(msg)
    shown = genes or tuple(measured[:GENES_SHOWN])
    found = {gene: table[names.gene_column(gene, "mean")] for gene in shown}
    for column, what in COLUMNS.items():
        if column in table and table[column].notna().any():
            numbers = table[column].dtype.kind == "f"
            found[what] = table[column] if numbers else table[column].astype(object).fillna("none").astype(str)
    return found | {"region": _regions(finished, rows)}


def _regions(finished: Run, rows: NDArray[np.intp]) -> pd.Series:
    """Return the class of each nucleus's annotation, or else its name or number."""
    label = np.empty(len(finished), dtype=object)
    for number, span in enumerate(finished.spans, start=1):
        region = span.region
        label[span.first : span.first + span.count] = region.classification or region.name or f"region {number}"
    return pd.Series(label[rows])


def _features(
    finished: Run,
    model: Model,
    rows: NDArray[np.intp],
    settings: LatentSettings,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> NDArray[np.float32]:
    """Return the features of windows around nuclei, (place, feature)."""
    device = choose_device(settings.device)
    points = finished.table(["x_px", "y_px"]).to_numpy(np.float64)[rows]
    mpp = float(finished.record["image"]["mpp"])
    with open_run_slide(finished, settings.image, option="--image") as slide:
        return encode_points(
            normalised(slide, mpp, target_of(model.card)),
            mpp,
            points,
            model.encoder,
            device=device,
            batch_size=settings.batch_size or default_batch_size(device),
            on_progress=on_progress,
            cancelled=cancelled,
        )


def _planes(features: NDArray[np.float32], seed: int) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Return places in the plane by each method that there is, and what is to be said of one that there is not."""
    planes, warnings = {PCA: principal_components(features, 2)}, []
    try:
        planes[UMAP] = umap(features, seed=seed)
    except (MissingPartError, UsageError) as error:
        warnings.append(f"principal components alone: {error}")
    return planes, warnings


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files whole, each under its name at once; pictures of an earlier view go."""
    for old in folder.glob(names.LATENT_PNG.format(what="*")):
        if old.name not in files:
            old.unlink()
    for name, content in files.items():
        draft = folder / f".{name}{names.PARTIAL_SUFFIX}"
        with output_errors(draft):
            draft.write_bytes(content)
            draft.replace(folder / name)
