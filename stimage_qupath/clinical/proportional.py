"""Does a hazard ratio hold over the whole follow-up? Schoenfeld's residuals, by lifelines (extra ``clinical``)."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.errors import MissingPartError

Float = NDArray[np.float64]
Index = NDArray[np.intp]

INSTALL: Final = "pip install 'stimage-qupath[clinical]'"
SMALL_RIDGE: Final = 1e-4
"""Lifelines' penaliser, so that columns alike can be fitted; far too small to move a p value."""


def proportional_hazards(outcome: Outcome, columns: dict[str, Float], fold_of: Index) -> dict[str, float]:
    """Return the p of each column that its hazard ratio changes with time; small: it does.

    Scaled Schoenfeld residuals against the rank of time (Grambsch and Therneau 1994, Biometrika 81), in one Cox model
    of all columns, stratified by fold and stratum.

    Parameters
    ----------
    outcome
        Of the patients.
    columns
        Name to (patient,) values; those that never vary are left out.
    fold_of
        (patient,) test fold of each, whose risks are on a scale of their own.

    Raises
    ------
    MissingPartError
        lifelines is not installed.
    """
    fitter, test = _lifelines()
    frame = pd.DataFrame({name: values for name, values in columns.items() if np.ptp(values) > 0})
    names = list(frame.columns)
    if not names:
        return {}
    frame = frame.assign(**{"|time": outcome.time, "|event": outcome.event})
    frame["|stratum"] = outcome.strata * (int(fold_of.max()) + 1) + fold_of
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence that the small ridge brings, and of pandas inside lifelines
        fitted = fitter(penalizer=SMALL_RIDGE).fit(frame, "|time", "|event", strata=["|stratum"])
        p = test(fitted, frame, time_transform="rank").p_value
    return dict(zip(names, np.atleast_1d(p).astype(float).tolist(), strict=True))


def _lifelines() -> tuple[Any, Any]:
    try:
        from lifelines import CoxPHFitter
        from lifelines.statistics import proportional_hazard_test
    except ImportError as error:
        msg = f"expected the package lifelines for a survival analysis, found none; run: {INSTALL}"
        raise MissingPartError(msg) from error
    return CoxPHFitter, proportional_hazard_test


def require_lifelines() -> None:
    """Raise :class:`MissingPartError` where lifelines is not installed, before the work is done rather than after."""
    _lifelines()
