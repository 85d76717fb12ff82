"""Nested cross-validation of a response: whatever is learned for a fold is learned without its test patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.design_matrix import Design
from stimage_qupath.clinical.drug_metrics import METRICS, PRIMARY, within_folds
from stimage_qupath.clinical.folds import Fold, grouped_folds
from stimage_qupath.clinical.response import Kind
from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Index = NDArray[np.intp]

INNER_FOLDS = 5


class Model(Protocol):
    """A fitted model."""

    def __call__(self, values: Float) -> Float:
        """Return probabilities of response, or predicted values, (patient,), from (patient, column)."""

    @property
    def chosen(self) -> dict[str, Any]:
        """What was chosen on inner folds."""


class Learner(Protocol):
    """A way of fitting models that chooses its own settings on inner folds."""

    @property
    def kind(self) -> Kind:
        """Of the response."""

    def fit(self, design: Design, y: Float, folds: Sequence[Fold]) -> Model:
        """Return the model of some patients."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is tested when, and the inner folds of everyone else.

    Attributes
    ----------
    groups
        (patient,) number of the group that stays together.
    folds
        Outer folds.
    inner
        For each outer fold the folds of its training patients, numbered within them.
    whole
        Inner folds of all patients, for the model that is kept.
    """

    groups: Index
    folds: tuple[Fold, ...]
    inner: tuple[tuple[Fold, ...], ...]
    whole: tuple[Fold, ...]

    @classmethod
    def make(cls, groups: NDArray[Any], strata: Index, *, folds: int, seed: int, classes: bool) -> Plan:
        """Deal the patients.

        Parameters
        ----------
        groups, strata
            (patient,) labels that stay together, and what is spread evenly.
        folds
            Outer folds.
        seed
            Of the shuffles.
        classes
            Whether strata are classes that every fold needs on both sides.

        Raises
        ------
        UsageError
            Too few groups, or a fold that lacks a class.
        """
        outer = tuple(grouped_folds(groups, folds, seed=seed, stratify=strata))
        numbers = count(seed + 1)
        inner = [_inner(groups[fold.train], strata[fold.train], next(numbers)) for fold in outer]
        whole = _inner(groups, strata, next(numbers))
        if classes:
            for fold, within in zip(outer, inner, strict=True):
                _require_classes(strata, [fold.test, *(fold.train[f.train] for f in within)])
            _require_classes(strata, [f.train for f in whole])
        return cls(np.unique(groups.astype(str), return_inverse=True)[1], outer, tuple(inner), whole)

    @property
    def fold_of(self) -> Index:
        """Number of the outer fold that tests each patient, (patient,)."""
        found = np.empty(len(self.groups), dtype=np.intp)
        for number, fold in enumerate(self.folds):
            found[fold.test] = number
        return found


@dataclass(frozen=True, slots=True)
class Nested:
    """Out-of-fold predictions and the models they come from.

    Attributes
    ----------
    prediction
        (patient,) by the model that has not seen the patient.
    models
        One an outer fold.
    """

    prediction: Float
    models: tuple[Model, ...]


def cross_validate(learner: Learner, design: Design, y: Float, plan: Plan) -> Nested:
    """Predict every patient by a model that has not seen the patient's group.

    Parameters
    ----------
    learner
        Fits, and chooses on inner folds.
    design
        (patient, column).
    y
        (patient,).
    plan
        Folds.
    """
    prediction, models = np.full(len(y), np.nan), []
    for fold, inner in zip(plan.folds, plan.inner, strict=True):
        model = learner.fit(design.take(fold.train), y[fold.train], inner)
        prediction[fold.test] = model(design.values[fold.test])
        models.append(model)
    return Nested(prediction, tuple(models))


def statistic(kind: Kind, y: Float, prediction: Float, plan: Plan, metric: str | None = None) -> float:
    """Return a metric (None: the primary one of the kind) within folds, averaged."""
    of = METRICS[kind][metric or PRIMARY[kind]]
    return float(within_folds(of, y, prediction, plan.fold_of, np.ones((1, len(y))))[0])


def exchanges(plan: Plan, y: Float, *, permutations: int, seed: int) -> Iterator[Index]:
    """Yield whose expression each patient gets under the null, (patient,).

    Expression is exchanged between patients, responses and covariates stay, so that folds that are balanced by
    response, and whatever covariates say, are the same under the null. Groups of one: between all. Several patients a
    group with one response each group: between whole groups of one size. Otherwise (sites, tissues): within groups, so
    that what groups share does not count as signal.

    Parameters
    ----------
    plan, y
        Groups, and (patient,) responses.
    permutations, seed
        How many, and of which seed.
    """
    rng = np.random.default_rng(seed)
    _, first, size = np.unique(plan.groups, return_index=True, return_counts=True)
    members = [np.flatnonzero(plan.groups == g) for g in range(len(first))]
    for _ in range(permutations):
        source = np.arange(len(y))
        if all(np.ptp(y[rows]) == 0 for rows in members):
            for of in np.unique(size):
                alike = np.flatnonzero(size == of)
                for to, at in zip(alike, rng.permutation(alike), strict=True):
                    source[members[to]] = members[at]
        else:
            for rows in members:
                source[rows] = rng.permutation(rows)
        yield source


def permutation_p(observed: float, null: Sequence[float]) -> float:
    """Return ``(b + 1) / (B + 1)``, ``b`` of ``B`` null figures being no smaller (Phipson and Smyth 2010)."""
    return (1 + int((np.asarray(null) >= observed - 1e-12).sum())) / (1 + len(null))


def _inner(groups: NDArray[Any], strata: Index, seed: int) -> tuple[Fold, ...]:
    number = min(INNER_FOLDS, len(np.unique(groups.astype(str))))
    if number < 2:
        msg = (
            "expected at least two groups to train on in every fold, found one, so that settings cannot be chosen; ask "
            "for more --folds or another --group"
        )
        raise UsageError(msg)
    return tuple(grouped_folds(groups, number, seed=seed, stratify=strata))


def _require_classes(strata: Index, parts: Sequence[Index]) -> None:
    if any(len(np.unique(strata[rows])) < 2 for rows in parts):
        msg = (
            "expected responders and others in every fold, found a fold that lacks one of them because groups stay "
            "together; ask for fewer --folds or another --group"
        )
        raise UsageError(msg)
