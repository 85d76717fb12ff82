"""Everything that is said of one model, from the risks of patients whom it has not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.calibration import calibration, calibration_slope
from stimage_qupath.clinical.fold_model import FoldModel
from stimage_qupath.clinical.groups import risk_groups
from stimage_qupath.clinical.kaplan_meier import SurvivalCurve
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.survival_metrics import (
    Figure,
    PatientResamples,
    auc_weights,
    censoring_curve,
    harrell_weights,
    uno_weights,
)
from stimage_qupath.clinical.survival_problem import OutOfFold

Float = NDArray[np.float64]
Index = NDArray[np.intp]

LEAST_UNCENSORED: Final = 0.1
"""Uno's C looks at times until which so many patients are followed."""


@dataclass(frozen=True, slots=True)
class Judge:
    """The same patients, folds, resamples and horizons for every model.

    Attributes
    ----------
    outcome
        Of all patients.
    resamples
        Patients of each fold, and how often each is drawn.
    horizons
        Times at which survival is asked for; the one in the middle is calibrated at.
    censoring
        Of each fold, from the patients outside it.
    """

    outcome: Outcome
    resamples: PatientResamples
    horizons: tuple[float, ...]
    censoring: tuple[SurvivalCurve, ...]

    @classmethod
    def of(
        cls, outcome: Outcome, folds: Sequence[Index], *, horizons: Sequence[float], replicates: int, seed: int
    ) -> Judge:
        """Prepare for models with these test folds; empty ``horizons``: the quartiles of event times."""
        if not horizons:
            horizons = np.unique(np.quantile(outcome.time[outcome.event], [0.25, 0.5, 0.75])).tolist()
        everyone = np.arange(len(outcome))
        outside = [np.setdiff1d(everyone, rows) if len(folds) > 1 else rows for rows in folds]
        return cls(
            outcome=outcome,
            resamples=PatientResamples.draw(folds, replicates=replicates, seed=seed),
            horizons=tuple(float(h) for h in horizons),
            censoring=tuple(censoring_curve(outcome.take(rows)) for rows in outside),
        )

    @property
    def calibrated_at(self) -> float:
        """The horizon in the middle."""
        return self.horizons[len(self.horizons) // 2]

    def c(self, risk: Float) -> Figure:
        """Return Harrell's C within folds, averaged."""
        return self.resamples.figure([harrell_weights(self.outcome.take(rows)) for rows in self.resamples.rows], risk)

    def uno_c(self, risk: Float) -> Figure:
        """Return Uno's C, likewise."""
        weights = []
        for rows, censoring in zip(self.resamples.rows, self.censoring, strict=True):
            followed = censoring.time[censoring.share >= LEAST_UNCENSORED]
            all_followed = not len(censoring.time) or len(followed) == len(censoring.time)
            tau = np.inf if all_followed else float(followed.max(initial=0.0))
            weights.append(uno_weights(self.outcome.take(rows), censoring, tau))
        return self.resamples.figure(weights, risk)

    def auc(self, risk: Float, horizon: float) -> Figure:
        """Return the AUC at a horizon, likewise."""
        weights = [
            auc_weights(self.outcome.take(rows), censoring, horizon)
            for rows, censoring in zip(self.resamples.rows, self.censoring, strict=True)
        ]
        return self.resamples.figure(weights, risk)

    def of_model(self, result: OutOfFold) -> dict[str, Any]:
        """Return the figures of a model, as JSON has them."""
        found: dict[str, Any] = {
            "c": self.c(result.risk).to_dict(),
            "uno_c": self.uno_c(result.risk).to_dict(),
            "auc": [{"horizon": h, **self.auc(result.risk, h).to_dict()} for h in self.horizons],
            "groups": risk_groups(self.outcome, result.high),
            "calibration": None,
            "calibration_slope": None,
            "choices": None,
        }
        if result.models:
            found |= self.calibrated(result.linear_predictor, list(zip(result.tests, result.models, strict=True)))
        return found

    def calibrated(self, linear_predictor: Float, models: Sequence[tuple[Index, FoldModel]]) -> dict[str, Any]:
        """Return how far predicted survival at the middle horizon, and hazard ratios, are right.

        Parameters
        ----------
        linear_predictor
            (patient,) by the model that judges the patient.
        models
            The models, each with the rows that it judges.
        """
        survival = np.zeros(len(self.outcome))
        for rows, model in models:
            survival[rows] = model.survival(linear_predictor[rows], self.outcome.strata[rows], self.calibrated_at)
        return {
            "calibration": calibration(self.outcome, survival, self.calibrated_at),
            "calibration_slope": calibration_slope(self.outcome, linear_predictor, [rows for rows, _ in models]),
        }


def choices(models: Sequence[FoldModel], feature_names: Sequence[str], *, most: int = 30) -> dict[str, Any]:
    """Return what each fold chose, and the features chosen by most folds with the sign of their coefficients.

    Parameters
    ----------
    models
        One a fold.
    feature_names
        Of the features.
    most
        Features listed.
    """
    counts: Counter[int] = Counter()
    coefs: dict[int, list[float]] = {}
    for model in models:
        for feature, coef in zip(model.features.tolist(), model.coef[len(model.covariates) :].tolist(), strict=True):
            counts[feature] += 1
            coefs.setdefault(feature, []).append(coef)
    order = sorted(counts, key=lambda f: (-counts[f], -abs(float(np.mean(coefs[f])))))[:most]
    return {
        "folds": [
            {"kept": len(m.features), "tuning": m.tuning, "cut": m.cut, "cut_quantile": m.cut_quantile} for m in models
        ],
        "features": [
            {
                "name": feature_names[f],
                "folds": counts[f],
                "mean_coef": float(np.mean(coefs[f])),
                "same_sign": len(set(np.sign(coefs[f]).tolist())) == 1,
            }
            for f in order
        ],
    }
