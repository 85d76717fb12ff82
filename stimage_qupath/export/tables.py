"""Nuclei and their prediction as named columns: what QuPath, Parquet and AnnData's ``obs`` all hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.results import Cells, Panel, Prediction

Columns: TypeAlias = dict[str, NDArray[np.float32]]
Measurements: TypeAlias = Literal["short", "all"]

SHORT_QUANTITIES: Final = ("mean", "aleatoric SD", "epistemic SD")
INTERVAL_QUANTITIES: Final = ("p05", "p95")
HIGH_LAYER: Final = "high"
GENE_QUANTITIES: Final = frozenset({*SHORT_QUANTITIES, *INTERVAL_QUANTITIES, "attribution", "attribution SD"})
KEY_COLUMNS: Final = ("cell_id", "region_id", "cell_type", "x_px", "y_px")
"""Of every table, before the measurements."""
OOD_LIMIT: Final = 1.0
"""The score is a distance over the 99th percentile of the training tiles, so beyond 1 is outside."""


def quantities(measurements: Measurements) -> tuple[str, ...]:
    """Return what is written of each gene."""
    return SHORT_QUANTITIES if measurements == "short" else (*SHORT_QUANTITIES, *INTERVAL_QUANTITIES)


def cell_columns(cells: Cells, prediction: Prediction | None) -> Columns:
    """Return shape and stain, then the OOD score and its flag, under QuPath's measurement names; (cell,) float32 each.

    Raises
    ------
    ValueError
        The prediction has another number of rows than there are nuclei.
    """
    columns: Columns = dict(cells.measurements)
    if prediction is None:
        return columns
    if len(prediction) != len(cells):
        msg = f"expected a prediction of {len(cells)} nuclei, found one of {len(prediction)}"
        raise ValueError(msg)
    columns[names.OOD_SCORE] = prediction.ood_score
    columns[names.OUTSIDE_TRAINING] = outside_training(prediction.ood_score)
    return columns


def gene_columns(
    prediction: Prediction, *, panel: Panel, genes: tuple[str, ...], measurements: Measurements
) -> Columns:
    """Return what is written of each gene under QuPath's measurement names, gene by gene; (cell,) float32 each.

    Parameters
    ----------
    prediction
        One row a nucleus, one column a gene of ``panel``.
    panel
        Genes of the prediction's columns.
    genes
        Genes of the panel to write.
    measurements
        ``short``: mean and both SDs; ``all``: p05 and p95 too.

    Raises
    ------
    ValueError
        The prediction has another number of genes, or lacks the quantiles.
    """
    if prediction.mean.shape[1] != len(panel):
        msg = f"expected a prediction of {len(panel)} genes, found one of {prediction.mean.shape[1]}"
        raise ValueError(msg)
    of_gene = panel.index(genes)
    values = {quantity: _values(prediction, quantity, of_gene) for quantity in quantities(measurements)}
    return {
        names.gene_measurement(gene, quantity): matrix[:, i]
        for i, gene in enumerate(genes)
        for quantity, matrix in values.items()
    }


def outside_training(ood_score: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (cell,) 1 beyond the limit, 0 within it, NaN where there is no score."""
    flag = (ood_score > OOD_LIMIT).astype(np.float32)
    flag[np.isnan(ood_score)] = np.nan
    return flag


def _values(prediction: Prediction, quantity: str, of_gene: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return (cell, gene) of one quantity; variances become SDs."""
    attribute = quantity.removesuffix(" SD")
    matrix = getattr(prediction, attribute)
    if matrix is None:
        msg = f"expected a prediction with {attribute}, found none; ask for intervals"
        raise ValueError(msg)
    selected: NDArray[np.float32] = np.asarray(matrix[:, of_gene], dtype=np.float32)
    return np.sqrt(np.maximum(selected, 0)) if quantity.endswith(" SD") else selected


def table_column(measurement: str) -> str:
    """Return the column of a measurement in the tables: ``STimage: ERBB2: mean`` is ``ERBB2_mean``.

    A measurement that :mod:`stimage_qupath.names` does not know becomes lower case with underscores.
    """
    if measurement in names.TABLE_COLUMN:
        return names.TABLE_COLUMN[measurement]
    of_type = names.type_column(measurement)
    if of_type is not None:
        return of_type
    text = measurement.removeprefix(names.PREFIX)
    gene, _, quantity = text.rpartition(": ")
    if text != measurement and gene and quantity in GENE_QUANTITIES:
        return names.gene_column(gene, quantity)
    return re.sub(r"[^0-9a-z]+", "_", text.lower().replace("µ", "u").replace("^", "")).strip("_")


def table_columns(columns: Mapping[str, NDArray[np.float32]]) -> Columns:
    """Return ``columns`` under their table names.

    Raises
    ------
    ValueError
        Two measurements would share one column, or one is called as a key column.
    """
    taken = [*KEY_COLUMNS, *map(table_column, columns)]
    doubled = sorted({column for column in taken if taken.count(column) > 1})
    if doubled:
        msg = f"expected one measurement for each column, found several for {', '.join(doubled)}"
        raise ValueError(msg)
    return {table_column(name): values for name, values in columns.items()}
