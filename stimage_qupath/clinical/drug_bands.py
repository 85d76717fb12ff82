"""What the uncertainty of predicted expression does to predicted responses and their figures.

Each patient's expression is drawn anew from its predictive distribution and goes through the models that were fitted to
the means, each fold's own for its test patients: how much of a figure is owed to where the predictions fell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.design_matrix import Design
from stimage_qupath.clinical.drug_nested import Nested, Plan, statistic
from stimage_qupath.clinical.expression import Expression
from stimage_qupath.clinical.response import Kind

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Band:
    """A figure over draws of the patients' expression.

    Attributes
    ----------
    mean
        Of the figure.
    low, high
        Its 2.5th and 97.5th percentile.
    sd
        (patient,) of each prediction.
    draws
        How many.
    """

    mean: float
    low: float
    high: float
    sd: Float
    draws: int

    @classmethod
    def of(cls, figures: Float, predictions: Float) -> Band:
        """Return the band of (draw,) figures of (draw, patient) predictions."""
        low, high = np.percentile(figures, [2.5, 97.5])
        return cls(float(figures.mean()), float(low), float(high), predictions.std(axis=0), len(figures))

    def to_dict(self) -> dict[str, float | int | list[float]]:
        """Return the band as JSON has it."""
        return {"mean": self.mean, "band": [self.low, self.high], "draws": self.draws}


def resampled(
    kind: Kind,
    y: Float,
    nested: Nested,
    expression: Expression,
    covariates: Design | None,
    plan: Plan,
    *,
    draws: int,
    seed: int,
) -> Band:
    """Return the band of a cross-validated model's primary figure.

    Parameters
    ----------
    kind, y
        The response, (patient,).
    nested
        The models.
    expression
        With SDs.
    covariates
        That stand beside it, or None.
    plan
        Folds.
    draws, seed
        How many, and of which seed.
    """
    rng = np.random.default_rng(seed)
    predictions = np.empty((draws, len(y)))
    for prediction in predictions:
        values = expression.draw(rng)
        if covariates is not None:
            values = np.column_stack([values, covariates.values])
        for fold, model in zip(plan.folds, nested.models, strict=True):
            prediction[fold.test] = model(values[fold.test])
    return Band.of(np.array([statistic(kind, y, p, plan) for p in predictions]), predictions)
