"""Finished runs and a clinical table in, one row a patient out, with what was decided in a record beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.clinical.bulk import BulkAgreement, agreement, measured_expression
from stimage_qupath.clinical.cohort import Assignment, assign, read_clinical
from stimage_qupath.clinical.signatures.of_cohort import check_words, score_cohort
from stimage_qupath.clinical.slides import RULES, Slide
from stimage_qupath.clinical.table import listed, read_table
from stimage_qupath.config.cohort import CohortSettings
from stimage_qupath.errors import UnknownGeneError, UsageError
from stimage_qupath.pipeline.cohort_files import CohortFiles, read_measured
from stimage_qupath.pipeline.cohort_slides import (
    Found,
    check_models,
    find_runs,
    panel_in_common,
    read_slide,
    window_of,
)
from stimage_qupath.pipeline.cohort_table import Cohort
from stimage_qupath.pipeline.record import versions
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if

STAGE: Final = "cohort"
UNCERTAINTY: Final = (
    "epistemic SDs are averaged over nuclei and slides, an upper bound, because members disagree alike everywhere; "
    "aleatoric variances average over windows that do not overlap and over slides; SD is the root of both together"
)
NO_OUTCOME: Final = "Predicted expression has not been tested for clinical use."

Float = NDArray[np.float64]


def run(
    settings: CohortSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Make the table of patients.

    Parameters
    ----------
    settings
        Which runs, which clinical table, and how.
    on_progress, cancelled
        Progress and cancellation.

    Returns
    -------
    dict
        The record as beside the table, and the path ``output``.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then.
    """
    files = CohortFiles(settings.output, force=settings.force)  # refuses before any work
    check_words(settings.signatures)
    text = (settings.slide_column, settings.patient_column)
    table = read_table(settings.clinical, text=text)
    clinical = read_clinical(table, patient=settings.patient_column, slide=settings.slide_column)
    found = find_runs(settings.runs)
    model = check_models(found)
    panel = panel_in_common(found)
    written = _genes(settings, panel)
    genes = panel if settings.signatures else written
    measured = None if settings.bulk is None else read_measured(settings.bulk)
    window_um = settings.window_um or window_of(model)
    assigned = assign(found, clinical)
    slides, empty = _read(settings, assigned, genes, window_um, on_progress, cancelled)
    cohort = Cohort(slides, clinical, genes=genes, written=written, rule=settings.combine)
    stop_if(cancelled)
    scores = score_cohort(
        settings.signatures, genes, cohort.mean, cohort.sd, gmt_score=settings.gmt_score, seed=settings.seed
    )
    bulk = None if measured is None else _compare(settings, measured, cohort)
    warnings = [*clinical.notes, *assigned.notes(), *_of_runs(found), *scores.warnings]
    if empty:
        warnings.append(f"{len(empty)} slides without nuclei are left out: {listed(empty)}")
    record = {
        "kind": STAGE,
        "settings": settings.to_dict(),
        "research_use": found[0].run.record["research_use"],
        "note": NO_OUTCOME,
        "model": {key: model[key] for key in ("name", "sha256", "patients")},
        "window_um": window_um,
        **_decided(settings, cohort, assigned, empty),
        "signatures": dict(scores.record),
        "bulk": None if bulk is None else bulk.summary,
        "warnings": warnings,
        "versions": versions(),
    }
    files.write(cohort.table(scores), record, None if bulk is None else bulk.genes)
    return {**record, "output": str(settings.output)}


def _decided(settings: CohortSettings, cohort: Cohort, assigned: Assignment[Found], empty: list[str]) -> dict[str, Any]:
    """Return what the record says of rules, slides and patients."""
    return {
        "rule": RULES[settings.combine],
        "uncertainty": UNCERTAINTY,
        "patients": len(cohort.patients),
        "slides": cohort.slide_records(),
        "without_clinical_row": list(assigned.without_row),
        "without_slide": list(assigned.without_slide),
        "without_nuclei": empty,
        "genes": list(cohort.written),
    }


def _genes(settings: CohortSettings, panel: tuple[str, ...]) -> tuple[str, ...]:
    """Return the genes of the table, in the order asked for."""
    unknown = [gene for gene in settings.genes if gene not in panel]
    if unknown:
        msg = f"expected genes of the runs' panel of {len(panel)}, found {listed(unknown)}; leave them out"
        raise UnknownGeneError(msg)
    return tuple(dict.fromkeys(settings.genes)) or panel


def _read(
    settings: CohortSettings,
    assigned: Assignment[Found],
    genes: tuple[str, ...],
    window_um: float,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> tuple[dict[str, tuple[Slide, ...]], list[str]]:
    """Return the slides of each patient that have nuclei, and the names of those that have none."""
    total, done = sum(map(len, assigned.slides.values())), 0
    patients: dict[str, tuple[Slide, ...]] = {}
    empty = []
    for patient, runs in assigned.slides.items():
        slides = []
        for one in runs:
            on_progress(STAGE, done, total, one.name)
            done += 1
            if not len(one.run):
                empty.append(one.name)
                continue
            slides.append(read_slide(one, genes, by=settings.by, window_um=window_um, between=_stopping(cancelled)))
        if slides:
            patients[patient] = tuple(slides)
    on_progress(STAGE, total, total, "")
    if not patients:
        msg = f"expected nuclei in at least one of {total} runs, found none; check the runs' regions"
        raise UsageError(msg)
    return patients, empty


def _stopping(cancelled: CancelCheck) -> Callable[[int, int], None]:
    def between(done: int, total: int) -> None:
        stop_if(cancelled)

    return between


def _of_runs(found: Sequence[Found]) -> list[str]:
    """Return what differs between runs, and should not."""
    warnings = []
    for key in ("unit", "stride_um", "segmenter"):
        values = sorted({str(one.run.record["settings"].get(key)) for one in found})
        if len(values) > 1:
            warnings.append(f"runs differ in {key}: {listed(values)}; slides are comparable if made alike")
    return warnings


def _compare(settings: CohortSettings, frame: pd.DataFrame, cohort: Cohort) -> BulkAgreement:
    measured = measured_expression(frame, patients=cohort.patients, genes=cohort.written)
    rows = [cohort.patients.index(patient) for patient in measured.patients]
    columns = [cohort.genes.index(gene) for gene in measured.genes]
    options = {"replicates": settings.replicates, "permutations": settings.permutations, "seed": settings.seed}
    return agreement(cohort.mean[np.ix_(rows, columns)], measured, **options)
