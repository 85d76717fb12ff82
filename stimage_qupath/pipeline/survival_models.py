"""The models of a survival analysis, predicted and measured, and what needs no expression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.cross_validation import cross_validate
from stimage_qupath.clinical.gain import out_of_fold_gain
from stimage_qupath.clinical.gene_filter import FeatureTable
from stimage_qupath.clinical.judgement import Judge, choices
from stimage_qupath.clinical.kaplan_meier import log_rank_p
from stimage_qupath.clinical.nested import fit_all, nested_cv, outer_folds
from stimage_qupath.clinical.permutation import Trial
from stimage_qupath.clinical.predictive_band import predictive_band
from stimage_qupath.clinical.proportional import proportional_hazards
from stimage_qupath.clinical.survival_problem import NestedSettings, OutOfFold, Problem
from stimage_qupath.config.survival import SurvivalSettings
from stimage_qupath.pipeline.survival_cohort import SurvivalCohort

Float = NDArray[np.float64]

COVARIATES: Final = "covariates"
EXPRESSION: Final = "expression"
MEASURED: Final = "measured expression"
BOTH: Final = f"{EXPRESSION} + {COVARIATES}"
MEASURED_BOTH: Final = f"{MEASURED} + {COVARIATES}"
L1_RATIO: Final = 0.5
"""Of the elastic net."""


def with_genes(models: Iterable[str]) -> list[str]:
    """Return the names of models with expression."""
    return [name for name in models if EXPRESSION in name]


@dataclass(frozen=True, slots=True)
class Analysis:
    """A cohort, its models, and the judge of all of them.

    Attributes
    ----------
    cohort
        The patients.
    trial
        The models, which of them are compared, and how they are fitted.
    judge
        With the folds that all models share.
    """

    cohort: SurvivalCohort
    trial: Trial
    judge: Judge

    @classmethod
    def of(cls, cohort: SurvivalCohort, settings: SurvivalSettings) -> Self:
        """Set up the models; nothing is fitted yet."""
        nested = NestedSettings(
            folds=settings.folds,
            inner_folds=settings.inner_folds,
            l1_ratio=L1_RATIO if settings.penalty == "elastic-net" else 0.0,
            model=settings.model,
            seed=settings.seed,
        )
        models, gains = _models(cohort)
        folds = outer_folds(cohort.groups, cohort.outcome, nested)
        judge = Judge.of(
            cohort.outcome,
            [fold.test for fold in folds],
            horizons=settings.horizons,
            replicates=settings.replicates,
            seed=settings.seed,
        )
        return cls(cohort, Trial(models, gains, nested), judge)

    def fit(self, name: str) -> OutOfFold:
        """Return the out-of-fold risks of a model."""
        return cross_validate(self.trial.models[name], self.trial.settings)

    def gain(self, base: OutOfFold, full: OutOfFold) -> dict[str, float]:
        """Return what one model adds to another."""
        return out_of_fold_gain(self.cohort.outcome, base, full)

    def figures(self, name: str, result: OutOfFold) -> dict[str, Any]:
        """Return what is said of a model before any null."""
        found = self.judge.of_model(result)
        found["band"] = None
        if EXPRESSION in name and result.models:
            features = self.cohort.measured if MEASURED in name else self.cohort.features
            found["choices"] = choices(result.models, () if features is None else features.names)
        found["proportional_hazards_p"] = proportional_hazards(
            self.cohort.outcome, {"risk": result.risk}, result.fold_of
        )
        return found

    def measured_less_predicted(self, results: Mapping[str, OutOfFold]) -> dict[str, Any] | None:
        """Return the paired differences of C between measured and predicted expression; None without the former."""
        pairs = {EXPRESSION: MEASURED, BOTH: MEASURED_BOTH}
        found = {
            predicted: self.judge.c(results[measured].risk).minus(self.judge.c(results[predicted].risk)).to_dict()
            for predicted, measured in pairs.items()
            if measured in results
        }
        return found or None

    def warnings(self, results: Mapping[str, OutOfFold]) -> list[str]:
        """Return what a reader must know of the figures."""
        found = []
        least = min(int(self.cohort.outcome.event[rows].sum()) for rows in self.judge.resamples.rows)
        if least < 5:
            found.append(f"A test fold holds only {least} events; fewer folds would make each figure steadier.")
        if self.trial.settings.model == "forest":
            found.append("A forest gives no hazard ratios: calibration, bands and an external model are left out.")
        silent = [name for name in with_genes(results) if not np.ptp(results[name].risk)]
        found += [f"{name} tells no patients apart: no feature passed the filter." for name in silent]
        return found


def _models(cohort: SurvivalCohort) -> tuple[dict[str, Problem], dict[str, str]]:
    covariates = FeatureTable.of(cohort.covariates) if cohort.covariates.shape[1] else None
    predicted = FeatureTable.of(cohort.features.mean)
    models = {EXPRESSION: Problem(predicted, None, cohort.groups, cohort.outcome)}
    gains = {}
    if covariates is not None:
        alone = Problem(None, covariates, cohort.groups, cohort.outcome)
        models = {COVARIATES: alone, **models, BOTH: replace(alone, genes=predicted)}
        gains[BOTH] = COVARIATES
    if cohort.measured is not None:
        measured = FeatureTable.of(cohort.measured.mean)
        models[MEASURED] = replace(models[EXPRESSION], genes=measured)
        if covariates is not None:
            models[MEASURED_BOTH] = replace(models[BOTH], genes=measured)
            gains[MEASURED_BOTH] = COVARIATES
    return models, gains


def bands(
    analysis: Analysis, results: Mapping[str, OutOfFold], settings: SurvivalSettings
) -> dict[str, dict[str, Any]]:
    """Return the bands of the models of predicted expression, where its uncertainty is known."""
    cohort = analysis.cohort
    if cohort.features.sd is None:
        return {}
    found = {}
    for name in (EXPRESSION, BOTH):
        if name in results and results[name].models:
            found[name] = predictive_band(
                cohort.outcome,
                results[name],
                mean=cohort.features.mean,
                sd=cohort.features.sd,
                covariates=cohort.covariates,
                draws=settings.draws,
                seed=settings.seed,
            )
    return found


def baselines(analysis: Analysis, results: Mapping[str, OutOfFold]) -> dict[str, Any]:
    """Return the C of what needs no expression: the site alone, and the stratum alone, each by folds of patients.

    A site's own baseline needs patients of the site in training, so its folds are by patient whatever the others are
    by. The stratum's compares patients of different strata, which no other figure here does.
    """
    cohort = analysis.cohort
    outcome = cohort.outcome.unstratified()
    found = {}
    labels: dict[str, NDArray[Any]] = {}
    if cohort.site is not None:
        labels["site alone"] = cohort.site.astype(str)
    if cohort.strata_names:
        labels["stratum alone"] = cohort.outcome.strata
    for name, values in labels.items():
        columns = (values[:, None] == np.unique(values)).astype(np.float64)
        problem = Problem(FeatureTable.of(columns), None, cohort.patients, outcome)
        result = nested_cv(problem, replace(analysis.trial.settings, model="cox", l1_ratio=0.0))
        judge = Judge.of(
            outcome,
            result.tests,
            horizons=analysis.judge.horizons,
            replicates=len(analysis.judge.resamples.times[0]) - 1,
            seed=analysis.trial.settings.seed,
        )
        found[name] = {"c": judge.c(result.risk).to_dict(), "folds_by": "patient", "within_strata": False}
    return found


def external_figures(analysis: Analysis, external: SurvivalCohort, settings: SurvivalSettings) -> dict[str, Any]:
    """Return the figures of models fitted on all of the cohort, on patients of another that were never looked at."""
    judge = Judge.of(
        external.outcome,
        [np.arange(len(external.outcome))],
        horizons=analysis.judge.horizons,
        replicates=settings.replicates,
        seed=settings.seed,
    )
    models = {}
    for name, problem in analysis.trial.models.items():
        if MEASURED in name:
            continue
        model = fit_all(problem, analysis.trial.settings)
        covariates = external.covariates if problem.covariates is not None else np.zeros((len(external.outcome), 0))
        eta = model.linear_predictor(external.features.mean, covariates)
        risk = model.risk(eta)
        everyone = np.arange(len(risk))
        result = OutOfFold((), risk, risk > model.cut, eta, ())
        figures = judge.of_model(result)
        figures |= judge.calibrated(eta, [(everyone, model)])
        # the groups were fixed before these patients were seen, so that chi-squared holds
        figures["log_rank_p"] = log_rank_p(figures["groups"]["log_rank_chi2"])
        models[name] = figures
    file = "" if settings.external is None else settings.external.name
    about = {"file": file, "patients": len(external.outcome), "events": external.outcome.events}
    return {**about, "models": models, "warnings": list(external.notes)}
