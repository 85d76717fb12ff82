"""Attributions for a finished run: how much each nucleus drove the prediction of a gene.

Blocks of the slide are explained one after the other and kept beside the run until all are done, so that an
interrupted explanation goes on where it stopped; the run folder changes only at the very end, all at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.attribution.capabilities import as_differentiable, as_local, as_pooled, sees_px
from stimage_qupath.attribution.fills import choose_fill
from stimage_qupath.attribution.methods import choose_method
from stimage_qupath.attribution.per_nucleus import block_attribution
from stimage_qupath.attribution.plan import Grid, Outlines, places_on_grid
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.reader import Block, SceneReader
from stimage_qupath.attribution.targets import EPISTEMIC, HIGH, Outputs
from stimage_qupath.config import ExplainSettings
from stimage_qupath.export.block_store import BlockStore
from stimage_qupath.export.cell_outlines import read_outlines
from stimage_qupath.export.lock import lock_of, locked
from stimage_qupath.export.run_columns import add_columns
from stimage_qupath.export.run_reader import Run, read_run
from stimage_qupath.models.checkpoint import Model
from stimage_qupath.pipeline.attribution_columns import Gathered, difference_map, new_columns
from stimage_qupath.pipeline.record import Stopwatch, peak_memory_mib, versions
from stimage_qupath.pipeline.run_model import model_of_run
from stimage_qupath.pipeline.run_slide import open_run_slide
from stimage_qupath.prediction.cells import DEFAULT_STRIDE_UM
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.regions.stain_overview import normalised, target_of
from stimage_qupath.report.attribution_maps import attribution_maps
from stimage_qupath.report.overview import thumbnail
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if
from stimage_qupath.slide.reader import Slide

STAGE: Final = "attribution"
UNITS: Final = {EPISTEMIC: "counts^2", HIGH: "probability"}
"""Of targets that are not log means."""


def run(
    settings: ExplainSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Explain genes of a finished run and write the attributions into it.

    Parameters
    ----------
    settings
        What to explain, and how.
    on_progress, cancelled
        Progress and cancellation; a cancelled explanation can be resumed.

    Returns
    -------
    dict
        What ``attribution.json`` holds, the ``output`` folder and the number of ``cells``.

    Raises
    ------
    StimageError
        Of the kind that fits; the run is as it was then.
    """
    read_run(settings.run)  # refused before anything is made
    with locked(lock_of(settings.run), what=str(settings.run), clear_dead=settings.clear_dead_locks):
        return _explain(settings, read_run(settings.run), on_progress, cancelled)


def _explain(
    settings: ExplainSettings, finished: Run, on_progress: ProgressCallback, cancelled: CancelCheck
) -> dict[str, Any]:
    """Explain a run that nobody else works on."""
    watch = Stopwatch()
    task = _task(settings, finished, cancelled)
    with open_run_slide(finished, settings.image, option="--image") as slide:
        explainer = _explainer(task, slide, finished)
        blocks = explainer.reader.grid.blocks(explainer.reader.outlines.centroids_px)
        store = BlockStore(_beside(finished.path), task.manifest(finished), resume=settings.resume)
        done = 0
        for block, nuclei in blocks:
            stop_if(cancelled)
            if block not in store:
                with watch.stage(STAGE, len(nuclei)):
                    store.save(block, explainer.explain(block, nuclei))
            done += len(nuclei)
            on_progress(STAGE, done, len(finished), f"{len(task.genes)} genes, {settings.method}")
        background = thumbnail(slide)
    gathered = Gathered(len(finished), task.genes)
    for block, _ in blocks:
        gathered.add(store.load(block))
    record = task.record(gathered) | {"versions": versions(), "peak_memory_mib": peak_memory_mib(), **watch.record()}
    note = f"{names.FAITHFUL_TO_MODEL} {task.model.research_use}"
    signed = choose_method(settings.method).signed
    values = _values(finished, settings, gathered)
    pictures = attribution_maps(values, background, _how(settings), signed=signed, note=note)
    output = add_columns(finished, new_columns(finished, settings, gathered, record, pictures))
    store.remove()
    return {**record, "output": str(output), "cells": len(finished)}


@dataclass(frozen=True, slots=True)
class _Task:
    """What is explained, checked before any work."""

    settings: ExplainSettings
    model: Model
    genes: tuple[str, ...]
    question: Question
    stride_um: float

    def manifest(self, finished: Run) -> dict[str, Any]:
        """Return everything that a block's numbers depend on."""
        names_of = ("method", "fill", "target", "samples", "seed")
        chosen = {name: getattr(self.settings, name) for name in names_of}
        run_sha256 = hashlib.sha256((finished.path / names.RUN_JSON).read_bytes()).hexdigest()
        return {
            "genes": self.genes,
            "stride_um": self.stride_um,
            "run": run_sha256,
            "model": self.model.sha256,
            **chosen,
        }

    def record(self, gathered: Gathered) -> dict[str, Any]:
        """Return what is said of the attributions."""
        method = choose_method(self.settings.method)
        about = {
            "method": method.name,
            "fill": self.settings.fill,
            "target": self.settings.target,
            "signed": method.signed,
            "stride_um": self.stride_um,
            "samples": self.settings.samples if method.name in ("lime", "kernel_shap") else None,
            "seed": self.settings.seed,
        }
        return {
            "note": names.FAITHFUL_TO_MODEL,
            "research_use": self.model.research_use,
            "value": "mean, over the predictions whose window holds the nucleus, of its contribution to each",
            "unit": UNITS.get(self.settings.target, "log of the expected count"),
            "genes": gathered.by_gene(about, promises_completeness=method.complete),
        }


@dataclass(frozen=True, slots=True)
class _Explainer:
    """Explains one block after another."""

    reader: SceneReader
    question: Question
    settings: ExplainSettings

    def explain(self, block: tuple[int, int], nuclei: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a block."""
        read = self.reader.read(block, nuclei)
        filled = choose_fill(self.settings.fill)(read.scene.image, read.nuclei_mask, read.scene.mpp)
        contributions = choose_method(self.settings.method).load()(read.scene, filled, self.question)
        found = block_attribution(read.scene, read.middles, contributions, self.question)
        sd = np.full_like(found.value, np.nan) if found.sd is None else found.sd
        return {
            "nuclei": nuclei,
            "value": found.value,
            "sd": sd,
            "area_um2": found.area_um2,
            "background_px": self._background(read),
            "contributed": found.contributed,
            "difference": found.difference,
            "amount": found.amount,
        }

    def _background(self, read: Block) -> NDArray[np.float64]:
        """Return the middles of the background's cells, level-0 px."""
        return (read.middles[read.scene.nuclei :] + read.corner) * self.reader.grid.downsample


def _task(settings: ExplainSettings, finished: Run, cancelled: CancelCheck) -> _Task:
    choose_fill(settings.fill)
    method = choose_method(settings.method)
    model = model_of_run(finished)
    genes = model.choose_genes(settings.genes)
    if method.gradients:
        as_differentiable(model.encoder)  # refused before any work
    device = choose_device(settings.device)
    question = Question(
        encoder=model.encoder,
        outputs=Outputs(model.ensemble, genes, settings.target),
        device=device,
        batch_size=settings.batch_size or default_batch_size(device),
        samples=settings.samples,
        seed=settings.seed,
        cancelled=cancelled,
    )
    return _Task(settings, model, genes, question, settings.stride_um or _stride_um(model))


def _stride_um(model: Model) -> float:
    """Return the spacing of places: dense where windows share their work, else so that each nucleus is in a few."""
    encoder = model.encoder
    shares = as_local(encoder) is not None or as_pooled(encoder) is not None
    return DEFAULT_STRIDE_UM if shares else encoder.card.tile_um / 2


def _explainer(task: _Task, slide: Slide, finished: Run) -> _Explainer:
    vertices, starts = read_outlines(finished.geojson_path)
    centroids = finished.table(["x_px", "y_px"]).to_numpy(np.float64)
    outlines = Outlines(vertices, starts, centroids)
    mpp = float(finished.record["image"]["mpp"])
    card = task.model.encoder.card
    reader = SceneReader(
        slide=normalised(slide, mpp, target_of(task.model.card)),
        mpp=mpp,
        card=card,
        outlines=outlines,
        places=places_on_grid(centroids, task.stride_um / mpp),
        grid=Grid.of(card, mpp),
        reach_px=outlines.reach_px(),
        sees_px=sees_px(task.model.encoder),
    )
    return _Explainer(reader, task.question, task.settings)


def _values(finished: Run, settings: ExplainSettings, gathered: Gathered) -> pd.DataFrame:
    """Return where the nuclei are and their attributions, one column a map."""
    table = finished.table(["x_px", "y_px"])
    for k, gene in enumerate(gathered.genes):
        table[gene] = gathered.value[:, k]
    if settings.difference:
        table[" - ".join(settings.difference)] = difference_map(gathered, settings.difference)
    return table


def _how(settings: ExplainSettings) -> str:
    """Return how attributions were made, for people."""
    method = choose_method(settings.method)
    fill = f", nuclei replaced by: {settings.fill.replace('_', ' ')}" if method.fills else ""
    return f"{settings.method.replace('_', ' ')} of {settings.target}{fill}"


def _beside(path: Path) -> Path:
    resolved = path.resolve()
    return resolved.with_name(f"{resolved.name}{names.EXPLAINING_SUFFIX}")
