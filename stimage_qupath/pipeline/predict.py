"""One image in, a run folder out: nuclei, and with a model their predicted expression. The one path of the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.config import ExplainSettings, PredictSettings, SegmentSettings
from stimage_qupath.config.report import ReportSettings
from stimage_qupath.export.lock import lock_of, locked
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.export.run_folder import RunWriter
from stimage_qupath.export.run_reader import what_is_foreign
from stimage_qupath.export.tables import outside_training
from stimage_qupath.models.checkpoint import Model, load_model
from stimage_qupath.models.scale import scale_notes
from stimage_qupath.nuclei.features import diameter_warning
from stimage_qupath.nuclei.segment import CellChunk
from stimage_qupath.pipeline.cell_types import STAGE as CELL_TYPES
from stimage_qupath.pipeline.cell_types import TypesOfRun
from stimage_qupath.pipeline.inputs import Input, open_input
from stimage_qupath.pipeline.kept_blocks import KeptBlocks, kept_blocks
from stimage_qupath.pipeline.nuclei import NucleiSource, choose_nuclei
from stimage_qupath.pipeline.record import Stopwatch, peak_memory_mib, versions
from stimage_qupath.pipeline.signature_scores import SignatureScores
from stimage_qupath.prediction.cells import DEFAULT_STRIDE_UM, CellPredictor
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.regions.quality import QualityMap, with_quality
from stimage_qupath.regions.stain_overview import normalised, target_of
from stimage_qupath.results import CancelCheck, Prediction, ProgressCallback, never_cancelled, no_progress, stop_if

STAGES_OF_NUCLEI: Final = ("label", "measure", "nuclei")
STAGES_OF_MODEL: Final = ("crop", "encode", "heads")
MANY_OUTSIDE = 0.2
"""Share of nuclei outside training from which a run says so."""


def run(
    settings: SegmentSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
    *,
    model: Model | None = None,
    keep_blocks: bool = True,
    lock: bool = True,
) -> dict[str, Any]:
    """Find the nuclei of the regions and, given :class:`PredictSettings`, predict the panel for each.

    Parameters
    ----------
    settings
        ``SegmentSettings`` for nuclei alone, ``PredictSettings`` for predictions too.
    on_progress, cancelled
        Progress and cancellation.
    model
        The model that ``settings`` name, where it is loaded already; None loads it after the image is checked.
    keep_blocks
        Whether a run that is killed leaves finished blocks behind for ``resume``.
    lock
        Whether to hold the lock of the output, so that no other run shares its blocks; False where a caller does.

    Returns
    -------
    dict
        The record as in ``run.json``, and the ``output`` folder and number of ``cells``.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then.
    """
    PartialFolder(settings.output, force=settings.force, why_keep=what_is_foreign)  # refuses before any work
    watch = Stopwatch()
    with ExitStack() as stack:
        with watch.stage("tissue"):
            source = stack.enter_context(open_input(settings))
        nuclei = choose_nuclei(settings, source)
        plan = _plan(settings, model, source) if isinstance(settings, PredictSettings) else None
        types = _types(settings, source, nuclei)
        nuclei = nuclei if types is None else types.coloured(nuclei)
        if lock:
            stack.enter_context(
                locked(lock_of(settings.output), what=str(settings.output), clear_dead=settings.clear_dead_locks)
            )
        kept = stack.enter_context(_kept(settings, source, nuclei, plan)) if keep_blocks or settings.resume else None
        writer = stack.enter_context(_writer(settings, plan, nuclei))
        job = _Job(settings, source, nuclei, plan, types, writer, watch)
        job.write_cells(kept, on_progress, cancelled)
        record = job.finished()
        output = writer.finish(record)
    found = {**record, "output": str(output), "cells": job.cells}
    return found if plan is None else found | _extras(plan, found, on_progress, cancelled)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The model and what is written of it."""

    settings: PredictSettings
    model: Model
    genes: tuple[str, ...]
    device: torch.device
    signatures: SignatureScores | None
    notes: tuple[str, ...]
    """On the scale at which the image is read."""

    @property
    def drawn(self) -> tuple[str, ...]:
        """Genes that get a picture: those asked for, else the first of the default list."""
        if not self.settings.overview:
            return ()
        return self.genes if self.settings.genes else self.genes[:1]

    @property
    def stride_um(self) -> float | None:
        """Spacing of the grid, or None for a window on each nucleus."""
        return None if self.settings.unit == "cells" else self.settings.stride_um or DEFAULT_STRIDE_UM

    @property
    def interval_genes(self) -> NDArray[np.intp] | None:
        """Columns that get percentiles: the panel, the written genes, or none."""
        if self.settings.intervals:
            return np.arange(len(self.model.panel))
        return self.model.panel.index(self.genes) if self.settings.measurements == "all" else None

    def predictor(self, source: Input, kept: KeptBlocks | None) -> CellPredictor:
        """Return what predicts for the nuclei of an image."""
        encoder = self.model.encoder
        return CellPredictor(
            slide=normalised(source.slide, source.mpp, target_of(self.model.card)),
            mpp=source.mpp,
            encoder=encoder if kept is None else kept.encoder(encoder),
            ensemble=self.model.ensemble,
            device=self.device,
            batch_size=self.settings.batch_size or default_batch_size(self.device),
            stride_um=self.stride_um,
            interval_genes=self.interval_genes,
        )

    def explanation(self, output: Path) -> ExplainSettings:
        """Return how the finished run is explained."""
        return ExplainSettings(
            run=output,
            genes=self.settings.explain,
            image=self.settings.image,
            device=self.settings.device,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
        )

    def warnings(self) -> list[str]:
        """Say at what scale is read, which signatures were left out, and which genes have no held-out support."""
        found = [*self.notes, *(() if self.signatures is None else self.signatures.warnings)]
        weak = self.model.unsupported(self.genes)
        if weak:
            found.append(f"no held-out evidence that the model can predict {', '.join(weak)}: the interval includes 0")
        return found

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` says of the model."""
        card = self.model.card
        return {
            "name": self.model.name,
            "sha256": self.model.sha256,
            "files": card["files"],
            "encoder": card["encoder"],
            "reference_total": card["reference_total"],
            "patients": card["training"]["patients"],
            "stride_um": self.stride_um,
        }


class _Tally:
    """What is counted while blocks pass by, and the few numbers a nucleus that the pictures need."""

    def __init__(self, *, columns: tuple[int, ...]) -> None:
        self.cells = 0
        self._columns = np.array(columns, dtype=np.intp)
        self._started = 0
        self._areas: list[NDArray[np.float32]] = []
        self._dots: list[NDArray[np.float32]] = []

    def start_regions(self, writer: RunWriter, source: Input, last: int) -> None:
        """Start every region up to number ``last`` that has not begun; those without nuclei stay empty."""
        for region in source.regions[self._started : last + 1]:
            writer.start_region(region)
        self._started = max(self._started, last + 1)

    def add(self, chunk: CellChunk, prediction: Prediction | None) -> None:
        """Count a block."""
        self.cells += len(chunk.cells)
        self._areas.append(chunk.cells.measurements[names.AREA])
        if prediction is not None:
            outside = outside_training(prediction.ood_score)
            parts = (chunk.cells.centroids_px, outside[:, None], prediction.mean[:, self._columns])
            self._dots.append(np.concatenate(parts, axis=1, dtype=np.float32))

    def dots(self, genes: tuple[str, ...]) -> pd.DataFrame:
        """Return place, flag and drawn means of each nucleus, with the columns of the run's table."""
        columns = ["x_px", "y_px", names.TABLE_COLUMN[names.OUTSIDE_TRAINING]]
        columns += [names.gene_column(gene, "mean") for gene in genes]
        empty = np.empty((0, len(columns)), dtype=np.float32)
        return pd.DataFrame(np.concatenate([empty, *self._dots]), columns=columns)

    def warnings(self, mpp: float) -> list[str]:
        """Return what looks wrong of all nuclei together."""
        if not self.cells:
            return ["no nucleus was found in any region; check the regions and the pixel size"]
        diameter = float(np.sqrt(4 * np.median(np.concatenate(self._areas)) / np.pi))
        found = [text for text in [diameter_warning(diameter, mpp)] if text]
        share = float(np.concatenate([d[:, 2] for d in self._dots]).mean()) if self._dots else 0.0
        if share > MANY_OUTSIDE:
            found.append(f"{share:.0%} of the nuclei lie outside what the model was trained on; do not rely on them")
        return found


def _plan(settings: PredictSettings, model: Model | None, source: Input) -> _Plan:
    model = model or load_model(settings.model)
    notes = scale_notes(model.encoder.card, source.mpp, what=settings.image.name)
    model.choose_genes(settings.explain)  # refused before any work
    signatures = SignatureScores.of(settings.signatures, model.ensemble)
    genes, device = model.choose_genes(settings.genes), choose_device(settings.device)
    return _Plan(settings, model, genes, device, signatures, notes)


def _types(settings: SegmentSettings, source: Input, nuclei: NucleiSource) -> TypesOfRun | None:
    """Return the cell-type models of a prediction."""
    if not isinstance(settings, PredictSettings):
        return None
    return TypesOfRun.of(settings, source, own_nuclei=nuclei.are_own)


def _kept(
    settings: SegmentSettings, source: Input, nuclei: NucleiSource, plan: _Plan | None
) -> AbstractContextManager[KeptBlocks]:
    """Return where blocks are kept, which depend on the nuclei and on the model."""
    model = None if plan is None else {"sha256": plan.model.sha256, "device": plan.device.type}
    return kept_blocks(settings, source, {"segmenter or nuclei": nuclei.identity, "model": model})


def _writer(settings: SegmentSettings, plan: _Plan | None, nuclei: NucleiSource) -> RunWriter:
    if plan is None:
        return RunWriter(settings.output, panel=None, force=settings.force, model_card={})
    return RunWriter(
        settings.output,
        panel=plan.model.panel,
        genes=plan.genes,
        measurements=plan.settings.measurements,
        intervals=plan.settings.intervals,
        force=settings.force,
        model_card=plan.model.card,
        own_objects=nuclei.are_own,
        color_of_class=nuclei.color_of_class,
    )


class _Job:
    """Goes through the nuclei of one image, has them written, and says in the end what was done."""

    def __init__(
        self,
        settings: SegmentSettings,
        source: Input,
        nuclei: NucleiSource,
        plan: _Plan | None,
        types: TypesOfRun | None,
        writer: RunWriter,
        watch: Stopwatch,
    ) -> None:
        self._settings, self._source, self._nuclei = settings, source, nuclei
        self._plan, self._types, self._writer, self._watch = plan, types, writer, watch
        self._tally = _Tally(columns=() if plan is None else tuple(plan.model.panel.index(plan.drawn)))
        with watch.stage("quality"):
            self._quality = QualityMap(source.slide, source.mpp)

    @property
    def cells(self) -> int:
        """How many nuclei there were."""
        return self._tally.cells

    def write_cells(self, kept: KeptBlocks | None, on_progress: ProgressCallback, cancelled: CancelCheck) -> None:
        """Write block after block, and the regions they are of."""
        for chunk, prediction in self._blocks(kept, on_progress, cancelled):
            size = len(chunk.cells)
            self._tally.start_regions(self._writer, self._source, chunk.region_index)
            with self._watch.stage("quality", size):
                chunk = replace(chunk, cells=with_quality(chunk.cells, self._quality))
            if self._types is not None:
                with self._watch.stage(CELL_TYPES, size):
                    chunk = self._types.into(chunk, cancelled=cancelled)
            with self._watch.stage("write", size):
                self._writer.append(chunk.cells, prediction)
            self._tally.add(chunk, prediction)
        self._tally.start_regions(self._writer, self._source, len(self._source.regions) - 1)
        stop_if(cancelled)

    def finished(self) -> dict[str, Any]:
        """Draw the pictures and return the record."""
        with self._watch.stage("quality"):
            quality = self._quality.summary()
        warnings = [*self._warnings(), *quality.warnings(), *self._tally.warnings(self._source.mpp)]
        warnings += [] if self._types is None else self._types.warnings
        if self._plan is not None:
            warnings += self._plan.warnings()
            with self._watch.stage("overview", len(self._plan.drawn)):
                self._draw(self._plan)
        self._watch.count("read", self._source.slide.read_tiles)
        record = {**self._record(warnings), "quality": quality.to_dict()}
        return record if self._types is None else record | {"cell_types": self._types.record()}

    def _blocks(
        self, kept: KeptBlocks | None, on_progress: ProgressCallback, cancelled: CancelCheck
    ) -> Iterator[tuple[CellChunk, Prediction | None]]:
        """Yield blocks of nuclei, with their prediction where there is a model."""
        watch, plan = self._watch, self._plan
        found = self._nuclei.chunks(
            threads=self._settings.threads, kept=kept, timed=watch.stage, on_progress=on_progress, cancelled=cancelled
        )
        chunks = watch.waiting("nuclei", found)
        if plan is None:
            for chunk in chunks:
                self._count(STAGES_OF_NUCLEI, chunk)
                yield chunk, None
            return
        predictor = plan.predictor(self._source, kept)
        if plan.signatures is None:
            predicted = predictor.predict(chunks, cancelled=cancelled, timed=watch.stage)
        else:
            scored = predictor.predict_scored(chunks, plan.signatures.scorer, cancelled=cancelled, timed=watch.stage)
            predicted = plan.signatures.into(scored)
        for chunk, prediction in predicted:
            self._count((*STAGES_OF_NUCLEI, *STAGES_OF_MODEL), chunk)
            yield chunk, prediction

    def _count(self, stages: tuple[str, ...], chunk: CellChunk) -> None:
        """Book the nuclei of a block under each of the stages they went through."""
        for stage in stages:
            self._watch.count(stage, len(chunk.cells))

    def _warnings(self) -> list[str]:
        """Return what is to be said of the image and the nuclei; raises where too much of the image is unreadable."""
        bad_tiles = self._source.check_tiles(self._settings.max_bad_tiles)
        return [*self._source.warnings, *self._nuclei.warnings, *bad_tiles]

    def _draw(self, plan: _Plan) -> None:
        """Draw the genes that get a picture."""
        if plan.drawn:
            from stimage_qupath.report.overview import draw_overviews  # with matplotlib, half a second of every start

            dots, note = self._tally.dots(plan.drawn), plan.model.research_use
            slide, regions = self._source.slide, self._source.regions
            draw_overviews(self._writer.folder, dots, slide, regions, plan.drawn, note=note)

    def _record(self, warnings: list[str]) -> dict[str, Any]:
        plan = self._plan
        return {
            "command": self._settings.flow,
            "settings": self._settings.to_dict(),
            "image": self._source.record(),
            "model": None if plan is None else plan.record(),
            "device": "cpu" if plan is None else str(plan.device),
            "research_use": None if plan is None else plan.model.research_use,
            "warnings": warnings,
            **({} if plan is None or plan.signatures is None else {"signatures": plan.signatures.record()}),
            "versions": versions(),
            "peak_memory_mib": peak_memory_mib(),
            **self._watch.record(),
        }


def _extras(
    plan: _Plan, found: dict[str, Any], on_progress: ProgressCallback, cancelled: CancelCheck
) -> dict[str, Any]:
    """Make what was asked for on top of the run, which is whole by now, and return what is to be said of it."""
    output, extras = Path(found["output"]), {}
    if plan.settings.explain and found["cells"]:
        from stimage_qupath.pipeline import explain  # a second of every start, which few runs need

        extras["attribution"] = explain.run(plan.explanation(output), on_progress, cancelled)
    if plan.settings.report:
        from stimage_qupath.pipeline import report  # likewise

        settings = ReportSettings(run=output, slide=plan.settings.image)
        extras["report"] = report.run(settings, on_progress, cancelled)["output"]
    return extras
