"""A linear model of a response: coefficients of standardised columns, and the fits that they are the mean of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from stimage_qupath.clinical.design_matrix import Standardiser
from stimage_qupath.clinical.response import Kind

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """One fit in a mean of fits.

    Attributes
    ----------
    mix, penalty
        As chosen.
    weight
        In the mean.
    """

    mix: float
    penalty: float
    weight: float


@dataclass(frozen=True, slots=True)
class LinearModel:
    """A fitted elastic net, or the mean of two.

    Attributes
    ----------
    kind
        Of the response.
    standardiser
        Of the training patients.
    intercept
        Prediction at their mean: logits for a binary response.
    coefficients
        (column,) per standard deviation of a gene (of a covariate: per tenth of one where genes stand beside it).
    parts
        The fits that it is the mean of.
    """

    kind: Kind
    standardiser: Standardiser
    intercept: float
    coefficients: Float
    parts: tuple[Part, ...]

    def __call__(self, values: Float) -> Float:
        """Return probabilities of response, or predicted values, (patient,), from (patient, column)."""
        used = np.flatnonzero(self.coefficients)
        part = Standardiser(self.standardiser.centre[used], self.standardiser.scale[used])
        predictor = self.intercept + part(values[:, used]) @ self.coefficients[used]
        return np.asarray(expit(predictor) if self.kind == "binary" else predictor)

    @property
    def mix(self) -> float:
        """Share of the absolute penalty, mean over the parts."""
        return sum(part.weight * part.mix for part in self.parts)

    @property
    def chosen(self) -> dict[str, Any]:
        """What the inner folds chose."""
        parts = [{"mix": p.mix, "penalty": p.penalty, "weight": p.weight} for p in self.parts]
        return {"mix": self.mix, "parts": parts, "columns": int(np.count_nonzero(self.coefficients))}
