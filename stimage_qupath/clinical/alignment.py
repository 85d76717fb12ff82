"""Expression of one cohort brought onto the scale of another, gene by gene, without any outcome.

Cell lines and slides, arrays and sequencing differ in unit and spread of every gene. A monotone map a gene keeps who is
high and who is low within a cohort and gives the values the distribution that a model was trained on. It is fitted on
expression alone: no function here takes a response. What it cannot know is composition: a cohort of nothing but
high-expressing patients is stretched over the whole range of the training cohort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Method = Literal["quantile", "moments", "none"]

LEVELS: Final = np.linspace(0, 1, 101)
"""Of the quantiles that stand for a training cohort."""
LEAST_PATIENTS: Final = 10
"""For an alignment; ranks among fewer say little of a distribution."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The distribution of each gene in a training cohort.

    Attributes
    ----------
    genes
        Symbols.
    quantiles
        (gene, level) at :data:`LEVELS`.
    mean, sd
        (gene,).
    """

    genes: tuple[str, ...]
    quantiles: Float
    mean: Float
    sd: Float

    @classmethod
    def of(cls, genes: tuple[str, ...], values: Float) -> Reference:
        """Return the distributions of (patient, gene) values."""
        return cls(genes, np.quantile(values, LEVELS, axis=0).T, values.mean(axis=0), values.std(axis=0))

    def only(self, genes: tuple[str, ...]) -> Reference:
        """Return the distributions of some of the genes, in the order given."""
        place = {gene: index for index, gene in enumerate(self.genes)}
        rows = [place[gene] for gene in genes]
        return Reference(genes, self.quantiles[rows], self.mean[rows], self.sd[rows])


@dataclass(frozen=True, slots=True)
class Alignment:
    """A monotone map of each gene from a cohort onto a reference.

    Attributes
    ----------
    method
        ``quantile``: the value at the same quantile of the reference; ``moments``: the same number of SDs from
        the mean; ``none``: as it stands.
    reference
        What it maps onto.
    sources, levels
        For each gene its different values in the cohort, ascending, and the quantile each stands at (mean rank less one
        half, over the number of patients).
    mean, sd
        (gene,) of the cohort.
    """

    method: Method
    reference: Reference
    sources: tuple[Float, ...]
    levels: tuple[Float, ...]
    mean: Float
    sd: Float

    @classmethod
    def fit(cls, values: Float, reference: Reference, *, method: Method = "quantile") -> Alignment:
        """Fit the maps of a cohort.

        Parameters
        ----------
        values
            (patient, gene) expression of the cohort, genes as in ``reference``.
        reference
            The training cohort.
        method
            As above.

        Raises
        ------
        UsageError
            Fewer than :data:`LEAST_PATIENTS` patients, and a method that needs them.
        """
        if values.shape[1] != len(reference.genes):
            msg = f"expected a column for each of {len(reference.genes)} genes, found {values.shape[1]}"
            raise ValueError(msg)
        if method != "none" and len(values) < LEAST_PATIENTS:
            msg = (
                f"expected at least {LEAST_PATIENTS} patients to align a cohort by, found {len(values)}; add patients, "
                "or pass --align none where both cohorts were measured alike"
            )
            raise UsageError(msg)
        sources, levels = [], []
        for column in values.T:
            rank = (stats.rankdata(column) - 0.5) / len(column)
            different, first = np.unique(column, return_index=True)
            sources.append(different)
            levels.append(rank[first])
        return cls(method, reference, tuple(sources), tuple(levels), values.mean(axis=0), values.std(axis=0))

    def __call__(self, values: Float) -> Float:
        """Return values on the reference's scale, (patient, gene); beyond the cohort's range they stay at its ends."""
        if self.method == "none":
            return values
        if self.method == "moments":
            share = np.divide(self.reference.sd, self.sd, out=np.zeros_like(self.sd), where=self.sd > 0)
            return self.reference.mean + (values - self.mean) * share
        mapped = [
            np.interp(np.interp(column, source, level), LEVELS, quantiles)
            for column, source, level, quantiles in zip(
                values.T, self.sources, self.levels, self.reference.quantiles, strict=True
            )
        ]
        return np.column_stack(mapped)
