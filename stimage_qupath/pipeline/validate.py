"""A run held against a person's annotations: how well each gene tells the classes apart, and what says so already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.config import ValidateSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.export.run_genes import read_genes
from stimage_qupath.export.run_reader import Run, read_run
from stimage_qupath.export.run_record import to_json
from stimage_qupath.pipeline.annotators import compare_annotators, label_agreement
from stimage_qupath.pipeline.attribution_enrichment import enrichment
from stimage_qupath.pipeline.labelling import Labelling, read_labelling
from stimage_qupath.pipeline.record import versions
from stimage_qupath.pipeline.validation_figures import ClassFigures, Scores
from stimage_qupath.report.validation import validation_page
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if
from stimage_qupath.validation.annotations import DENSITY_UM, Separator, nuclear_density

STAGE: Final = "validation"
DENSITY: Final = f"nuclear density, {DENSITY_UM:g} um"
STAINS: Final = {names.HEMATOXYLIN_MEAN: "hematoxylin of the nucleus", names.EOSIN_MEAN: "eosin of the nucleus"}
"""Colour alone: what any gene must beat."""


def run(
    settings: ValidateSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Compare and write ``validation.json`` and ``validation.html``.

    Parameters
    ----------
    settings
        Which run, which annotations, and how.
    on_progress, cancelled
        Progress and cancellation.

    Returns
    -------
    dict
        What ``validation.json`` holds, and the ``output`` folder.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then.
    """
    finished = read_run(settings.run)
    output = settings.output or finished.path.resolve().with_name(f"{finished.path.resolve().name}-validation")
    with PartialFolder(output, force=settings.force, why_keep=_why_keep) as folder:
        nuclei = _Nuclei.of(finished)
        first = read_labelling(settings.annotations, settings, finished, nuclei.centroids_px)
        second = None
        if settings.second is not None:
            second = read_labelling(settings.second, settings, finished, nuclei.centroids_px)
        on_progress(STAGE, 0, 0, "reading the genes")
        genes = read_genes(finished, settings.genes or tuple(finished.record["genes"]))
        scores = Scores(genes, nuclei.baselines(), nuclei.area_um2, nuclei.ood_score, nuclei.outside_training)
        validation = _validation(settings, finished, nuclei, first, second, scores, on_progress, cancelled)
        (folder.path / names.VALIDATION_JSON).write_bytes(to_json(validation))
        (folder.path / names.VALIDATION_HTML).write_text(validation_page(validation), encoding="utf-8")
        output = folder.publish()
    return {**validation, "output": str(output)}


def _why_keep(folder: Path) -> str | None:
    """Only an earlier validation may be replaced."""
    there = (folder / names.VALIDATION_JSON).is_file() or not any(folder.iterdir())
    return None if there else f"no {names.VALIDATION_JSON} in it"


@dataclass(frozen=True, slots=True)
class _Nuclei:
    """The run's nuclei, one row each."""

    centroids_px: NDArray[np.float64]
    positions_um: NDArray[np.float64]
    types: NDArray[np.object_]
    area_um2: NDArray[np.float64]
    stains: dict[str, NDArray[np.float64]]
    ood_score: NDArray[np.float64]
    outside_training: NDArray[np.float64]

    @classmethod
    def of(cls, finished: Run) -> _Nuclei:
        """Read them; UsageError where the run holds no prediction."""
        if finished.record.get("model") is None:
            msg = f"expected a run with predictions at {finished.path}, found nuclei alone; run predict"
            raise UsageError(msg)
        table = finished.table()
        area, score, flag = (names.TABLE_COLUMN[name] for name in (names.AREA, names.OOD_SCORE, names.OUTSIDE_TRAINING))
        stains = {said: names.TABLE_COLUMN[name] for name, said in STAINS.items()}
        centroids = table[["x_px", "y_px"]].to_numpy(np.float64)
        types = table["cell_type"].astype(object)
        return cls(
            centroids_px=centroids,
            positions_um=centroids * float(finished.record["image"]["mpp"]),
            types=types.where(types.notna(), None).to_numpy(object),
            area_um2=table[area].to_numpy(np.float64) if area in table else np.ones(len(table)),
            stains={said: table[column].to_numpy(np.float64) for said, column in stains.items() if column in table},
            ood_score=table[score].to_numpy(np.float64),
            outside_training=table[flag].to_numpy(np.float64),
        )

    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """Return scores that need no model; one that a nucleus lacks is left out."""
        found = {DENSITY: nuclear_density(self.positions_um)} if len(self.positions_um) else {}
        return found | {said: values for said, values in self.stains.items() if np.isfinite(values).all()}


def _validation(
    settings: ValidateSettings,
    finished: Run,
    nuclei: _Nuclei,
    first: Labelling,
    second: Labelling | None,
    scores: Scores,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> dict[str, Any]:
    """Return what ``validation.json`` holds."""
    labelled = first.labelled(first.classes, nuclei.positions_um).keep(scores.predicted)
    inside = labelled.code >= 0
    scored = scores.predicted if settings.rest == "all" else inside
    separator = Separator(
        labelled.take(scored),
        block_um=settings.block_um,
        replicates=settings.replicates,
        permutations=settings.permutations,
        seed=settings.seed,
    )
    figures = ClassFigures(labelled, scored, separator, scores)
    for done, score in enumerate(scores.names, start=1):
        stop_if(cancelled)
        figures.add(score)
        on_progress(STAGE, done, len(scores.names), score)
    found: dict[str, Any] = {
        "research_use": finished.record["research_use"],
        "note": names.AGREEMENT,
        "run": {
            "name": finished.path.resolve().name,
            "nuclei": len(finished),
            "image": finished.record["image"]["name"],
        },
        "annotations": {
            "file": settings.annotations.name,
            "kind": first.kind,
            "by": settings.by,
            "nuclei": int(inside.sum()),
        },
        "rest": settings.rest,
        "blocks": {"side_um": settings.block_um, "occupied": separator.blocks},
        "high_rule": scores.high_rule,
        "classes": figures.to_dict(),
        "labels": label_agreement(first, nuclei.types),
        "attribution": enrichment(
            finished,
            labelled,
            scored,
            block_um=settings.block_um,
            permutations=settings.permutations,
            seed=settings.seed,
            cancelled=cancelled,
        ),
        "second": None if second is None else compare_annotators(settings, first, second, scores, nuclei.types),
        "warnings": _warnings(settings, first, second, scores),
    }
    return found | {"settings": settings.to_dict(), "versions": versions()}


def _warnings(settings: ValidateSettings, first: Labelling, second: Labelling | None, scores: Scores) -> list[str]:
    warnings = [*first.warnings, *(() if second is None else second.warnings)]
    missing = int((~scores.predicted).sum())
    if missing:
        warnings.append(f"{missing} nuclei without a prediction are left out.")
    if len(first.classes) == 1 and settings.rest == "annotated":
        warnings.append("There is one class alone, so nothing to tell it from; --rest all takes all other nuclei.")
    return warnings
