"""Patients told into low and high risk by models that have not seen them: curves, numbers at risk, hazard ratio."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.cox import fit_cox
from stimage_qupath.clinical.kaplan_meier import Z95, SurvivalCurve, log_rank, numbers_at_risk
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.risk_sets import RiskSets

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

TICKS: Final = 6
"""Times at which numbers at risk are counted."""


def risk_groups(outcome: Outcome, high: Bool) -> dict[str, Any]:
    """Return what is drawn and said of two groups.

    Parameters
    ----------
    outcome
        Of the patients.
    high
        (patient,) whether the patient was told to be of high risk.
    """
    times = np.linspace(0, float(outcome.time.max()), TICKS)
    return {
        "log_rank_chi2": log_rank(outcome.time, outcome.event, high, strata=outcome.strata),
        "hazard_ratio": _hazard_ratio(outcome, high),
        "times": times.tolist(),
        "low": _group(outcome, ~high, times),
        "high": _group(outcome, high, times),
    }


def _group(outcome: Outcome, member: Bool, times: Float) -> dict[str, Any]:
    rows = np.flatnonzero(member)
    of = outcome.take(rows)
    curve = SurvivalCurve.of(of.time, of.event)
    return {
        "patients": len(rows),
        "events": of.events,
        "at_risk": numbers_at_risk(of.time, times).tolist(),
        "curve": {
            "time": curve.time.tolist(),
            "survival": curve.share.tolist(),
            "low": curve.low.tolist(),
            "high": curve.high.tolist(),
            "end": float(of.time.max()) if len(rows) else 0.0,
        },
    }


def _hazard_ratio(outcome: Outcome, high: Bool) -> dict[str, Any]:
    """Return the hazard of high over low, within strata; None where a group has no event."""
    if not outcome.event[high].any() or not outcome.event[~high].any():
        return {"value": None, "ci": None}
    sets = RiskSets.of(outcome.time, outcome.event, strata=outcome.strata)
    fit = fit_cox(high[:, None].astype(np.float64), sets, penalty=1e-9)
    value, half = float(fit.coef[0]), Z95 / float(np.sqrt(fit.information[0, 0]))
    return {"value": float(np.exp(value)), "ci": [float(np.exp(value - half)), float(np.exp(value + half))]}
