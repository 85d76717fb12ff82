"""Some genes of a finished run, read back from ``cells.h5ad`` a column at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UnknownGeneError, UsageError
from stimage_qupath.export.run_reader import Run

VARIANCES: Final = ("aleatoric", "epistemic")
ROWS: Final = 2**16
"""Nuclei whose whole panel is in memory at once."""


@dataclass(frozen=True, slots=True)
class GeneValues:
    """What a run says of one gene.

    Attributes
    ----------
    mean
        (cell,) expected counts.
    aleatoric_sd, epistemic_sd
        (cell,) counts.
    high
        (cell,) probability of a rate above the median of training, or None where the run has none.
    """

    mean: NDArray[np.float64]
    aleatoric_sd: NDArray[np.float64]
    epistemic_sd: NDArray[np.float64]
    high: NDArray[np.float64] | None


def read_genes(run: Run, genes: Sequence[str]) -> dict[str, GeneValues]:
    """Return the values of ``genes``, in their order.

    Raises
    ------
    UsageError
        The run holds nuclei alone.
    UnknownGeneError
        The run's panel lacks a gene.
    """
    with h5py.File(run.h5ad_path, "r") as file:
        if "X" not in file:
            msg = f"expected a run with predictions at {run.path}, found nuclei alone; run predict"
            raise UsageError(msg)
        panel = [gene.decode() for gene in file["var"]["gene"][:]]
        missing = [gene for gene in genes if gene not in panel]
        if missing:
            msg = f"expected genes of the run's panel of {len(panel)}, found {', '.join(missing)}; see {run.h5ad_path}"
            raise UnknownGeneError(msg)
        index = np.array([panel.index(gene) for gene in genes], dtype=np.intp)
        mean = _columns(file["X"], index)
        aleatoric, epistemic = (np.sqrt(np.maximum(_columns(file["layers"][n], index), 0)) for n in VARIANCES)
        high = _columns(file["layers"]["high"], index) if "high" in file["layers"] else None
    return {
        gene: GeneValues(mean[:, i], aleatoric[:, i], epistemic[:, i], None if high is None else high[:, i])
        for i, gene in enumerate(genes)
    }


def _columns(matrix: h5py.Dataset, index: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (cell, gene) of some columns; blocks of rows, since a chunk of the file holds whole rows."""
    found = np.empty((matrix.shape[0], len(index)))
    for start in range(0, len(found), ROWS):
        found[start : start + ROWS] = matrix[start : start + ROWS][:, index]
    return found
