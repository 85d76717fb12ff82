"""What expression adds to the covariates, judged on patients that neither model has seen."""

from __future__ import annotations

from typing import Final

import numpy as np

from stimage_qupath.clinical.cox import fit_cox
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.risk_sets import RiskSets
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import OutOfFold
from stimage_qupath.errors import UsageError

MOST_SD: Final = 4.0
"""Risks are in SDs of the training fold. Beyond this, one is an extrapolation (a gene far outside of training), and
a single such patient would decide the likelihood."""
RIDGES: Final = (1e-6, 1e-3, 1e-1)
"""Both risks may be nearly the same column: the least ridge at which a maximum is reached."""


def out_of_fold_gain(outcome: Outcome, base: OutOfFold, full: OutOfFold) -> dict[str, float]:
    """Return the gain of one model over another with the same folds.

    Parameters
    ----------
    outcome
        Of the patients of both.
    base, full
        Out-of-fold risks without and with expression.

    Returns
    -------
    dict
        ``delta_c``: difference of the C within folds. ``lr_chi2``: twice the gain in log partial likelihood when the
        full model's risk stands beside the base's in a Cox model, stratified by fold; 0 where the sign is wrong, so
        that a risk which points the wrong way never counts as a gain.
    """
    folds = len(base.folds)
    strata = outcome.strata * folds + base.fold_of
    sets = RiskSets.of(outcome.time, outcome.event, strata=strata)
    scores = np.clip(np.column_stack([base.risk, full.risk]), -MOST_SD, MOST_SD)
    for ridge in RIDGES:
        try:
            alone = fit_cox(scores[:, :1], sets, penalty=ridge)
            both = fit_cox(scores, sets, penalty=ridge)
            break
        except UsageError:
            if ridge == RIDGES[-1]:
                raise
    lead = 2 * (both.loglik - alone.loglik) if both.coef[1] > 0 else 0.0
    delta = concordance(outcome, full.risk, full.tests) - concordance(outcome, base.risk, base.tests)
    return {"delta_c": delta, "lr_chi2": max(lead, 0.0)}
