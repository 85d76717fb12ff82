"""What expression adds to the covariates, judged on patients that neither model has seen."""

from __future__ import annotations

import numpy as np

from stimage_qupath.clinical.cox import fit_cox
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.risk_sets import RiskSets
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import OutOfFold


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
    scores = np.column_stack([base.risk, full.risk])
    ridge = 1e-6  # both risks may be the same column
    alone = fit_cox(scores[:, :1], sets, penalty=ridge)
    both = fit_cox(scores, sets, penalty=ridge)
    lead = 2 * (both.loglik - alone.loglik) if both.coef[1] > 0 else 0.0
    delta = concordance(outcome, full.risk, full.tests) - concordance(outcome, base.risk, base.tests)
    return {"delta_c": delta, "lr_chi2": max(lead, 0.0)}
