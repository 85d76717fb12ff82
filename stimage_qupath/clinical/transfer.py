"""A response model of one cohort applied to another: the genes in common, aligned without outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from stimage_qupath.clinical.alignment import Alignment, Method, Reference
from stimage_qupath.clinical.expression import Expression, Transform
from stimage_qupath.clinical.linear_model import LinearModel
from stimage_qupath.clinical.response import Kind
from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Higher = Literal["response", "resistance"]

LEAST_WEIGHT: Final = 0.5
"""Share of the model's weight that must be in genes of the other cohort."""


@dataclass(frozen=True, slots=True)
class TransferModel:
    """An elastic net that can leave its cohort.

    Attributes
    ----------
    kind
        Of the response it predicts.
    higher
        What a high prediction means: ``response``, or ``resistance`` as of an IC50.
    transform
        Of the expression it was trained on.
    reference
        Its genes, and their distributions in training.
    intercept
        Prediction (logits for a binary response) at the mean of training.
    coefficients
        (gene,) per training SD.
    card
        What it was trained on and how well it did there, as JSON has it.
    """

    kind: Kind
    higher: Higher
    transform: Transform
    reference: Reference
    intercept: float
    coefficients: Float
    card: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse coefficients that do not fit the genes."""
        if self.coefficients.shape != (len(self.reference.genes),):
            msg = f"expected a coefficient a gene, found {self.coefficients.shape} for {len(self.reference.genes)}"
            raise ValueError(msg)

    @classmethod
    def of(
        cls, model: LinearModel, expression: Expression, *, higher: Higher, card: Mapping[str, Any]
    ) -> TransferModel:
        """Return a model fitted to the expression of a cohort, without covariates."""
        reference = Reference.of(expression.genes, expression.values)
        return cls(model.kind, higher, expression.transform, reference, model.intercept, model.coefficients, card)

    def predict(self, genes: tuple[str, ...], aligned: Float) -> Float:
        """Return the prediction of (patient, gene) values on the training scale; genes left out count as average."""
        reference = self.reference.only(genes)
        place = {gene: index for index, gene in enumerate(self.reference.genes)}
        weights = self.coefficients[[place[gene] for gene in genes]]
        used = weights != 0
        standard = (aligned - reference.mean)[:, used] / reference.sd[used]
        predictor = self.intercept + standard @ weights[used]
        return np.asarray(expit(predictor) if self.kind == "binary" else predictor)


@dataclass(frozen=True, slots=True)
class Transferred:
    """A model's predictions of another cohort.

    Attributes
    ----------
    prediction
        (patient,).
    sd
        (patient,) over draws from the cohort's predictive distributions, or None where it has none.
    draws
        (draw, patient) the draws themselves, or None.
    genes
        In common.
    weight
        Share of the model's absolute coefficients that they hold.
    """

    prediction: Float
    sd: Float | None
    draws: Float | None
    genes: tuple[str, ...]
    weight: float


def transfer(
    model: TransferModel, cohort: Expression, *, method: Method = "quantile", draws: int = 0, seed: int = 0
) -> Transferred:
    """Predict another cohort. No response of that cohort is an argument, so none can be used.

    Parameters
    ----------
    model
        Of the training cohort.
    cohort
        Expression, on any scale that is monotone in that of training.
    method
        Of the alignment.
    draws, seed
        From the predictive distributions, where the cohort has SDs.

    Raises
    ------
    UsageError
        Too few genes in common, or patients to align by.
    """
    common = cohort.only(model.reference.genes)
    weights = dict(zip(model.reference.genes, np.abs(model.coefficients), strict=True))
    total = sum(weights.values())
    weight = float(sum(weights[gene] for gene in common.genes) / total) if total > 0 else 1.0
    if weight < LEAST_WEIGHT:
        msg = (
            f"expected genes that hold at least {LEAST_WEIGHT:.0%} of the model's weight, found {weight:.0%} here; "
            "train on the genes that both cohorts have (--genes-of)"
        )
        raise UsageError(msg)
    alignment = Alignment.fit(common.values, model.reference.only(common.genes), method=method)
    prediction = model.predict(common.genes, alignment(common.values))
    if common.sd is None or not draws:
        return Transferred(prediction, None, None, common.genes, weight)
    rng = np.random.default_rng(seed)
    drawn = np.stack([model.predict(common.genes, alignment(common.draw(rng))) for _ in range(draws)])
    return Transferred(prediction, drawn.std(axis=0), drawn, common.genes, weight)
