"""Types of measured cells by comparison with a reference whose types are known, over the genes that both measured.

Counts of each cell are brought to one depth over the shared genes, log1p, and standardised by the reference; then one
of two classifiers says the type: ``centroid`` (the class whose mean is the nearest in correlation, without parameters)
or ``logistic`` (multinomial regression with an L2 penalty). Which one, and how good it is, is settled on cells of the
reference that were left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Method = Literal["centroid", "logistic"]

METHODS: Final[tuple[Method, ...]] = ("centroid", "logistic")
LEAST_GENES: Final = 20
LEAST_COUNTS: Final = 10
"""Cells with fewer counts over the shared genes get no type."""
LEAST_CELLS: Final = 5
"""Of a class of the reference, one for each fold; smaller classes are left out."""
FOLDS: Final = 5
INVERSE_PENALTY: Final = 0.1
SPREAD_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Cells whose type is known.

    Attributes
    ----------
    counts
        (cell, gene) raw counts.
    genes
        Names of the columns.
    types
        (cell,) names.
    """

    counts: Float
    genes: tuple[str, ...]
    types: NDArray[np.str_]

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        if self.counts.shape != (len(self.types), len(self.genes)):
            msg = f"expected counts of {len(self.types)} cells and {len(self.genes)} genes, found {self.counts.shape}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class LabelTransfer:
    """A classifier of cells by their counts.

    Attributes
    ----------
    genes
        Shared genes, in the order of the columns below.
    classes
        Types of the reference.
    method
        ``centroid`` or ``logistic``.
    mean, sd
        (gene,) of the reference's log values.
    weight, bias
        (gene, class) and (class,) of the score whose largest is the type.
    accuracy
        Share of left-out cells of the reference that get their own type.
    recall
        The same of each class.
    """

    genes: tuple[str, ...]
    classes: tuple[str, ...]
    method: Method
    mean: Float
    sd: Float
    weight: Float
    bias: Float
    accuracy: float
    recall: dict[str, float]

    @classmethod
    def fit(cls, reference: Reference, genes: Sequence[str], *, seed: int = 0) -> Self:
        """Choose the better of the two methods on left-out cells, and fit it on all.

        Parameters
        ----------
        reference
            Cells of known type.
        genes
            That the cells to be typed have; those that the reference lacks do not matter.
        seed
            Of the folds.

        Raises
        ------
        UsageError
            Fewer than :data:`LEAST_GENES` genes are shared, or fewer than two types have enough cells.
        """
        reference = _of_frequent_types(reference)
        here = set(genes)
        shared = tuple(gene for gene in reference.genes if gene in here)
        if len(shared) < LEAST_GENES:
            msg = f"expected at least {LEAST_GENES} genes that the reference has too, found {len(shared)}"
            raise UsageError(msg)
        columns = [reference.genes.index(gene) for gene in shared]
        values = _log_values(reference.counts[:, columns])
        classes, code = np.unique(reference.types, return_inverse=True)
        held_out = {method: _left_out(values, code, method, seed) for method in METHODS}
        # Of two that are equally right, the one without parameters; balanced, so that rare types have a say.
        method = max(METHODS, key=lambda m: float(np.mean(_recall(code, held_out[m]))))
        mean, sd, weight, bias = _fit(values, code, method)
        found = held_out[method]
        recall = dict(zip(classes.tolist(), _recall(code, found).tolist(), strict=True))
        accuracy = float((found == code).mean())
        return cls(shared, tuple(classes.tolist()), method, mean, sd, weight, bias, accuracy, recall)

    def types(self, counts: Float, genes: Sequence[str]) -> NDArray[np.object_]:
        """Return the type of each cell, None for cells with under :data:`LEAST_COUNTS` counts, (cell,).

        Parameters
        ----------
        counts
            (cell, gene) raw counts.
        genes
            Names of the columns; genes of the transfer that are missing count as 0.
        """
        position = {gene: i for i, gene in enumerate(genes)}
        shared = np.zeros((len(counts), len(self.genes)))
        there = [i for i, gene in enumerate(self.genes) if gene in position]
        shared[:, there] = counts[:, [position[self.genes[i]] for i in there]]
        code = _scores(_log_values(shared), self.mean, self.sd, self.weight, self.bias).argmax(axis=1)
        found = np.array(self.classes, dtype=object)[code]
        found[shared.sum(axis=1) < LEAST_COUNTS] = None
        return np.asarray(found, dtype=object)

    def to_dict(self) -> dict[str, object]:
        """Return what a card says of the transfer."""
        return {
            "method": self.method,
            "shared_genes": len(self.genes),
            "held_out_accuracy": self.accuracy,
            "held_out_recall": self.recall,
        }


def _of_frequent_types(reference: Reference) -> Reference:
    types, count = np.unique(reference.types, return_counts=True)
    kept = np.isin(reference.types, types[count >= LEAST_CELLS])
    if len(np.unique(reference.types[kept])) < 2:
        msg = f"expected a reference with {LEAST_CELLS} cells of at least two types, found {dict(zip(types, count))}"  # noqa: B905
        raise UsageError(msg)
    return Reference(reference.counts[kept], reference.genes, reference.types[kept])


def _log_values(counts: Float) -> Float:
    """Return log1p of counts at the cell's own depth brought to the median one."""
    total = counts.sum(axis=1, keepdims=True)
    depth = float(np.median(total[total > 0])) if (total > 0).any() else 1.0
    return np.asarray(np.log1p(counts * depth / np.maximum(total, 1)))


def _left_out(values: Float, code: NDArray[np.intp], method: Method, seed: int) -> NDArray[np.intp]:
    """Return the class of each cell by a classifier that did not see it; folds hold their share of each class."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(code), dtype=np.intp)
    for one in range(int(code.max()) + 1):
        members = rng.permutation(np.flatnonzero(code == one))
        fold[members] = np.arange(len(members)) % FOLDS
    found = np.empty(len(code), dtype=np.intp)
    for number in range(FOLDS):
        test = fold == number
        found[test] = _scores(values[test], *_fit(values[~test], code[~test], method)).argmax(axis=1)
    return found


def _fit(values: Float, code: NDArray[np.intp], method: Method) -> tuple[Float, Float, Float, Float]:
    """Return mean and spread of the genes, and weight and bias of the classes' scores."""
    mean, sd = values.mean(axis=0), np.maximum(values.std(axis=0), SPREAD_FLOOR)
    x = (values - mean) / sd
    classes = int(code.max()) + 1
    if method == "centroid":
        centroid = np.stack([x[code == one].mean(axis=0) for one in range(classes)])
        centroid -= centroid.mean(axis=1, keepdims=True)
        # The cell's own norm is the same for all classes: the largest product is the largest correlation.
        return mean, sd, (centroid / np.linalg.norm(centroid, axis=1, keepdims=True)).T, np.zeros(classes)
    fitted = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=200).fit(x, code)
    weight, bias = fitted.coef_.T, fitted.intercept_
    if classes == 2:  # scikit-learn keeps one column for two classes
        weight, bias = np.concatenate([-weight, weight], axis=1), np.array([-bias[0], bias[0]])
    return mean, sd, np.asarray(weight), np.asarray(bias)


def _scores(values: Float, mean: Float, sd: Float, weight: Float, bias: Float) -> Float:
    return np.asarray((values - mean) / sd @ weight + bias)


def _recall(code: NDArray[np.intp], found: NDArray[np.intp]) -> Float:
    hits = np.bincount(code[code == found], minlength=int(code.max()) + 1)
    return np.asarray(hits / np.bincount(code))
