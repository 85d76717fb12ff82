"""A cohort table and a response in; figures that no test patient entered, and the honest verdict, out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from stimage_qupath import names
from stimage_qupath.clinical.coefficient_stability import Stability
from stimage_qupath.clinical.drug_metrics import CHANCE, PRIMARY
from stimage_qupath.clinical.drug_nested import Plan
from stimage_qupath.clinical.drug_question import Question
from stimage_qupath.clinical.drug_response import Answer, answer, record_of, stability
from stimage_qupath.clinical.elastic_net import ElasticNet
from stimage_qupath.clinical.linear_model import LinearModel
from stimage_qupath.clinical.response_checkpoint import save_model
from stimage_qupath.clinical.transfer import TransferModel
from stimage_qupath.config.drug_response import DrugResponseSettings
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.export.run_record import to_json
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.pipeline import drug_transfer
from stimage_qupath.pipeline.drug_cohort import DrugCohort, patient_marks, read_cohort
from stimage_qupath.pipeline.drug_tables import coefficients_table, predictions_table, verdicts
from stimage_qupath.pipeline.record import versions
from stimage_qupath.report import response_plots
from stimage_qupath.report.drug_response import drug_response_page
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if

FEW_PATIENTS: Final = 100
SHOWN_COEFFICIENTS: Final = 30


def run(
    settings: DrugResponseSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Cross-validate models of a response, or apply a saved one, and write the folder.

    Parameters
    ----------
    settings
        What is asked.
    on_progress, cancelled
        Progress and cancellation.

    Returns
    -------
    dict
        What ``drug_response.json`` holds, and the ``output`` folder.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then.
    """
    with PartialFolder(settings.output, force=settings.force, why_keep=_why_keep) as folder:
        if settings.transfer is not None:
            record, drawn = drug_transfer.apply(settings, folder.path)
        else:
            record, drawn = _validate(settings, folder.path, on_progress, cancelled)
        record |= {"research_use": names.UNTESTED_CLINICALLY, "settings": settings.to_dict(), "versions": versions()}
        for name, picture in drawn.items():
            response_plots.write(picture, folder.path / name)
        (folder.path / names.DRUG_RESPONSE_JSON).write_bytes(to_json(record))
        page = drug_response_page(record, drawn)
        (folder.path / names.DRUG_RESPONSE_HTML).write_text(page, encoding="utf-8")
        output = folder.publish()
    return {**record, "output": str(output)}


def _validate(
    settings: DrugResponseSettings, folder: Path, on_progress: ProgressCallback, cancelled: CancelCheck
) -> tuple[dict[str, Any], dict[str, response_plots.Drawing]]:
    """Cross-validate, write the tables, save a model if asked, and return record and pictures."""

    def on_done(stage: str, done: int, total: int) -> None:
        stop_if(cancelled)
        on_progress(stage, done, total, "")

    with _model_folder(settings) as model_folder:
        cohort = read_cohort(settings)
        question = _question(settings, cohort)
        found = answer(question, on_done)
        stable = stability(question, found)
        with output_errors(folder):
            predictions_table(cohort, found).to_csv(folder / names.PREDICTIONS_CSV, index=False)
            coefficients_table(stable).to_csv(folder / names.COEFFICIENTS_CSV, index=False)
        record = _record(settings, cohort, found)
        if model_folder is not None:
            save_model(_kept(settings, cohort, question, record), model_folder.path)
            model_folder.publish()
    return record, _pictures(found, stable)


def _model_folder(settings: DrugResponseSettings) -> PartialFolder | nullcontext[None]:
    if settings.save_model is None:
        return nullcontext()
    return PartialFolder(settings.save_model, force=settings.force, why_keep=_why_keep_model)


def _question(settings: DrugResponseSettings, cohort: DrugCohort) -> Question:
    """Return what is asked; UsageError where the cohort cannot answer it."""
    response = cohort.response
    if response is None:  # pragma: no cover  # the settings ask for one
        msg = "expected a response, found none"
        raise ValueError(msg)
    response.require_enough(settings.folds)
    return Question(
        response=response,
        plan=Plan.make(
            cohort.groups,
            response.strata,
            folds=settings.folds,
            seed=settings.seed,
            classes=response.kind == "binary",
        ),
        sources=cohort.sources,
        covariates=cohort.covariates,
        learners=settings.learners,
        replicates=settings.replicates,
        permutations=settings.permutations,
        draws=settings.draws,
        seed=settings.seed,
        workers=settings.workers,
    )


def _record(settings: DrugResponseSettings, cohort: DrugCohort, found: Answer) -> dict[str, Any]:
    """Return what ``drug_response.json`` holds."""
    question = found.question
    models = {label: record_of(found, label) for label in found.candidates}
    values = question.response.values
    return {
        "mode": "nested cross-validation",
        "response": {
            "column": settings.response,
            "kind": question.kind,
            "rule": question.response.rule,
            "patients": len(values),
            "responders": int(values.sum()) if question.kind == "binary" else None,
        },
        "groups": {"column": settings.group or settings.patient, "number": int(question.plan.groups.max()) + 1},
        "genes": {name: len(source.genes) for name, source in cohort.sources.items()},
        "primary": PRIMARY[question.kind],
        "chance": CHANCE[question.kind],
        "models": models,
        "verdict": verdicts(models, PRIMARY[question.kind]),
        "warnings": [*cohort.notes, *_warnings(settings, question)],
    }


def _warnings(settings: DrugResponseSettings, question: Question) -> list[str]:
    warnings = []
    patients, groups = len(question.plan.groups), int(question.plan.groups.max()) + 1
    if patients < FEW_PATIENTS:
        warnings.append(f"{patients} patients are few: intervals are wide, and what folds choose varies.")
    if groups < 2 * settings.folds:
        warnings.append(f"{groups} groups are few for {settings.folds} folds; intervals over groups are unreliable.")
    if not settings.permutations:
        warnings.append("No permutations were asked for, so no figure has a p.")
    return warnings


def _kept(
    settings: DrugResponseSettings, cohort: DrugCohort, question: Question, record: dict[str, Any]
) -> TransferModel:
    """Return the elastic net of all patients and of the first expression, with what is known of it."""
    source, expression = next(iter(question.sources.items()))
    learner = question.learner(ElasticNet.name)
    model = learner.fit(expression.design(), question.response.values, question.plan.whole)
    if not isinstance(model, LinearModel):  # pragma: no cover  # an elastic net is one
        msg = f"expected a linear model, found {type(model).__name__}"
        raise TypeError(msg)
    card = {
        "trained_on": settings.cohort.name,
        "patients": patient_marks(cohort.patients),
        "response": record["response"],
        "expression": source,
        "chosen": model.chosen,
        "cross_validated": record["models"][f"{ElasticNet.name}, {source}"]["figures"],
        "research_use": names.UNTESTED_CLINICALLY,
    }
    return TransferModel.of(model, expression, higher=settings.direction, card=card)


def _pictures(found: Answer, stable: Mapping[str, Stability]) -> dict[str, response_plots.Drawing]:
    """Return the pictures by the name of their files."""
    question = found.question
    y, metric = question.response.values, PRIMARY[question.kind]
    labels = list(found.candidates)
    figures = {label: found.figures[label][metric] for label in labels}
    drawn = {
        "figures": response_plots.forest(
            {label: (figure.value, figure.ci) for label, figure in figures.items()},
            metric=metric,
            chance=CHANCE[question.kind],
        )
    }
    shown = {label: found.nested[label].prediction for label in labels if found.candidates[label].role == "expression"}
    if question.kind == "binary":
        drawn["roc"] = response_plots.roc(y, shown)
    else:
        label = next(iter(shown))
        drawn["predictions"] = response_plots.scatter(y, shown[label], fold=question.plan.fold_of, label=label)
    for label, values in found.null.items():
        if label in shown:
            slug = "null" if "null" not in drawn else f"null_{len([n for n in drawn if n.startswith('null')]) + 1}"
            drawn[slug] = response_plots.null(values, figures[label].value, metric=metric, label=label)
    for label, of in list(stable.items())[:1]:
        order = of.order[:SHOWN_COEFFICIENTS]
        drawn["coefficients"] = response_plots.coefficients(
            [of.names[k] for k in order], of.mean[order], of.sd[order], label=label
        )
    return drawn


def _why_keep(folder: Path) -> str | None:
    """Only an earlier analysis may be replaced."""
    there = (folder / names.DRUG_RESPONSE_JSON).is_file() or not any(folder.iterdir())
    return None if there else f"no {names.DRUG_RESPONSE_JSON} in it"


def _why_keep_model(folder: Path) -> str | None:
    there = (folder / names.MODEL_JSON).is_file() or not any(folder.iterdir())
    return None if there else f"no {names.MODEL_JSON} in it"
