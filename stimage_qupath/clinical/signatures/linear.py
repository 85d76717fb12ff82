"""Linear signatures of patients: MCP-counter, the genomic grade index, PAM50's proliferation, users' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import Fit, Signature, fit, weight_matrix
from stimage_qupath.signatures.library import column_name

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Linear:
    """One signature on a cohort.

    Attributes
    ----------
    found
        The signature on the table's genes.
    weights
        (gene,).
    centre, scale
        (gene,) taken off and divided by first: 0 and 1, or mean and SD over the cohort for a mean of z scores.
    """

    found: Fit
    weights: Float
    centre: Float
    scale: Float

    @classmethod
    def of(cls, signature: Signature, genes: Sequence[str], x: Float, *, z: bool = False) -> Self:
        """Look the signature up; ``x`` is (patient, gene) log2 expression, ``z`` scores genes against the cohort first.

        Raises
        ------
        UsageError
            Under half of its genes are among the columns.
        """
        found = fit(signature, genes)
        if found.refusal:
            raise UsageError(found.refusal)
        centre, scale = np.zeros(len(genes)), np.ones(len(genes))
        if z:
            centre, sd = x.mean(axis=0), x.std(axis=0)
            scale = np.where(sd > 0, sd, 1.0)
        return cls(found, weight_matrix([found], genes)[:, 0], centre, scale)

    @property
    def columns(self) -> tuple[str, ...]:
        """Name of the score."""
        return (f"{column_name(self.found.signature.name)}_score",)

    @property
    def needs_cohort(self) -> bool:
        """Whether genes are scored against the cohort."""
        return bool(self.centre.any() or (self.scale != 1).any())

    @property
    def missing(self) -> tuple[str, ...]:
        """Genes that the table lacks."""
        return self.found.missing

    def scores(self, x: Float) -> Float:
        """Return the score, (patient, 1)."""
        return np.asarray(((x - self.centre) / self.scale @ self.weights)[:, None])

    def labels(self, scores: Float) -> dict[str, list[str]]:
        """Return no labels."""
        return {}

    def record(self) -> dict[str, Any]:
        """Return what the cohort's record says."""
        how = "z over this cohort" if self.needs_cohort else "none"
        return {"source": self.found.signature.source, "normalisation": how, "missing": list(self.missing)}


def rescaled_by_grade(score: Float, grade: Float) -> Float:
    """Return the genomic grade index on its published scale: mean -1 in grade 1 and +1 in grade 3.

    Parameters
    ----------
    score
        (patient,) unscaled index.
    grade
        (patient,) histological grade; NaN where unknown.

    Raises
    ------
    UsageError
        There is no patient of grade 1 or none of grade 3.
    """
    ends = [score[grade == g] for g in (1, 3)]
    if not all(map(len, ends)):
        msg = (
            f"expected patients of grade 1 and of grade 3, found {len(ends[0])} and {len(ends[1])}; "
            "the index has no scale without them"
        )
        raise UsageError(msg)
    low, high = (float(values.mean()) for values in ends)
    return np.asarray(2 * (score - low) / (high - low) - 1)
