"""One measured section: counts, where they were taken, and the image they belong to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.source import Kind

MIN_TOTAL = 200
"""Spots with fewer counts carry next to nothing about any gene and are left out."""


@dataclass(frozen=True, slots=True)
class Section:
    """Raw counts of one section of one patient.

    Attributes
    ----------
    name, patient
        As in the dataset table.
    image
        Path of the H&E image.
    mpp
        um per pixel as the table states it, or None.
    genes
        Symbols as the file has them, each once.
    counts
        (spot, gene) raw counts.
    positions_px
        (spot, 2) x and y of the spot centres, level-0 px of the image.
    notes
        What the reader did that the user should know (doubled genes summed, spots without position dropped).
    kind
        ``counts``, or ``protein`` for intensities, which can be compared with but not trained on.
    gene_ids
        Ensembl accession of each gene without version, empty text where unknown; empty where the file has none.
    """

    name: str
    patient: str
    image: Path
    mpp: float | None
    genes: tuple[str, ...]
    counts: sparse.csr_matrix
    positions_px: NDArray[np.float64]
    notes: tuple[str, ...] = ()
    kind: Kind = "counts"
    gene_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse tables that do not fit together, and values that are not counts."""
        if self.counts.shape != (len(self.positions_px), len(self.genes)):
            msg = (
                f"expected counts of shape {(len(self.positions_px), len(self.genes))} in section {self.name}, "
                f"found {self.counts.shape}"
            )
            raise ValueError(msg)
        if not np.isfinite(self.counts.data).all():
            msg = f"expected finite values in section {self.name}, found empty or infinite ones"
            raise ValueError(msg)
        if self.kind == "counts" and self.counts.nnz and (self.counts.data.min() < 0 or (self.counts.data % 1).any()):
            msg = (
                f"expected raw counts (whole numbers of at least 0) in section {self.name}, found other values; "
                "pass the table before any normalisation or log, or mark proteins in the column kind"
            )
            raise ValueError(msg)

    @property
    def totals(self) -> NDArray[np.float64]:
        """Total counts of each spot over all genes, (spot,)."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.float64).ravel()

    def counts_of(self, genes: tuple[str, ...]) -> NDArray[np.float64]:
        """Return dense counts of ``genes``, (spot, gene); genes that were not measured are all 0."""
        position = {gene: i for i, gene in enumerate(self.genes)}
        out = np.zeros((len(self.positions_px), len(genes)))
        here = [i for i, gene in enumerate(genes) if gene in position]
        out[:, here] = self.counts[:, [position[genes[i]] for i in here]].toarray()
        return out

    def with_enough_counts(self, minimum: int = MIN_TOTAL) -> Section:
        """Return the section without spots under ``minimum`` counts; what was left out is noted.

        Raises
        ------
        UsageError
            The section holds proteins.
        """
        if self.kind != "counts":
            msg = (
                f"expected raw counts in section {self.name}, found a table of kind {self.kind}; "
                "it can be compared with predicted genes, but not trained on"
            )
            raise UsageError(msg)
        keep = self.totals >= minimum
        dropped = int((~keep).sum())
        note = f"{dropped} of {len(keep)} spots under {minimum} counts left out"
        if dropped > len(keep) / 2:
            note += "; small bins and cells can be added up with --aggregate-um"
        return replace(
            self,
            counts=self.counts[np.flatnonzero(keep)],
            positions_px=self.positions_px[keep],
            notes=(*self.notes, note) if dropped else self.notes,
        )
