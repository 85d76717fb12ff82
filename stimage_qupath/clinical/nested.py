"""Nested cross-validation of a penalised Cox model: nothing that is judged was seen, and nothing was chosen on it.

For each outer fold, on its training patients alone: features are standardised and ranked by their score test beside the
covariates; the number kept and the penalty are those with the highest cross-validated partial likelihood over inner
folds (Verweij and van Houwelingen 1993, Stat. Med. 12); the cut-point between low and high risk is the quantile of the
inner folds' held-out risks with the largest log-rank statistic. The model is then fitted to all training patients, and
gives each test patient a risk in units of the training patients' mean and SD.

The same function serves the data and every permutation of them: it costs a few matrix products and short Newton
iterations, see :mod:`~stimage_qupath.clinical.gene_filter` and :mod:`~stimage_qupath.clinical.cox`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.cox import fit_cox, fit_path
from stimage_qupath.clinical.elastic_net_cox import fit_elastic_net
from stimage_qupath.clinical.fold_model import FoldModel, Scaling
from stimage_qupath.clinical.folds import Fold, grouped_folds
from stimage_qupath.clinical.gene_filter import strongest
from stimage_qupath.clinical.kaplan_meier import log_rank
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.risk_sets import RiskSets
from stimage_qupath.clinical.survival_problem import NestedSettings, OutOfFold, Problem
from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Index = NDArray[np.intp]

COVARIATE_PENALTY: Final = 0.1
"""Of standardised covariates: no more than a tenth of an event's worth, but a rare category cannot run away."""
LEAST_FOLD_EVENTS: Final = 3
"""Events that every set of training patients must hold."""


def nested_cv(problem: Problem, settings: NestedSettings) -> OutOfFold:
    """Return out-of-fold risks.

    Raises
    ------
    UsageError
        Fewer groups than folds, or a training set with under :data:`LEAST_FOLD_EVENTS` events.
    """
    outcome = problem.outcome
    folds = outer_folds(problem.groups, outcome, settings)
    inner = [inner_folds(problem, fold.train, settings, number) for number, fold in enumerate(folds)]
    rows = [fold.train for fold in folds]
    rows += [fold.train[part.train] for fold, parts in zip(folds, inner, strict=True) for part in parts]
    subsets = subsets_of(problem, rows, settings)
    risk, eta = np.zeros(len(outcome)), np.zeros(len(outcome))
    high = np.zeros(len(outcome), dtype=bool)
    models, place = [], len(folds)
    for fold, parts, whole in zip(folds, inner, subsets, strict=False):
        model, coef = _fit_fold(problem, whole, parts, subsets[place : place + len(parts)], settings)
        place += len(parts)
        eta[fold.test] = whole.columns(problem, fold.test)[:, : len(coef)] @ coef - model.centre
        risk[fold.test] = model.risk(eta[fold.test])
        high[fold.test] = risk[fold.test] > model.cut
        models.append(model)
    return OutOfFold(tuple(folds), risk, high, eta, tuple(models))


def fit_all(problem: Problem, settings: NestedSettings) -> FoldModel:
    """Return the model of all patients, chosen over folds of theirs: what an external cohort is judged with."""
    everyone = np.arange(len(problem.outcome))
    parts = inner_folds(problem, everyone, settings, settings.folds)
    subsets = subsets_of(problem, [everyone, *(part.train for part in parts)], settings)
    return _fit_fold(problem, subsets[0], parts, subsets[1:], settings)[0]


def outer_folds(groups: NDArray[Any], outcome: Outcome, settings: NestedSettings) -> list[Fold]:
    """Return the folds that patients are judged in, equal for equal groups, outcomes and seeds."""
    return grouped_folds(groups, settings.folds, seed=settings.seed, stratify=outcome.event)


def inner_folds(problem: Problem, rows: Index, settings: NestedSettings, number: int) -> list[Fold]:
    """Return folds of training patients, as positions in ``rows``; fewer where there are fewer groups."""
    groups = problem.groups[rows]
    parts = min(settings.inner_folds, len(np.unique(groups)))
    return grouped_folds(groups, parts, seed=settings.seed + 1 + number, stratify=problem.outcome.event[rows])


@dataclass(frozen=True, slots=True)
class Subset:
    """Training patients, scaled and ranked on themselves alone.

    Attributes
    ----------
    rows
        Which patients.
    sets
        Who of them is at risk when.
    scaling
        Mean and SD of every column among them.
    ranked
        Features, the one with the highest score first.
    start
        Coefficients of the covariates alone.
    """

    rows: Index
    sets: RiskSets
    scaling: Scaling
    ranked: Index
    start: Float

    def columns(self, problem: Problem, rows: Index) -> Float:
        """Return covariates and ranked features of patients, scaled as in this subset."""
        return self.scaling.columns(problem.genes, problem.covariates, self.ranked, rows)


def subsets_of(problem: Problem, rows: Sequence[Index], settings: NestedSettings) -> list[Subset]:
    """Return training sets, scaled and ranked, all in the same few matrix products.

    Raises
    ------
    UsageError
        One holds under :data:`LEAST_FOLD_EVENTS` events.
    """
    members = np.zeros((len(rows), len(problem.outcome)))
    for number, some in enumerate(rows):
        members[number, some] = 1
    scalings = Scaling.of_subsets(problem.genes, problem.covariates, members)
    residuals = np.zeros_like(members)
    sets, starts = [], []
    nothing = np.zeros(0, dtype=np.intp)
    for number, (some, scaling) in enumerate(zip(rows, scalings, strict=True)):
        at_risk = problem.outcome.sets(some, settings.ties)
        if at_risk.events < LEAST_FOLD_EVENTS:
            msg = (
                f"expected at least {LEAST_FOLD_EVENTS} events among the patients of every fold's training set, found "
                f"{at_risk.events}; take fewer folds (--folds) or give more patients"
            )
            raise UsageError(msg)
        x = scaling.columns(problem.genes, problem.covariates, nothing, some)
        start = fit_cox(x, at_risk, penalty=COVARIATE_PENALTY).coef if x.shape[1] else np.zeros(0)
        residuals[number, some] = at_risk.likelihood((x @ start)[:, None]).residuals[:, 0]
        sets.append(at_risk)
        starts.append(start)
    ranked = [nothing] * len(rows)
    if problem.genes is not None:
        mean = np.stack([s.gene_mean for s in scalings])
        sd = np.stack([s.gene_sd for s in scalings])
        scores = problem.genes.scores(residuals, mean, sd)
        ranked = [strongest(score, max(settings.kept)) for score in scores]
    return [Subset(*parts) for parts in zip(rows, sets, scalings, ranked, starts, strict=True)]


def _fit_fold(
    problem: Problem, whole: Subset, parts: Sequence[Fold], subsets: Sequence[Subset], settings: NestedSettings
) -> tuple[FoldModel, Float]:
    """Choose on the inner folds, fit on the whole training set; the coefficients are of the subset's first columns."""
    kept = sorted({min(k, len(whole.ranked)) for k in settings.kept})
    models = len(settings.spreads if settings.l1_ratio == 0 else settings.fractions) if kept[-1] else 1
    criterion = np.zeros((len(kept), models))
    held_out = np.zeros((len(kept), models, len(whole.rows)))
    for part, subset in zip(parts, subsets, strict=True):
        x = subset.columns(problem, whole.rows)
        for number, k in enumerate(kept):
            columns = x[:, : len(subset.start) + k]
            eta = columns @ _path(columns[part.train], subset, settings)
            inside = eta[part.train]
            criterion[number] += whole.sets.likelihood(eta).value - subset.sets.likelihood(inside).value
            spread = inside.std(axis=0)
            scaled = (eta[part.test] - inside.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
            held_out[number][:, part.test] = scaled.T
    best = np.unravel_index(int(np.argmax(criterion)), criterion.shape)
    cut, quantile = cut_point(problem.outcome.take(whole.rows), held_out[best], settings)
    k = kept[int(best[0])]
    x = whole.columns(problem, whole.rows)[:, : len(whole.start) + k]
    coef = _path(x, whole, settings)[:, int(best[1])]
    model = FoldModel.of(
        coef=coef,
        eta=x @ coef,
        sets=whole.sets,
        scaling=whole.scaling.kept(whole.ranked[:k], problem.genes, problem.covariates),
        features=whole.ranked[:k],
        covariates=whole.scaling.used_covariates,
        tuning=_tuning(settings, int(best[1])) if k else None,
        cut=cut,
        cut_quantile=quantile,
    )
    return model, coef


def _path(x: Float, subset: Subset, settings: NestedSettings) -> Float:
    """Return coefficients under each penalty, (column, model); covariates come first."""
    fixed = len(subset.start)
    k = x.shape[1] - fixed
    if k == 0:
        return subset.start[:, None]
    start = np.concatenate([subset.start, np.zeros(k)])
    if settings.l1_ratio == 0:
        ridges = k / np.square(settings.spreads)
        return fit_path(x, subset.sets, ridges=ridges, fixed=fixed, fixed_penalty=COVARIATE_PENALTY, start=start)
    ratio = np.where(np.arange(x.shape[1]) < fixed, 0.0, settings.l1_ratio)
    slope = np.abs(x.T @ subset.sets.likelihood((x @ start)[:, None]).residuals[:, 0])[fixed:]
    coefs = []
    for fraction in settings.fractions:
        penalty = np.where(ratio > 0, fraction * slope.max() / settings.l1_ratio, COVARIATE_PENALTY)
        start = fit_elastic_net(x, subset.sets, penalty=penalty, l1_ratio=ratio, start=start)
        coefs.append(start)
    return np.stack(coefs, axis=1)


def _tuning(settings: NestedSettings, model: int) -> float:
    return settings.spreads[model] if settings.l1_ratio == 0 else settings.fractions[model]


def cut_point(outcome: Outcome, held_out: Float, settings: NestedSettings) -> tuple[float, float]:
    """Return the cut-point whose groups of inner held-out patients differ most, and its quantile.

    Parameters
    ----------
    outcome
        Of the training patients.
    held_out
        (patient,) their standardised risks, each by the model of an inner fold that has not seen it.
    settings
        With the quantiles to choose from.
    """
    found = []
    for quantile in settings.cuts:
        cut = float(np.quantile(held_out, quantile))
        strata = outcome.strata if outcome.strata.any() else None
        found.append((log_rank(outcome.time, outcome.event, held_out > cut, strata=strata), cut, quantile))
    best = max(found, key=lambda one: one[0])
    return best[1], best[2]
