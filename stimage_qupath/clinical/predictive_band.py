"""How far a model's figures move when each patient's expression is only known up to its predicted uncertainty."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.kaplan_meier import SurvivalCurve
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import OutOfFold

Float = NDArray[np.float64]

CURVE_TIMES: Final = 60


def predictive_band(
    outcome: Outcome, result: OutOfFold, *, mean: Float, sd: Float, covariates: Float, draws: int, seed: int
) -> dict[str, Any]:
    """Return 95 % bands of C and of both curves over patients drawn from their predictive distribution.

    Each feature of each patient is drawn from a normal distribution, independently, and judged by the models as they
    are: the band says what uncertain input does to the figures, not what it does to training.

    Parameters
    ----------
    outcome, result
        The patients and the models of their folds.
    mean, sd
        (patient, feature) in the units that the models were fitted in.
    covariates
        (patient, covariate), which are taken as certain.
    draws, seed
        Number of draws and their seed.

    Returns
    -------
    dict
        ``c``: 2.5th, 50th and 97.5th percentile; ``low`` and ``high``: those of survival at ``times``;
        ``changed_group``: mean share of patients who change sides.
    """
    rng = np.random.default_rng(seed)
    times = np.linspace(0, float(outcome.time.max()), CURVE_TIMES)
    found, moved = [], []
    curves: dict[str, list[Float]] = {"low": [], "high": []}
    for _ in range(draws):
        drawn = mean + sd * rng.standard_normal(mean.shape)
        risk, high = np.zeros(len(outcome)), np.zeros(len(outcome), dtype=bool)
        for rows, model in zip(result.tests, result.models, strict=True):
            risk[rows] = model.risk(model.linear_predictor(drawn[rows], covariates[rows]))
            high[rows] = risk[rows] > model.cut
        found.append(concordance(outcome, risk, result.tests))
        moved.append(float((high != result.high).mean()))
        for name, member in (("low", ~high), ("high", high)):
            if member.any():
                curves[name].append(SurvivalCurve.of(outcome.time[member], outcome.event[member]).at(times))
    return {
        "draws": draws,
        "c": np.percentile(found, [2.5, 50, 97.5]).tolist(),
        "changed_group": float(np.mean(moved)),
        "times": times.tolist(),
        **{
            name: np.percentile(np.array(of), [2.5, 97.5], axis=0).tolist() if of else None
            for name, of in curves.items()
        },
    }
