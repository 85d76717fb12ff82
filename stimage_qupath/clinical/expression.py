"""Expression of patients as a model takes it, with the uncertainty that a prediction brings along."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.design_matrix import CONSTANT, Design
from stimage_qupath.clinical.table import MEAN_SUFFIX, Features, listed
from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Index = NDArray[np.intp]
Transform = Literal["none", "log1p"]

LEAST_GENES: Final = 1


@dataclass(frozen=True, slots=True)
class Expression:
    """Expression of a cohort.

    Attributes
    ----------
    genes
        Symbols.
    mean
        (patient, gene) as given.
    sd
        (patient, gene) predictive SD in the same unit, or None.
    transform
        What a model sees: the values, or ``log(1 + value)``.
    """

    genes: tuple[str, ...]
    mean: Float
    sd: Float | None = None
    transform: Transform = "none"

    @classmethod
    def of(cls, features: Features, transform: Transform = "none") -> Expression:
        """Return the expression in a table's features, ``<GENE>_mean`` being the gene's.

        Raises
        ------
        UsageError
            A value is missing, a gene is there twice, or a negative value is to be logged.
        """
        genes = tuple(name.removesuffix(MEAN_SUFFIX) for name in features.names)
        doubled = sorted({gene for gene in genes if genes.count(gene) > 1}) if len(set(genes)) < len(genes) else []
        if doubled:
            msg = f"expected each gene once, found {listed(doubled)} in several columns; choose columns with --features"
            raise UsageError(msg)
        missing = [genes[place] for place in np.flatnonzero(np.isnan(features.mean).any(axis=0))]
        if missing:
            msg = (
                f"expected the expression of every patient, found missing values of {listed(missing)}; leave out these "
                "genes (--features) or patients"
            )
            raise UsageError(msg)
        if transform == "log1p" and (features.mean < 0).any():
            bad = [genes[place] for place in np.flatnonzero((features.mean < 0).any(axis=0))]
            msg = (
                f"expected counts of 0 or more to take log(1 + x) of, found negative {listed(bad)}; use no --transform"
            )
            raise UsageError(msg)
        return cls(genes, features.mean, features.sd, transform)

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self.mean)

    def take(self, rows: Index) -> Expression:
        """Return the patients at ``rows``."""
        return Expression(self.genes, self.mean[rows], None if self.sd is None else self.sd[rows], self.transform)

    def only(self, genes: Collection[str]) -> Expression:
        """Return the genes among ``genes``, in their own order.

        Raises
        ------
        UsageError
            There are none.
        """
        wanted = set(genes)
        places = [place for place, gene in enumerate(self.genes) if gene in wanted]
        if not places:
            msg = f"expected genes in common, found none among {listed(self.genes)} and {listed(sorted(wanted))}"
            raise UsageError(msg)
        sd = None if self.sd is None else self.sd[:, places]
        return Expression(tuple(self.genes[place] for place in places), self.mean[:, places], sd, self.transform)

    @property
    def constant(self) -> tuple[str, ...]:
        """Genes that are equal in all patients, which no model can use."""
        values = self.values
        spread = values.std(axis=0)
        flat = spread <= CONSTANT * np.maximum(np.abs(values.mean(axis=0)), 1e-3)
        return tuple(gene for gene, is_flat in zip(self.genes, flat, strict=True) if is_flat)

    @property
    def values(self) -> Float:
        """What a model sees, (patient, gene)."""
        return np.log1p(self.mean) if self.transform == "log1p" else self.mean

    def design(self) -> Design:
        """Return the columns of a model."""
        return Design.of_genes(self.values, self.genes)

    def draw(self, rng: np.random.Generator) -> Float:
        """Return what a model might have seen, (patient, gene): a normal value with each gene's mean and SD.

        Counts stay at 0 or above. Genes are drawn independently; the SDs do not hold what errors share.
        """
        if self.sd is None:
            return self.values
        drawn = self.mean + self.sd * rng.standard_normal(self.mean.shape)
        return np.log1p(np.maximum(drawn, 0)) if self.transform == "log1p" else drawn
