"""A signature as a sum of weighted means of log expression, and what of it a panel holds.

``score = sum_t c_t (sum_g w_tg x_g) / (sum_g w_tg)`` over the terms ``t`` and the genes ``g`` of the term that the
panel holds, with ``x = log2(1 + expected counts)``. A mean over genes is one term with equal weights, a contrast two
terms with coefficients of unlike sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.gene_names import find_genes

LEAST_SHARE: Final = 0.5
"""Of a signature's genes; with fewer it would be another signature under the same name."""
ALTERNATIVE: Final = "|"
"""Parts the names that one gene has had, the approved one first."""
SCALE: Final = "log2(1 + expected counts at reference depth)"


@dataclass(frozen=True, slots=True)
class Term:
    """A weighted mean over some genes, and what it is multiplied by.

    Attributes
    ----------
    coefficient
        Any number but 0.
    weights
        Gene (``NEW|OLD`` where it was renamed) to weight above 0.
    """

    coefficient: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse a term without genes, and weights that a mean cannot have."""
        if not self.weights or not all(w > 0 and np.isfinite(w) for w in self.weights.values()):
            msg = f"expected genes with weights above 0 in a term, found {dict(self.weights)}"
            raise ValueError(msg)
        if not self.coefficient or not np.isfinite(self.coefficient):
            msg = f"expected a finite coefficient other than 0, found {self.coefficient}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Signature:
    """A published linear signature.

    Attributes
    ----------
    name
        As people read it.
    terms
        At least one.
    source
        Paper or file that its genes and weights are from.
    """

    name: str
    terms: tuple[Term, ...]
    source: str

    def __post_init__(self) -> None:
        """Refuse a signature without name or terms."""
        if not self.name.strip() or not self.terms:
            msg = f"expected a signature with a name and at least one term, found '{self.name}' with {len(self.terms)}"
            raise ValueError(msg)

    @classmethod
    def mean_of(cls, name: str, genes: Iterable[str], *, source: str) -> Signature:
        """Return the plain mean over ``genes``."""
        return cls(name, (Term(1.0, dict.fromkeys(genes, 1.0)),), source)

    @property
    def genes(self) -> tuple[str, ...]:
        """Its genes, each once, in the order of the terms."""
        return tuple(dict.fromkeys(gene for term in self.terms for gene in term.weights))


@dataclass(frozen=True, slots=True)
class Fit:
    """A signature on a panel.

    Attributes
    ----------
    signature
        What was asked for.
    weights
        Gene of the panel to the weight of its log expression in the score; none where ``share`` is too small.
    missing
        Genes of the signature that the panel lacks.
    """

    signature: Signature
    weights: Mapping[str, float]
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the signature's genes that the panel holds."""
        return 1 - len(self.missing) / len(self.signature.genes)

    @property
    def counted(self) -> str:
        """How many genes the panel holds, for people."""
        return f"{len(self.signature.genes) - len(self.missing)} of {len(self.signature.genes)}"

    @property
    def refusal(self) -> str | None:
        """Why the score cannot be given, or None."""
        if self.share >= LEAST_SHARE and self.weights:
            return None
        return (
            f"expected at least half of the genes of '{self.signature.name}', found {self.counted} "
            f"({listed(self.missing)} missing); take a model or table whose genes hold more of them"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {
            "name": self.signature.name,
            "source": self.signature.source,
            "scale": SCALE,
            "genes": len(self.signature.genes),
            "missing": list(self.missing),
            "weights": dict(self.weights),
        }


def fit(signature: Signature, genes: Sequence[str]) -> Fit:
    """Return the signature on a panel; a term of which no gene is there drops out, one with some is their mean.

    Parameters
    ----------
    signature
        What to look up.
    genes
        Names of the panel's columns; renamed genes are found under either name.
    """
    here = names_here(signature.genes, genes)
    weights: dict[str, float] = {}
    for term in signature.terms:
        found = {gene: weight for gene, weight in term.weights.items() if gene in here}
        total = sum(found.values())
        for gene, weight in found.items():
            weights[here[gene]] = weights.get(here[gene], 0.0) + term.coefficient * weight / total
    return Fit(signature, weights, tuple(gene for gene in signature.genes if gene not in here))


def names_here(asked: Iterable[str], genes: Sequence[str]) -> dict[str, str]:
    """Return the panel's name of each gene that it holds.

    Parameters
    ----------
    asked
        Genes, ``NEW|OLD`` where one was renamed.
    genes
        The panel.
    """
    forms = {gene: gene.split(ALTERNATIVE) for gene in asked}
    every = list(dict.fromkeys(form for group in forms.values() for form in group))
    lookup = find_genes(every, genes, {})
    gone = set(lookup.missing)
    called = {form: lookup.by_earlier_name.get(form, form) for form in every if form not in gone}
    return {
        gene: next(called[f] for f in group if f in called) for gene, group in forms.items() if called.keys() & group
    }


def usable(fits: Sequence[Fit]) -> tuple[tuple[Fit, ...], tuple[str, ...]]:
    """Return the fits that give a score, and what to say of those that do not.

    Raises
    ------
    UsageError
        None gives a score.
    """
    kept = tuple(found for found in fits if found.refusal is None)
    refused = [found for found in fits if found.refusal is not None]
    if refused and not kept:
        more = f" (and {len(refused) - 1} more signatures likewise)" if len(refused) > 1 else ""
        msg = f"{refused[0].refusal}{more}"
        raise UsageError(msg)
    return kept, left_out(refused)


def left_out(refused: Sequence[Fit]) -> tuple[str, ...]:
    """Return a sentence on signatures that cannot be scored, none where there are none."""
    few = ", ".join(f"{found.signature.name} ({found.counted})" for found in refused)
    return (f"signatures left out, under half of their genes are there: {few}",) if refused else ()


def weight_matrix(fits: Sequence[Fit], genes: Sequence[str]) -> NDArray[np.float64]:
    """Return the weights of some fits on the columns ``genes``, (gene, signature)."""
    position = {gene: i for i, gene in enumerate(genes)}
    matrix = np.zeros((len(genes), len(fits)))
    for column, found in enumerate(fits):
        for gene, weight in found.weights.items():
            matrix[position[gene], column] = weight
    return matrix


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names for a message, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
