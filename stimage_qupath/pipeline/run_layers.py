"""What the viewer of a run's report can colour its nuclei by, read from the run's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.errors import UnknownGeneError
from stimage_qupath.export.run_genes import GeneValues, read_genes
from stimage_qupath.export.run_reader import Run
from stimage_qupath.export.tables import KEY_COLUMNS, table_column
from stimage_qupath.geojson_dialect.color import QUPATH_COLORS
from stimage_qupath.report.run_report_layers import CLASS_COLOURS, Layer

Float = NDArray[np.float64]

COUNTS: Final = "counts at reference depth"
WRITTEN: Final = ("mean", "aleatoric_sd", "epistemic_sd")
NUCLEUS: Final = {
    names.AREA: ("nucleus area", "µm²"),
    names.HEMATOXYLIN_MEAN: ("hematoxylin of the nucleus", "optical density"),
    names.BLUR: ("blur", "above 1: out of focus"),
}
"""Of shape, stain and quality, what is worth a layer."""
SIGNED: Final = "attribution"


def read_gene_values(finished: Run, table: pd.DataFrame, asked: Sequence[str]) -> dict[str, GeneValues]:
    """Return the values of the genes ``asked`` for, else of those the run wrote for QuPath.

    Raises
    ------
    UnknownGeneError
        The run's panel lacks one.
    """
    genes = list(dict.fromkeys(asked)) or list(finished.record["genes"])
    if finished.record.get("model") is None:
        if asked:
            msg = f"expected a run with predictions at {finished.path}, found nuclei alone; leave --genes out"
            raise UnknownGeneError(msg)
        return {}
    there = [gene for gene in genes if all(f"{gene}_{quantity}" in table for quantity in WRITTEN)]
    rest = read_genes(finished, [gene for gene in genes if gene not in there]) if len(there) < len(genes) else {}
    return {gene: rest[gene] if gene in rest else _written(table, gene) for gene in genes}


def _written(table: pd.DataFrame, gene: str) -> GeneValues:
    mean, aleatoric, epistemic = (table[f"{gene}_{quantity}"].to_numpy(np.float64) for quantity in WRITTEN)
    return GeneValues(mean, aleatoric, epistemic, None)


def layers_of(
    finished: Run, table: pd.DataFrame, genes: Mapping[str, GeneValues], clusters: Mapping[str, Layer]
) -> list[Layer]:
    """Return all layers, those of genes first.

    Parameters
    ----------
    finished, table
        The run and its table.
    genes
        Values of the genes shown.
    clusters
        Local clusters of some of them.
    """
    found: list[Layer] = []
    for gene, values in genes.items():
        total = np.hypot(values.aleatoric_sd, values.epistemic_sd)
        found.append(Layer(gene, "mean", COUNTS, values.mean))
        found.append(Layer(gene, "total SD", COUNTS, total, "doubt"))
        found.append(Layer(gene, "epistemic SD", COUNTS, values.epistemic_sd, "doubt"))
        found += [_attribution(table, gene, gene)] if f"{gene}_{SIGNED}" in table else []
        found += [clusters[gene]] if gene in clusters else []
    return [*found, *_of_cells(finished, table, set(genes))]


def _attribution(table: pd.DataFrame, gene: str, column: str) -> Layer:
    values = table[f"{column}_{SIGNED}"].to_numpy(np.float64)
    unit = f"share in the log of the expected count. {names.FAITHFUL_TO_MODEL}"
    return Layer(gene, SIGNED, unit, values, "diverging")


def _of_cells(finished: Run, table: pd.DataFrame, genes: set[str]) -> list[Layer]:
    """Return the layers that are of no gene."""
    found = []
    score = names.TABLE_COLUMN[names.OOD_SCORE]
    if score in table:
        found.append(Layer(None, "OOD score", "above 1: outside training", table[score].to_numpy(np.float64), "doubt"))
    if table["cell_type"].notna().any():
        found.append(_types(table["cell_type"]))
    for name, (title, unit) in NUCLEUS.items():
        column = names.TABLE_COLUMN[name]
        if column in table and table[column].notna().any():
            found.append(Layer(None, title, unit, table[column].to_numpy(np.float64)))
    return found + _further(finished, table)


def _types(types: pd.Series) -> Layer:
    """Return the classes of nuclei: QuPath's colours for its own, colours that all eyes tell apart for others."""
    categories = types.astype("category")
    known = [str(name) for name in categories.cat.categories]
    codes = categories.cat.codes.to_numpy(np.float64)
    palette = [
        "#{:02x}{:02x}{:02x}".format(*QUPATH_COLORS[name]) if name in QUPATH_COLORS else CLASS_COLOURS[i % 10]
        for i, name in enumerate(known)
    ]
    classes = list(zip(known, palette, strict=True))
    return Layer(None, "cell type", "", np.where(codes < 0, np.nan, codes), "classes", classes)


def _further(finished: Run, table: pd.DataFrame) -> list[Layer]:
    """Return what other commands added under the package's own names: signatures, probabilities of types."""
    genes = {str(gene) for gene in finished.record["genes"]}
    known = {*KEY_COLUMNS, *names.TABLE_COLUMN.values()}
    found = []
    for measurement in finished.record["measurements"]:
        column = table_column(measurement)
        text = measurement.removeprefix(names.PREFIX)
        of_gene = text.rpartition(": ")[0] in genes or text.endswith((": attribution", ": attribution SD"))
        if not measurement.startswith(names.PREFIX) or column in known or column not in table or of_gene:
            continue
        if table[column].notna().any():
            scale = "doubt" if text.endswith((" SD", "entropy")) else "sequential"
            found.append(Layer(None, text, "", table[column].to_numpy(np.float64), scale))  # type: ignore[arg-type]
    return found
