"""What is asked of patients, how it is answered, and what comes of it: the nouns of nested cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.fold_model import FoldModel
from stimage_qupath.clinical.folds import Fold
from stimage_qupath.clinical.gene_filter import FeatureTable
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.risk_sets import Ties

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedSettings:
    """What is chosen between, and how.

    Attributes
    ----------
    folds, inner_folds
        Outer and inner folds.
    kept
        Numbers of features that may be kept.
    spreads
        Ridge: SD of the linear predictor a priori; the penalty of each of k features is ``k / spread^2``.
    fractions
        Elastic net: penalties, relative to the least one that keeps every feature out.
    l1_ratio
        0: ridge. Above: elastic net.
    cuts
        Quantiles of risk at which patients may be told into low and high.
    ties
        Handling of equal event times.
    model
        ``cox``, or ``forest`` for a random survival forest.
    seed
        Of the folds.
    """

    folds: int = 5
    inner_folds: int = 5
    kept: tuple[int, ...] = (10, 30, 100, 300)
    spreads: tuple[float, ...] = (0.03, 0.1, 0.3, 0.6)
    fractions: tuple[float, ...] = (0.8, 0.5, 0.3, 0.15)
    l1_ratio: float = 0.0
    cuts: tuple[float, ...] = (1 / 3, 1 / 2, 2 / 3)
    ties: Ties = "efron"
    model: Literal["cox", "forest"] = "cox"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """Patients, what is known of them, and what happened to them.

    Attributes
    ----------
    genes
        Features that are chosen from and penalised, or None.
    covariates
        Columns that every model holds, or None.
    groups
        (patient,) unit that stays on one side of a fold.
    outcome
        Of the same patients.
    """

    genes: FeatureTable | None
    covariates: FeatureTable | None
    groups: NDArray[Any]
    outcome: Outcome

    def permuted_outcome(self, order: Index) -> Problem:
        """Return the same patients, each with the outcome of another."""
        return Problem(self.genes, self.covariates, self.groups, self.outcome.take(order))

    def permuted_genes(self, order: Index) -> Problem:
        """Return patients whose genes belong to another; covariates and outcome stay together.

        Rows are those of the genes, so that the table of genes need not be copied.
        """
        covariates = self.covariates
        if covariates is not None:
            covariates = covariates.take(order)
        return Problem(self.genes, covariates, self.groups[order], self.outcome.take(order))


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What models say of patients whom they have not seen.

    Attributes
    ----------
    folds
        Outer folds.
    risk
        (patient,) linear predictor in units of the training patients' mean and SD.
    high
        (patient,) whether it is above the fold's cut-point.
    linear_predictor
        (patient,) log hazard ratio against the mean training patient.
    models
        One of each fold.
    """

    folds: tuple[Fold, ...]
    risk: Float
    high: Bool
    linear_predictor: Float
    models: tuple[FoldModel, ...]

    @property
    def fold_of(self) -> Index:
        """Test fold of each patient, (patient,)."""
        fold = np.zeros(len(self.risk), dtype=np.intp)
        for number, of in enumerate(self.folds):
            fold[of.test] = number
        return fold

    @property
    def tests(self) -> tuple[Index, ...]:
        """Test rows of each fold."""
        return tuple(fold.test for fold in self.folds)
