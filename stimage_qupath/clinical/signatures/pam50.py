"""Intrinsic subtypes by PAM50 (J. S. Parker et al., J. Clin. Oncol. 27:1160, 2009, doi 10.1200/JCO.2008.18.1370).

Each gene is centred on its median over the cohort; a patient's subtype is the centroid with the highest Spearman
correlation over the genes at hand. Centring makes the calls those of this cohort: one of a single subtype, or of other
shares of ER-positive tumours than usual, gets wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import LEAST_SHARE, listed, names_here
from stimage_qupath.signatures.library import data_rows

Float = NDArray[np.float64]

SUBTYPES: Final = ("Basal", "Her2", "LumA", "LumB", "Normal")


@dataclass(frozen=True, slots=True)
class Pam50:
    """The classifier, centred on a cohort.

    Attributes
    ----------
    index
        (gene,) columns that the centroids have.
    centre
        (gene,) median of each over the cohort.
    centroids
        (gene, subtype).
    missing
        Genes of the 50 that the table lacks.
    """

    index: NDArray[np.intp]
    centre: Float
    centroids: Float
    missing: tuple[str, ...]

    columns: ClassVar[tuple[str, ...]] = tuple(f"pam50_{name.lower()}_score" for name in SUBTYPES)
    needs_cohort: ClassVar[bool] = True

    @classmethod
    def of(cls, genes: Sequence[str], x: Float) -> Self:
        """Fit the centring; ``x`` is (patient, gene) log2 expression.

        Raises
        ------
        UsageError
            Under half of the 50 genes are among the columns.
        """
        rows = data_rows("pam50_centroids.csv")
        here = names_here([row["gene"] for row in rows], genes)
        missing = tuple(row["gene"] for row in rows if row["gene"] not in here)
        if len(here) < LEAST_SHARE * len(rows):
            msg = (
                f"expected at least half of the 50 genes of PAM50, found {len(here)} ({listed(missing)} missing); "
                "take a table that holds them"
            )
            raise UsageError(msg)
        position = {gene: i for i, gene in enumerate(genes)}
        index = np.array([position[here[row["gene"]]] for row in rows if row["gene"] in here], dtype=np.intp)
        centroids = np.array([[float(row[name]) for name in SUBTYPES] for row in rows if row["gene"] in here])
        return cls(index, np.median(x[:, index], axis=0), centroids, missing)

    def scores(self, x: Float) -> Float:
        """Return Spearman's correlation with each centroid, (patient, subtype); 0 where a patient has no variation."""
        ranks = stats.rankdata(x[:, self.index] - self.centre, axis=1)
        return _rows_with_columns(ranks, stats.rankdata(self.centroids, axis=0))

    def labels(self, scores: Float) -> dict[str, list[str]]:
        """Return the subtype of each patient."""
        return {"pam50_subtype": [SUBTYPES[i] for i in scores.argmax(axis=1)]}

    def record(self) -> dict[str, Any]:
        """Return what the cohort's record says."""
        return {
            "source": "J. S. Parker et al., J. Clin. Oncol. 27:1160 (2009), doi 10.1200/JCO.2008.18.1370",
            "normalisation": "genes centred on their median over this cohort",
            "missing": list(self.missing),
        }


def _rows_with_columns(rows: Float, columns: Float) -> Float:
    """Return Pearson's correlation of each row with each column, (row, column)."""
    a, b = rows - rows.mean(axis=1, keepdims=True), columns - columns.mean(axis=0)
    length = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=0)
    return np.asarray(np.divide(a @ b, length, out=np.zeros((len(a), b.shape[1])), where=length > 0))
