"""The matrices of a finished run, a block of nuclei at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UnknownGeneError, UsageError
from stimage_qupath.export.run_reader import Run

ROWS: Final = 2**12
"""Nuclei of a block: with a panel of 1,000 genes 16 MB a matrix."""


@dataclass(frozen=True, slots=True)
class MatrixBlock:
    """Some nuclei in a row.

    Attributes
    ----------
    rows
        Their place in the run.
    mean, aleatoric, epistemic
        (cell, gene) float32: expected counts, and both variances in counts^2.
    """

    rows: slice
    mean: NDArray[np.float32]
    aleatoric: NDArray[np.float32]
    epistemic: NDArray[np.float32]


def panel_of(run: Run) -> tuple[str, ...]:
    """Return the genes of the run's matrix.

    Raises
    ------
    UsageError
        The run holds nuclei alone.
    """
    with h5py.File(run.h5ad_path, "r") as file:
        if "X" not in file:
            msg = f"expected a run with predictions at {run.path}, found nuclei alone; run predict"
            raise UsageError(msg)
        return tuple(gene.decode() for gene in file["var"]["gene"][:])


def matrix_blocks(run: Run, genes: Sequence[str]) -> Iterator[MatrixBlock]:
    """Yield the nuclei in file order; no more than a block of the panel is in memory.

    Parameters
    ----------
    run
        A run with predictions.
    genes
        Columns, in the order wanted.

    Raises
    ------
    UnknownGeneError
        The panel lacks a gene.
    """
    panel = panel_of(run)
    position = {gene: i for i, gene in enumerate(panel)}
    missing = [gene for gene in genes if gene not in position]
    if missing:
        msg = f"expected genes of the run's panel of {len(panel)}, found {', '.join(missing[:5])}; see {run.h5ad_path}"
        raise UnknownGeneError(msg)
    columns = np.array([position[gene] for gene in genes], dtype=np.intp)
    whole = tuple(genes) == panel
    with h5py.File(run.h5ad_path, "r") as file:
        layers = (file["X"], file["layers"]["aleatoric"], file["layers"]["epistemic"])
        for start in range(0, len(run), ROWS):
            rows = slice(start, min(start + ROWS, len(run)))
            # A chunk of the file holds whole rows, so that choosing columns on the disk would save nothing.
            parts = [layer[rows] if whole else layer[rows][:, columns] for layer in layers]
            yield MatrixBlock(rows, *parts)
