"""Expression and the time until an event: nested cross-validation, nulls, baselines, another cohort, one report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.clinical import verdict
from stimage_qupath.clinical.folds import check_folds
from stimage_qupath.clinical.permutation import Null, Trial, permute, statistics
from stimage_qupath.clinical.proportional import require_lifelines
from stimage_qupath.clinical.survival_metrics import Figure
from stimage_qupath.clinical.survival_problem import NestedSettings, OutOfFold
from stimage_qupath.config.survival import SurvivalSettings
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.export.run_record import to_json
from stimage_qupath.pipeline.record import Stopwatch, versions
from stimage_qupath.pipeline.survival_cohort import SurvivalCohort, read_cohorts
from stimage_qupath.pipeline.survival_files import write_risks
from stimage_qupath.pipeline.survival_models import (
    COVARIATES,
    EXPRESSION,
    Analysis,
    bands,
    baselines,
    external_figures,
    with_genes,
)
from stimage_qupath.report.survival import survival_page
from stimage_qupath.report.survival_plots import draw
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if

STAGE: Final = "survival"
PERMUTING: Final = "permutations"


def run(
    settings: SurvivalSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Analyse and write ``survival.json``, ``survival.html``, ``risks.csv`` and the pictures.

    Parameters
    ----------
    settings
        Which tables and columns, and how.
    on_progress, cancelled
        Progress and cancellation.

    Returns
    -------
    dict
        What ``survival.json`` holds, and the ``output`` folder.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then.
    """
    require_lifelines()
    watch = Stopwatch()
    cohort, external = read_cohorts(settings)
    with PartialFolder(settings.output, force=settings.force, why_keep=_why_keep) as folder:
        analysis = Analysis.of(cohort, settings)
        results = {}
        with watch.stage("models", len(analysis.trial.models)):
            for done, name in enumerate(analysis.trial.models, start=1):
                stop_if(cancelled)
                on_progress(STAGE, done, len(analysis.trial.models), name)
                results[name] = analysis.fit(name)
                check_folds(results[name].folds, cohort.groups)
        nulls = None
        if settings.permutations:
            with watch.stage(PERMUTING, settings.permutations):
                nulls = _nulls(analysis.trial, settings, on_progress, cancelled)
        with watch.stage("figures"):
            survival = _survival(settings, analysis, results, nulls)
            survival["baselines"] = baselines(analysis, results)
            survival["external"] = None if external is None else external_figures(analysis, external, settings)
        survival |= {"settings": settings.to_dict(), "versions": versions(), "timing": watch.record()}
        (folder.path / names.SURVIVAL_JSON).write_bytes(to_json(survival))
        drawn = draw(survival)
        (folder.path / names.SURVIVAL_HTML).write_text(survival_page(survival, drawn), encoding="utf-8")
        for picture in drawn:
            picture.save(folder.path)
        write_risks(folder.path / names.RISKS_CSV, cohort, results, settings)
        output = folder.publish()
    return {**survival, "output": str(output)}


def _why_keep(folder: Path) -> str | None:
    """Only an earlier analysis may be replaced."""
    there = (folder / names.SURVIVAL_JSON).is_file() or not any(folder.iterdir())
    return None if there else f"no {names.SURVIVAL_JSON} in it"


def _nulls(
    trial: Trial, settings: SurvivalSettings, on_progress: ProgressCallback, cancelled: CancelCheck
) -> tuple[Null, Null]:
    def on_done(done: int) -> None:
        stop_if(cancelled)
        on_progress(PERMUTING, done, settings.permutations, "the whole pipeline on permuted data")

    return permute(trial, permutations=settings.permutations, seed=settings.seed, jobs=settings.jobs, on_done=on_done)


def _survival(
    settings: SurvivalSettings,
    analysis: Analysis,
    results: Mapping[str, OutOfFold],
    nulls: tuple[Null, Null] | None,
) -> dict[str, Any]:
    """Return what ``survival.json`` holds of the cohort and its models."""
    cohort = analysis.cohort
    models = {name: _model(analysis, name, result, nulls) for name, result in results.items()}
    for name, band in bands(analysis, results, settings).items():
        models[name]["band"] = band
    gains = {name: _gain(analysis, results, name, nulls) for name in analysis.trial.gains}
    said = [verdict.of_expression(name, models[name]) for name in with_genes(models) if COVARIATES not in name]
    said += [verdict.of_gain(name, gain) for name, gain in gains.items()]
    return {
        "research_use": names.UNTESTED_CLINICALLY,
        "verdict": said,
        "cohort": _about(cohort, settings),
        "protocol": _protocol(analysis.trial.settings, settings),
        "horizons": list(analysis.judge.horizons),
        "models": models,
        "gains": gains,
        "measured_less_predicted": analysis.measured_less_predicted(results),
        "warnings": list(cohort.notes) + analysis.warnings(results),
    }


def _model(analysis: Analysis, name: str, result: OutOfFold, nulls: tuple[Null, Null] | None) -> dict[str, Any]:
    found = analysis.figures(name, result)
    found["p"] = found["null"] = None
    if nulls is not None:
        observed = statistics(analysis.cohort.outcome, result)
        found["p"] = {what: nulls[0].p(f"{name}|{what}", value) for what, value in observed.items()}
        found["null"] = {what: nulls[0].summary(f"{name}|{what}") for what in observed}
    return found


def _gain(
    analysis: Analysis, results: Mapping[str, OutOfFold], name: str, nulls: tuple[Null, Null] | None
) -> dict[str, Any]:
    over = analysis.trial.gains[name]
    observed = analysis.gain(results[over], results[name])
    delta: Figure = analysis.judge.c(results[name].risk).minus(analysis.judge.c(results[over].risk))
    found: dict[str, Any] = {"over": over, "delta_c": delta.to_dict(), "lr_chi2": observed["lr_chi2"], "p": None}
    if nulls is not None:
        found["p"] = {what: nulls[1].p(f"{name}|{what}", value) for what, value in observed.items()}
        found["null"] = {what: nulls[1].summary(f"{name}|{what}") for what in observed}
    return found


def _about(cohort: SurvivalCohort, settings: SurvivalSettings) -> dict[str, Any]:
    follow_up: NDArray[np.float64] = cohort.outcome.time
    return {
        "file": settings.cohort.name,
        "patients": len(cohort.outcome),
        "events": cohort.outcome.events,
        "median_time": float(np.median(follow_up)),
        "features": len(cohort.features.names),
        "features_with_sd": 0 if cohort.features.sd is None else int((cohort.features.sd > 0).any(axis=0).sum()),
        "covariates": list(settings.covariates),
        "strata": list(cohort.strata_names),
        "sites": None if cohort.site is None else len(set(cohort.site.tolist())),
        "measured": cohort.measured is not None,
    }


def _protocol(nested: NestedSettings, settings: SurvivalSettings) -> dict[str, Any]:
    return {
        "folds": nested.folds,
        "inner_folds": nested.inner_folds,
        "folds_by": "patient" if settings.site is None else settings.site,
        "kept": list(nested.kept),
        "spreads": list(nested.spreads),
        "fractions": list(nested.fractions),
        "l1_ratio": nested.l1_ratio,
        "cuts": list(nested.cuts),
        "ties": nested.ties,
        "permutations": settings.permutations,
        "replicates": settings.replicates,
        "main": EXPRESSION,
    }
