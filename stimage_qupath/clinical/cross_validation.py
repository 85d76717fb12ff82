"""The one entry to cross-validation, whichever model is asked for."""

from __future__ import annotations

from stimage_qupath.clinical.nested import nested_cv
from stimage_qupath.clinical.survival_problem import NestedSettings, OutOfFold, Problem


def cross_validate(problem: Problem, settings: NestedSettings) -> OutOfFold:
    """Return out-of-fold risks of the model that the settings name; errors as of :func:`nested_cv`.

    A problem without genes is one of covariates alone, which is always a Cox model.
    """
    if settings.model == "forest" and problem.genes is not None:
        from stimage_qupath.clinical.forest import forest_cv

        return forest_cv(problem, settings)
    return nested_cv(problem, settings)
