"""What a platform's reader hands over, and the join of counts to places that all of them need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse


@dataclass(frozen=True, slots=True)
class Measurement:
    """A section as its files have it: genes may be doubled, values are not checked yet.

    Attributes
    ----------
    values
        (spot, gene) counts, or intensities of proteins.
    genes
        Names as the file has them: symbols where it holds any.
    gene_ids
        Accessions (Ensembl) in the same order, empty text where unknown; empty where the file has none.
    positions_px
        (spot, 2) x and y, level-0 px of the image.
    notes
        What was left out and why.
    mpp
        um per level-0 px as the array's own geometry says, or None.
    """

    values: sparse.csr_matrix
    genes: tuple[str, ...]
    positions_px: NDArray[np.float64]
    gene_ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mpp: float | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        expected = (len(self.positions_px), len(self.genes))
        if self.values.shape != expected:
            msg = f"expected values of shape {expected}, found {self.values.shape}"
            raise ValueError(msg)
        if self.gene_ids and len(self.gene_ids) != len(self.genes):
            msg = f"expected {len(self.genes)} gene ids, found {len(self.gene_ids)}"
            raise ValueError(msg)
        if not np.isfinite(self.positions_px).all():
            msg = "expected a position for every spot, found empty or infinite ones"
            raise ValueError(msg)

    @property
    def doubled(self) -> int:
        """How many names stand for more than one column."""
        return len({name for name, n in _occurrences(self.genes).items() if n > 1})

    def with_single_genes(self) -> Measurement:
        """Add up columns of the same name; counts of one gene under two accessions belong together."""
        if not self.doubled:
            return self
        names = tuple(dict.fromkeys(self.genes))
        place = {name: i for i, name in enumerate(names)}
        columns = np.array([place[name] for name in self.genes])
        merge = sparse.csr_matrix((np.ones(len(columns)), (np.arange(len(columns)), columns)))
        first = next(name for name, n in _occurrences(self.genes).items() if n > 1)
        note = f"{self.doubled} genes appeared more than once and were added up, first {first}"
        ids = dict(zip(reversed(self.genes), reversed(self.gene_ids), strict=False)) if self.gene_ids else {}
        return Measurement(
            values=sparse.csr_matrix(self.values @ merge),
            genes=names,
            positions_px=self.positions_px,
            gene_ids=tuple(ids[name] for name in names) if ids else (),
            notes=(*self.notes, note),
            mpp=self.mpp,
        )


def _occurrences(names: Sequence[str]) -> Mapping[str, int]:
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    return counted


def join(
    barcodes: Sequence[str], places: pd.DataFrame, *, matrix: str, table: str
) -> tuple[NDArray[np.intp], NDArray[np.intp], tuple[str, ...]]:
    """Pair the rows of a matrix with the rows of a table of places by their names, never by their order.

    Parameters
    ----------
    barcodes
        Name of each row of the matrix.
    places
        Its index holds the names.
    matrix, table
        Names of the two files, for messages.

    Returns
    -------
    tuple
        Rows of the matrix, the rows of ``places`` that belong to them, and a note on what found no partner.

    Raises
    ------
    ValueError
        A name is there twice, or the two have none in common.
    """
    for names, file in ((pd.Index(barcodes), matrix), (places.index, table)):
        if not names.is_unique:
            msg = f"expected each barcode once in {file}, found {names[names.duplicated()][0]} more than once"
            raise ValueError(msg)
    found = places.index.get_indexer(pd.Index(barcodes))
    rows = np.flatnonzero(found >= 0)
    if not rows.size:
        example = [str(names[0]) if len(names) else "nothing" for names in (barcodes, places.index)]
        msg = (
            f"expected barcodes that {matrix} and {table} have in common, found none: '{example[0]}' in one, "
            f"'{example[1]}' in the other"
        )
        raise ValueError(msg)
    lost = len(barcodes) - len(rows)
    notes = (f"{lost} of {len(barcodes)} spots have no position and were left out",) if lost else ()
    return rows, np.asarray(found[rows], dtype=np.intp), notes
