"""Whether the attributions of a run are true of its model: tested on blocks of its slide, and written beside them.

Where the run holds no attribution of a gene by the method and fill that are asked for, it is explained first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.attribution.deletion import SHARES
from stimage_qupath.attribution.faithfulness import CONTROLS, BlockFaithfulness, TestedBlock
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.robustness import Explainer, Robustness, robustness
from stimage_qupath.attribution.targets import Outputs
from stimage_qupath.attribution.transplant import NAME as SCORING_FILL
from stimage_qupath.config import ExplainSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.export.run_columns import NewColumns, add_columns
from stimage_qupath.export.run_reader import Run, read_run
from stimage_qupath.export.run_record import to_json
from stimage_qupath.models.checkpoint import Model
from stimage_qupath.pipeline import explain
from stimage_qupath.pipeline.faithfulness_verdict import verdict
from stimage_qupath.pipeline.record import Stopwatch
from stimage_qupath.pipeline.run_model import model_of_run
from stimage_qupath.pipeline.tested_blocks import LEAST_NUCLEI, TestedBlocks, open_blocks
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.report.faithfulness import faithfulness_png
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if

STAGE: Final = "faithfulness"
ROBUST_BLOCKS: Final = 2
"""Blocks that are explained again and again: each costs several explanations."""
ABOUT: Final = ("method", "fill", "target", "seed")


def run(
    settings: ExplainSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Explain what is not explained yet, test all genes of the settings, and write what was found into the run.

    Parameters
    ----------
    settings
        What is explained, and how many blocks are tested.
    on_progress, cancelled
        Progress and cancellation; attributions that were written stay.

    Returns
    -------
    dict
        What ``attribution.json`` holds, the ``output`` folder and the number of ``cells``.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing of the test is written then.
    """
    if not _is_explained(read_run(settings.run), settings):
        explain.run(settings, on_progress, cancelled)
    finished = read_run(settings.run)
    model = model_of_run(finished)
    watch = Stopwatch()
    with open_blocks(finished, model, image=settings.image) as blocks:
        tests = _Tests(settings, finished, model, blocks)
        with watch.stage(STAGE, settings.faithfulness_blocks):
            by_gene = tests.by_gene(on_progress, cancelled)
    record = _with_faithfulness(finished, by_gene)
    record |= {"seconds_faithfulness": watch.record()["seconds"]}
    kept = {key: record[key] for key in ("note", "research_use", "value", "unit", "genes")}
    files = {
        names.ATTRIBUTION_JSON: to_json(record),
        names.ATTRIBUTION_PNG.format(what=STAGE): faithfulness_png(by_gene, note=names.FAITHFUL_TO_MODEL),
    }
    output = add_columns(finished, NewColumns(measurements={}, record={"attribution": kept}, files=files))
    return {**record, "output": str(output), "cells": len(finished)}


@dataclass(frozen=True, slots=True)
class _Tests:
    """All blocks of one run."""

    settings: ExplainSettings
    finished: Run
    model: Model
    blocks: TestedBlocks

    def by_gene(self, on_progress: ProgressCallback, cancelled: CancelCheck) -> dict[str, dict[str, Any]]:
        """Return the record of each gene."""
        settings, genes = self.settings, self.settings.genes
        question = self._question(cancelled)
        values = self.finished.table([names.gene_column(gene, "attribution") for gene in genes]).to_numpy(np.float64)
        chosen = self.blocks.choose(settings.faithfulness_blocks, least_nuclei=LEAST_NUCLEI, seed=settings.seed)
        if not chosen:
            msg = f"expected a block of {self.blocks.side_um:g} um with {LEAST_NUCLEI} nuclei to test on, found none; "
            msg += "predict a larger region, or leave --faithfulness out"
            raise UsageError(msg)
        found: list[BlockFaithfulness] = []
        robust: list[Robustness] = []
        for done, (where, nuclei) in enumerate(chosen, start=1):
            stop_if(cancelled)
            found.append(self._one(where, nuclei, values[nuclei], question, robust))
            on_progress(STAGE, done, len(chosen), f"{len(genes)} genes, {settings.method}")
        about = {
            "scoring_fill": SCORING_FILL,
            "unit": f"blocks of {self.blocks.side_um:g} um",
            "controls": CONTROLS,
            "matched_in": "area, hematoxylin and distance to the centre of the block",
        }
        return {gene: about | of for gene, of in verdict(genes, SHARES, found, robust, seed=settings.seed).items()}

    def _one(
        self,
        where: tuple[int, int],
        nuclei: NDArray[np.intp],
        values: NDArray[np.float64],
        question: Question,
        robust: list[Robustness],
    ) -> BlockFaithfulness:
        """Test one block; the first few are also explained again."""
        settings = self.settings
        block, bounds = self.blocks.read(where, nuclei)
        tested = TestedBlock(block, bounds, question)
        if len(robust) < ROBUST_BLOCKS:
            explainer = Explainer(block, settings.method, settings.fill, question)
            robust.append(robustness(explainer, tested.repainted, tested.filled, seed=settings.seed))
        return tested.faithfulness(values, seed=settings.seed)

    def _question(self, cancelled: CancelCheck) -> Question:
        settings = self.settings
        device = choose_device(settings.device)
        return Question(
            encoder=self.model.encoder,
            outputs=Outputs(self.model.ensemble, self.model.choose_genes(settings.genes), settings.target),
            device=device,
            batch_size=settings.batch_size or default_batch_size(device),
            samples=settings.samples,
            seed=settings.seed,
            cancelled=cancelled,
        )


def _is_explained(finished: Run, settings: ExplainSettings) -> bool:
    """Return whether the run holds what is to be tested, made as the settings say."""
    there: Mapping[str, Any] = finished.record.get("attribution", {}).get("genes", {})
    wanted = {name: getattr(settings, name) for name in ABOUT}
    return all(gene in there and {name: there[gene].get(name) for name in ABOUT} == wanted for gene in settings.genes)


def _with_faithfulness(finished: Run, by_gene: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``attribution.json`` holds, each tested gene with what was found."""
    record: dict[str, Any] = orjson.loads((finished.path / names.ATTRIBUTION_JSON).read_bytes())
    tested = {gene: {**record["genes"][gene], STAGE: of} for gene, of in by_gene.items()}
    return {**record, "genes": {**record["genes"], **tested}}
