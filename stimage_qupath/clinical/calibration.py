"""Do as many patients live past a horizon as their models say? On patients those models have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.cox import fit_cox
from stimage_qupath.clinical.kaplan_meier import Z95, SurvivalCurve
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.risk_sets import RiskSets

Float = NDArray[np.float64]
Index = NDArray[np.intp]

GROUPS: Final = 4


def calibration(outcome: Outcome, predicted: Float, horizon: float) -> dict[str, Any]:
    """Return predicted and observed survival at a horizon, in quarters of the predicted.

    Parameters
    ----------
    outcome
        Of the patients.
    predicted
        (patient,) probability of no event until the horizon.
    horizon
        In the unit of time.

    Returns
    -------
    dict
        ``groups``: patients, mean predicted, and Kaplan-Meier's share with its interval; ``mean_error``: mean absolute
        difference, weighted by patients; ``overall`` the same two for all patients.
    """
    edges = np.quantile(predicted, np.linspace(0, 1, GROUPS + 1)[1:-1])
    group = np.searchsorted(edges, predicted, side="left")
    groups = [_observed(outcome, predicted, np.flatnonzero(group == g), horizon) for g in np.unique(group)]
    error = sum(g["patients"] * abs(g["predicted"] - g["observed"]) for g in groups) / len(outcome)
    overall = _observed(outcome, predicted, np.arange(len(outcome)), horizon)
    return {"horizon": horizon, "groups": groups, "overall": overall, "mean_error": float(error)}


def calibration_slope(outcome: Outcome, linear_predictor: Float, folds: Sequence[Index]) -> dict[str, Any]:
    """Return the coefficient of the out-of-fold linear predictor in a Cox model stratified by fold.

    1: hazard ratios are as large as the models say; under 1: they are overstated (van Houwelingen 2000, Stat. Med. 19).
    The interval is Wald's. None where every patient has the same linear predictor.
    """
    strata = outcome.strata * len(folds)  # a new array
    for number, rows in enumerate(folds):
        strata[rows] += number
    sets = RiskSets.of(outcome.time, outcome.event, strata=strata)
    scale = float(linear_predictor.std())
    if scale == 0:
        return {"value": None, "ci": None}
    fit = fit_cox(linear_predictor[:, None] / scale, sets, penalty=1e-9)
    value, half = float(fit.coef[0]) / scale, Z95 / float(np.sqrt(fit.information[0, 0])) / scale
    return {"value": value, "ci": [value - half, value + half]}


def _observed(outcome: Outcome, predicted: Float, rows: Index, horizon: float) -> dict[str, Any]:
    curve = SurvivalCurve.of(outcome.time[rows], outcome.event[rows])
    return {
        "patients": len(rows),
        "predicted": float(predicted[rows].mean()),
        "observed": float(curve.at(horizon)),
        "ci": [*curve.band_at(horizon)],
    }
