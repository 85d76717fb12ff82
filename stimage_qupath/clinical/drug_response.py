"""Whether expression predicts a drug response, beyond what is known of the patients anyway.

Models of expression, of covariates, and of both, on the same patients and folds, for each expression that there is
(predicted, measured); each with its out-of-fold figures, its permuted null and the band of its patients' uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.coefficient_stability import Stability
from stimage_qupath.clinical.design_matrix import encode_covariates
from stimage_qupath.clinical.drug_bands import Band, resampled
from stimage_qupath.clinical.drug_metrics import (
    CHANCE,
    METRICS,
    PRIMARY,
    Figure,
    explained,
    resample_patients,
    within_folds,
)
from stimage_qupath.clinical.drug_nested import Nested, Plan, cross_validate, permutation_p
from stimage_qupath.clinical.drug_permutation import Trial, null_figures
from stimage_qupath.clinical.drug_question import Candidate, Question, candidates
from stimage_qupath.clinical.elastic_net import ElasticNet
from stimage_qupath.clinical.linear_model import LinearModel
from stimage_qupath.clinical.response import Kind

Float = NDArray[np.float64]

STEP_MODEL: Final = "models"
STEP_NULL: Final = "permutations"
OnDone = Callable[[str, int, int], None]


@dataclass(slots=True)
class Answer:
    """What was found, a model at a time.

    Attributes
    ----------
    question
        As asked.
    candidates, nested, figures, bands, null
        Label to each.
    """

    question: Question
    candidates: dict[str, Candidate] = field(default_factory=dict)
    nested: dict[str, Nested] = field(default_factory=dict)
    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)
    bands: dict[str, Band] = field(default_factory=dict)
    null: dict[str, Float] = field(default_factory=dict)

    def lead(self, label: str, over: str) -> Figure:
        """Return the paired lead of a model's primary figure over another's."""
        name = PRIMARY[self.question.kind]
        return self.figures[label][name].minus(self.figures[over][name])

    def p(self, label: str) -> float | None:
        """Return the permutation p of a model; None where it was not permuted."""
        if label not in self.null:
            return None
        return permutation_p(self.figures[label][PRIMARY[self.question.kind]].value, list(self.null[label]))


def answer(question: Question, on_done: OnDone = lambda stage, done, total: None) -> Answer:
    """Cross-validate every model, and permute those with expression.

    Parameters
    ----------
    question
        What is asked.
    on_done
        Called with a stage, what is done of it and of how much; what it raises stops the work.
    """
    found, plan, y = Answer(question), question.plan, question.response.values
    weights = resample_patients(plan.groups, plan.fold_of, replicates=question.replicates, seed=question.seed)
    todo = candidates(question)
    for done, candidate in enumerate(todo):
        on_done(STEP_MODEL, done, len(todo))
        label = candidate.label
        nested = cross_validate(candidate.learner, candidate.design, y, plan)
        found.candidates[label], found.nested[label] = candidate, nested
        found.figures[label] = figures_of(question.kind, y, nested.prediction, plan, weights)
        band = _band(question, candidate, nested)
        if band is not None:
            found.bands[label] = band
    with_expression = {c.label: (c.learner, c.design) for c in todo if c.role != "covariates"}
    if question.permutations:
        found.null |= null_figures(
            Trial(with_expression, y, plan),
            permutations=question.permutations,
            seed=question.seed + 1,
            workers=question.workers,
            on_done=lambda done: on_done(STEP_NULL, done, question.permutations),
        )
    return found


def figures_of(kind: Kind, y: Float, prediction: Float, plan: Plan, weights: Float) -> dict[str, Figure]:
    """Return the figures of out-of-fold predictions: within folds (first, the claim), and over all patients at once.

    Parameters
    ----------
    kind
        Of the response.
    y, prediction
        (patient,).
    plan
        Folds.
    weights
        (1 + resample, patient) of :func:`~stimage_qupath.clinical.drug_metrics.resample_patients`.
    """
    found = {}
    for name, metric in METRICS[kind].items():
        found[name] = Figure.of(within_folds(metric, y, prediction, plan.fold_of, weights))
    for name, metric in METRICS[kind].items():
        found[f"{name}_all_patients"] = Figure.of(metric(y, prediction, weights))
    found["r2" if kind == "continuous" else "brier_skill"] = Figure.of(explained(y, prediction, weights))
    return found


def stability(question: Question, found: Answer) -> dict[str, Stability]:
    """Return the coefficients of the elastic nets with expression, and how far the folds agree on them."""
    stable = {}
    for label, candidate in found.candidates.items():
        if candidate.learner_name == ElasticNet.name:
            whole = candidate.learner.fit(candidate.design, question.response.values, question.plan.whole)
            stable[label] = Stability.of(
                candidate.design.names, _coefficients(whole), [_coefficients(m) for m in found.nested[label].models]
            )
    return stable


def record_of(found: Answer, label: str) -> dict[str, Any]:
    """Return what JSON holds of a model."""
    candidate, null = found.candidates[label], found.null.get(label)
    kind = found.question.kind
    record: dict[str, Any] = {
        "model": candidate.learner_name,
        "expression": candidate.source or None,
        "role": candidate.role,
        "columns": len(candidate.design.names),
        "figures": {name: figure.to_dict() for name, figure in found.figures[label].items()},
        "chosen_a_fold": [model.chosen for model in found.nested[label].models],
        "permutation": None,
        "band": found.bands[label].to_dict() if label in found.bands else None,
        "lead": {other: found.lead(label, other).to_dict() for other in _compared(found, label)},
    }
    if null is not None:
        spread = float(null.std(ddof=1)) if len(null) > 1 else None
        record["permutation"] = {
            "p": found.p(label),
            "permutations": len(null),
            "null_mean": float(null.mean()),
            "null_sd": spread,
            "chance": CHANCE[kind],
        }
    return record


def _compared(found: Answer, label: str) -> Sequence[str]:
    """Return the models that this one is held against: covariates, and itself on the other expression."""
    mine = found.candidates[label]
    if mine.role == "covariates":
        return []
    others = [name for name, c in found.candidates.items() if c.role == "covariates"]
    others += [
        name
        for name, c in found.candidates.items()
        if c.role == mine.role and c.learner_name == mine.learner_name and c.source != mine.source
    ]
    return others


def _band(question: Question, candidate: Candidate, nested: Nested) -> Band | None:
    expression = question.sources.get(candidate.source)
    if expression is None or expression.sd is None or not question.draws:
        return None
    known = encode_covariates(question.covariates) if candidate.role == "both" else None
    return resampled(
        question.kind,
        question.response.values,
        nested,
        expression,
        known,
        question.plan,
        draws=question.draws,
        seed=question.seed + 2,
    )


def _coefficients(model: Any) -> Float:
    if not isinstance(model, LinearModel):
        msg = f"expected a linear model, found {type(model).__name__}"
        raise TypeError(msg)
    return model.coefficients
