"""A saved response model applied to a cohort; if the cohort's response is known, how well that went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.clinical.drug_metrics import CHANCE, METRICS, PRIMARY, Figure, resample_patients
from stimage_qupath.clinical.drug_nested import permutation_p
from stimage_qupath.clinical.response import Response
from stimage_qupath.clinical.response_checkpoint import load_model
from stimage_qupath.clinical.transfer import TransferModel, Transferred, transfer
from stimage_qupath.config.drug_response import DrugResponseSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.pipeline.drug_cohort import EXPRESSION, DrugCohort, patient_marks, read_cohort
from stimage_qupath.report import response_plots

Float = NDArray[np.float64]

ALIGNED_WITHOUT_OUTCOMES = "Genes were aligned to the training cohort by expression alone; no outcome was looked at."


def apply(settings: DrugResponseSettings, folder: Path) -> tuple[dict[str, Any], dict[str, response_plots.Drawing]]:
    """Predict a cohort, write ``predictions.csv`` and return record and pictures.

    Raises
    ------
    UnknownModelError
        ``--transfer`` is no saved model.
    UsageError
        The cohort cannot be used with it.
    """
    path = settings.transfer
    if path is None:  # pragma: no cover  # the flow asks only with a model
        msg = "expected a saved model, found none"
        raise ValueError(msg)
    model = load_model(path)
    if settings.transform not in ("none", model.transform):
        msg = f"expected the model's transform {model.transform}, found {settings.transform}; leave out --transform"
        raise UsageError(msg)
    cohort = read_cohort(settings, transform=model.transform)
    # Every patient takes part in the alignment, whether or not a response is known: nothing here depends on one.
    found = transfer(
        model, cohort.sources[EXPRESSION], method=settings.align, draws=settings.draws, seed=settings.seed + 2
    )
    response = cohort.response
    table = {"patient": cohort.patients, "prediction": found.prediction}
    if found.sd is not None:
        table["prediction_sd"] = found.sd
    if response is not None:
        table["response"] = response.values
    with output_errors(folder):
        pd.DataFrame(table).to_csv(folder / names.PREDICTIONS_CSV, index=False)
    record = _record(settings, path, model, cohort, found)
    if response is None:
        return record, {}
    scored = _Scored.of(settings, model, cohort, response, found)
    record |= {"figures": scored.figures, "primary": scored.metric, "chance": CHANCE[response.kind]}
    return record, scored.pictures


def _record(
    settings: DrugResponseSettings, path: Path, model: TransferModel, cohort: DrugCohort, found: Transferred
) -> dict[str, Any]:
    missing = len(model.reference.genes) - len(found.genes)
    warnings = list(cohort.notes)
    if missing:
        warnings.append(
            f"{missing} of {len(model.reference.genes)} genes of the model are not in the cohort and count as average; "
            f"the others hold {found.weight:.0%} of its weight."
        )
    seen = len(set(patient_marks(cohort.patients)) & set(model.card.get("patients", [])))
    if seen:
        warnings.append(
            f"{seen} patients bear identifiers of training patients; if they are the same, no figure here is of unseen "
            "patients."
        )
    card = {name: value for name, value in model.card.items() if name != "patients"}
    return {
        "mode": "transfer",
        "model": {"folder": path.name, "kind": model.kind, "higher": model.higher, "card": card},
        "patients": len(cohort.patients),
        "genes": {"model": len(model.reference.genes), "in_common": len(found.genes), "weight": found.weight},
        "alignment": {"method": settings.align, "note": ALIGNED_WITHOUT_OUTCOMES},
        "response": None if cohort.response is None else _about(settings, cohort.response),
        "warnings": warnings,
    }


def _about(settings: DrugResponseSettings, response: Response) -> dict[str, Any]:
    known = response.values[response.known]
    return {
        "column": settings.response,
        "kind": response.kind,
        "rule": response.rule,
        "patients": len(known),
        "responders": int(known.sum()) if response.kind == "binary" else None,
    }


class _Scored:
    """How well predictions agree with the known responses of a cohort; nothing is fitted to them."""

    def __init__(self, metric: str, figures: dict[str, Any], pictures: dict[str, response_plots.Drawing]) -> None:
        self.metric, self.figures, self.pictures = metric, figures, pictures

    @classmethod
    def of(
        cls,
        settings: DrugResponseSettings,
        model: TransferModel,
        cohort: DrugCohort,
        response: Response,
        found: Transferred,
    ) -> _Scored:
        """Score; a prediction of resistance is turned round where the response is one of sensitivity."""
        response.require_enough(1)
        known = np.flatnonzero(response.known)
        y = response.values[known]
        sign = 1.0 if model.higher == settings.direction else -1.0
        score = sign * found.prediction[known]
        group = np.unique(cohort.groups[known].astype(str), return_inverse=True)[1]
        weights = resample_patients(
            group, np.zeros(len(y), dtype=np.intp), replicates=settings.replicates, seed=settings.seed
        )
        metrics = METRICS[response.kind]
        primary = PRIMARY[response.kind]
        figures: dict[str, Any] = {
            name: Figure.of(metric(y, score, weights)).to_dict() for name, metric in metrics.items()
        }
        one = np.ones((1, len(y)))
        if settings.permutations:
            rng = np.random.default_rng(settings.seed + 1)
            null = [float(metrics[primary](rng.permutation(y), score, one)[0]) for _ in range(settings.permutations)]
            p = permutation_p(figures[primary]["value"], null)
            figures[primary] |= {"p": p, "permutations": len(null)}
        if found.draws is not None:
            over = [float(metrics[primary](y, sign * draw[known], one)[0]) for draw in found.draws]
            figures[primary]["band"] = np.percentile(over, [2.5, 97.5]).tolist()
        label = f"transferred, {'turned round' if sign < 0 else 'as predicted'}"
        if response.kind == "binary":
            return cls(primary, figures, {"roc": response_plots.roc(y, {label: score})})
        fold = np.zeros(len(y), dtype=np.intp)
        return cls(primary, figures, {"predictions": response_plots.scatter(y, score, fold=fold, label=label)})
