"""Tables of a run's report: cells know what they sort by and where a click on them leads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.export.run_genes import GeneValues

DASH: Final = "–"
LEAST: Final = -1e300
"""Missing values sort below all others; scripts know no ``-inf``."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes
    ----------
    text
        What it shows.
    value
        What it sorts by; None sorts by the text.
    gene, region
        What a click shows in the viewer: a gene, or the number of a region; None: nothing.
    """

    text: str
    value: float | None = None
    gene: str | None = None
    region: int | None = None


@dataclass(frozen=True, slots=True)
class SortTable:
    """A table that its reader can sort.

    Attributes
    ----------
    title, note
        Above it, and what to know to read it.
    columns
        Heads; the first is that of the rows.
    rows
        Cells; the first names its row.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        """Refuse rows of another length."""
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            msg = f"expected rows of {len(self.columns)} cells in the table '{self.title}', found one of {wrong[0]}"
            raise ValueError(msg)


def number(value: float | None, digits: int = 2) -> Cell:
    """Return a cell of a number, or of a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell(DASH, LEAST)
    return Cell(f"{value:,.{digits}f}", float(value))


def significant(value: float) -> Cell:
    """Return a cell of a number to three significant digits, in plain notation."""
    if not math.isfinite(value):
        return Cell(DASH, LEAST)
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return Cell(f"{value:,.{min(digits, 6)}f}", float(value))


def share(value: float) -> Cell:
    """Return a cell of a share in per cent."""
    return Cell(DASH, LEAST) if not math.isfinite(value) else Cell(f"{value:.1%}", value)


def region_table(
    title: str,
    regions: Sequence[Mapping[str, Any]],
    genes: Mapping[str, GeneValues],
    outside: NDArray[np.float64] | None,
    *,
    first: int,
) -> SortTable:
    """Return one row a region.

    Parameters
    ----------
    title
        Above it.
    regions
        Each with ``label``, ``classification``, ``area_mm2`` and ``rows``, the nuclei in it.
    genes
        Values of all nuclei.
    outside
        (nucleus,) 1 beyond the OOD limit, or None where there is no prediction.
    first
        Number of the first region in the viewer.
    """
    columns = ["region", "class", "nuclei", "area, mm²", "nuclei per mm²"]
    columns += ["outside training"] if outside is not None else []
    columns += [f"{gene}, mean" for gene in genes]
    rows = []
    for place, region in enumerate(regions):
        index, area = region["rows"], region["area_mm2"]
        cells = [
            Cell(region["label"], region=first + place),
            Cell(region["classification"] or DASH),
            Cell(f"{len(index):,}", len(index)),
            number(area, 3),
            number(len(index) / area if area else None, 0),
        ]
        if outside is not None:
            cells.append(share(_mean(outside[index])))
        cells += [significant(_mean(values.mean[index])) for values in genes.values()]
        rows.append(cells)
    note = (
        "A nucleus counts in the smallest region that holds it. Choose a region to see it in the viewer. "
        "Means are of predicted counts at reference depth."
    )
    return SortTable(title, note, columns, rows)


def gene_table(genes: Mapping[str, GeneValues], card: Mapping[str, Any]) -> SortTable:
    """Return one row a gene: what is predicted in this run, and how well it was predicted on held-out sections."""
    figures = card.get("genes", {})
    rows = []
    for gene, values in genes.items():
        low, middle, high = np.nanpercentile(values.mean, [25, 50, 75]) if len(values.mean) else [math.nan] * 3
        total = np.hypot(values.aleatoric_sd, values.epistemic_sd)
        relative = total / np.maximum(values.mean, 1e-9)
        of_models = values.epistemic_sd**2 / np.maximum(total**2, 1e-18)
        known = figures.get(gene)
        spread = f"{significant(middle).text} [{significant(low).text}, {significant(high).text}]"
        held_out, support = Cell(DASH, LEAST), Cell("not measured", 0)
        if known:
            low, high = known["ci"]
            held_out = Cell(f"{known['pcc_residual']:.2f} [{low:.2f}, {high:.2f}]", known["pcc_residual"])
            support = Cell("supported", 2) if low > 0 else Cell("interval includes 0", 1)
        rows.append(
            [
                Cell(gene, gene=gene),
                Cell(spread, float(middle)),
                number(_mean(relative)),
                share(_mean(of_models)),
                held_out,
                support,
            ]
        )
    note = (
        "Held-out r: correlation with Pearson residuals of measured counts on sections that training had not seen, "
        "with its 95 % interval, from the model card. Relative SD: total SD over the mean. Epistemic share: how much "
        "of the variance is disagreement between the models. Choose a gene to see it in the viewer."
    )
    columns = ["gene", "predicted mean: median [quartiles]", "relative SD", "epistemic share", "held-out r [95 % CI]"]
    return SortTable("Genes", note, [*columns, "support"], rows)


def stage_table(record: Mapping[str, Any]) -> SortTable:
    """Return one row a stage of the run."""
    rows = [
        [
            Cell(name),
            number(of["seconds"], 1),
            Cell(f"{of['items']:,}", of["items"]),
            number(of["items_per_second"], 0),
        ]
        for name, of in record.get("stages", {}).items()
    ]
    note = f"{record.get('seconds', 0):.0f} s in all; stages overlap. Device: {record.get('device', DASH)}."
    return SortTable("How the run was made", note, ["stage", "seconds", "items", "items per second"], rows)


def moran_table(spatial: Mapping[str, Any]) -> SortTable:
    """Return Moran's I of each gene among neighbours, and among nuclei that no window holds together.

    Parameters
    ----------
    spatial
        What ``spatial.json`` holds.
    """
    rows = [
        [
            Cell(gene, gene=gene),
            number(of["moran_i"], 3),
            number(of["z"], 1),
            _p(of["q"]),
            number(of["moran_i_beyond_window"], 3),
        ]
        for gene, of in spatial["genes"].items()
    ]
    note = (
        "Moran's I of the predicted mean: 0 is no pattern, 1 the smoothest one. Neighbouring nuclei lie in each "
        f"other's {spatial['window_um']:.0f} µm window, so that their predictions agree by construction; the last "
        "column is among nuclei farther apart than that, and is the one that speaks of tissue. Clusters in the viewer "
        "are of neighbours too."
    )
    return SortTable("Spatial pattern", note, ["gene", "I, neighbours", "z", "q (FDR)", "I, beyond the window"], rows)


def pair_table(spatial: Mapping[str, Any]) -> SortTable:
    """Return bivariate Moran's I of each pair of genes, the strongest first."""
    pairs = sorted(spatial["pairs"], key=lambda pair: -abs(pair["bivariate_moran_i"]))
    rows = [[Cell(" and ".join(pair["genes"])), number(pair["bivariate_moran_i"], 3)] for pair in pairs]
    note = (
        "Bivariate Moran's I: how far the neighbours' second gene follows the first. No p is given: two smooth maps "
        "agree by chance more often than shuffled ones."
    )
    return SortTable("Genes that go together in space", note, ["pair", "I"], rows)


def _p(value: float) -> Cell:
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value)


def _mean(values: NDArray[np.floating[Any]]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
