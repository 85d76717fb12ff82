"""A response predicted by boosted trees whose size and number are chosen on inner folds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from stimage_qupath.clinical.design_matrix import Design
from stimage_qupath.clinical.drug_metrics import loss
from stimage_qupath.clinical.elastic_net import screened
from stimage_qupath.clinical.folds import Fold
from stimage_qupath.clinical.response import Kind

Float = NDArray[np.float64]
Index = NDArray[np.intp]

LEAVES: Final = (2, 6)
"""Stumps, and trees of about three levels."""
TREES: Final = (10, 25, 50, 100)
LEARNING_RATE: Final = 0.08
MOST_GENES: Final = 100
"""Genes that pass the filter by correlation on the training patients; trees of few patients drown in more."""


@dataclass(frozen=True, slots=True)
class BoostedModel:
    """Fitted trees.

    Attributes
    ----------
    kind
        Of the response.
    columns
        (kept,) places of the columns that passed the filter.
    trees
        scikit-learn's estimator (Friedman 2001, Ann. Stat. 29:1189; on histograms as LightGBM).
    leaves, number
        As chosen.
    """

    kind: Kind
    columns: Index
    trees: Any
    leaves: int
    number: int

    def __call__(self, values: Float) -> Float:
        """Return probabilities of response, or predicted values, (patient,), from (patient, column)."""
        x = values[:, self.columns]
        return np.asarray(self.trees.predict_proba(x)[:, 1] if self.kind == "binary" else self.trees.predict(x))

    @property
    def chosen(self) -> dict[str, Any]:
        """What the inner folds chose."""
        return {"leaves": self.leaves, "trees": self.number}


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosting:
    """Fits boosted trees.

    Attributes
    ----------
    kind
        Of the response.
    seed
        Of the columns that each split looks at.
    most_genes
        Genes that pass the filter.
    """

    kind: Kind
    seed: int = 0
    most_genes: int = MOST_GENES

    name: ClassVar[str] = "boosting"

    def fit(self, design: Design, y: Float, folds: Sequence[Fold]) -> BoostedModel:
        """Choose the size and number of trees on inner folds, and fit all patients with them.

        Parameters
        ----------
        design
            Of the training patients.
        y
            (patient,) their response.
        folds
            Inner folds of them.
        """
        losses = np.zeros((len(LEAVES), len(TREES)))
        for fold in folds:
            train = design.take(fold.train)
            columns = self._columns(train, y[fold.train])
            x = design.values[fold.test][:, columns]
            for size, leaves in enumerate(LEAVES):
                trees = self._trees(train.values[:, columns], y[fold.train], leaves, max(TREES))
                for number, predicted in self._staged(trees, x):
                    losses[size, TREES.index(number)] += float(loss(self.kind, y[fold.test], predicted[:, None]).sum())
        size, place = divmod(int(losses.argmin()), len(TREES))
        columns = self._columns(design, y)
        leaves, number = LEAVES[size], TREES[place]
        return BoostedModel(
            self.kind, columns, self._trees(design.values[:, columns], y, leaves, number), leaves, number
        )

    def _columns(self, design: Design, y: Float) -> Index:
        return np.flatnonzero(screened(design, y, self.most_genes) | design.is_covariate)

    def _trees(self, x: Float, y: Float, leaves: int, number: int) -> Any:
        settings: dict[str, Any] = {
            "learning_rate": LEARNING_RATE,
            "max_iter": number,
            "max_leaf_nodes": leaves,
            "min_samples_leaf": max(3, min(20, len(y) // 20)),
            "max_features": 0.3,
            "early_stopping": False,
            "random_state": self.seed,
        }
        if self.kind == "binary":
            return HistGradientBoostingClassifier(**settings).fit(x, y.astype(np.intp))
        return HistGradientBoostingRegressor(**settings).fit(x, y)

    def _staged(self, trees: Any, x: Float) -> Iterator[tuple[int, Float]]:
        staged = trees.staged_decision_function if self.kind == "binary" else trees.staged_predict
        for number, predicted in enumerate(staged(x), start=1):
            if number in TREES:
                yield number, np.asarray(predicted, np.float64).reshape(len(x))
