"""Where nuclei of high attribution lie, as tables and a picture of a validation's page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from stimage_qupath.report import plots
from stimage_qupath.report.html import Picture, Table

KINDS: Final = {
    "classes": "Nuclei of high attribution in each class of the annotations, blocks against blocks",
    "cell_types": "Nuclei of high attribution by predicted type, within blocks",
    "shapes": "Nuclei of high attribution by shape and stain of the nucleus, within blocks",
}
COLUMNS: Final = [
    "",
    "group",
    "nuclei",
    "high in it",
    "high elsewhere",
    "ratio",
    "difference [95 %]",
    "blocks",
    "p",
    "q (FDR)",
]
DASH: Final = "–"


def enrichment_tables(record: Mapping[str, Any] | None) -> list[Table]:
    """Return a table of classes, of types and of shapes; nothing where no gene is explained."""
    if record is None:
        return []
    tables = []
    for kind, caption in KINDS.items():
        rows = [[gene, *_cells(name, one)] for gene, of in record[kind].items() for name, one in of.items()]
        if rows:
            sides = ", ".join(f"{gene} {of['block_um']:g} µm" for gene, of in record["blocks"].items())
            tables.append(Table(f"{caption}. High: {record['high']}. Blocks: {sides}. {record['note']}", COLUMNS, rows))
    return tables


def enrichment_pictures(record: Mapping[str, Any] | None) -> list[Picture]:
    """Return one picture of all differences; nothing where no gene is explained."""
    if record is None:
        return []
    rows = {
        f"{gene}, {name}": (one["difference"], one["ci"], one["q"])
        for kind in KINDS
        for gene, of in record[kind].items()
        for name, one in of.items()
        if one["nuclei"] and one["rest"]
    }
    if not rows:
        return []
    said = "; ".join(f"{name} {difference:.3f}" for name, (difference, _, _) in rows.items())
    return [
        Picture(
            _differences(rows),
            "By how much the share of nuclei of high attribution is larger in a group than elsewhere, with 95 % "
            "intervals; in blue where q is below .05.",
            f"Differences of shares: {said}.",
        )
    ]


def enrichment_lines(record: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each gene and class, as a terminal shows it."""
    if record is None:
        return []
    lines = []
    for gene, of in record["classes"].items():
        for name, one in of.items():
            q = one["reason"] if one["p"] is None else f"q {one['q']:.4f}"
            lines.append(f"{gene} in {name}: {_share(one['share'])} high, {_share(one['rest_share'])} elsewhere, {q}")
    return lines


def _share(value: float | None) -> str:
    return DASH if value is None or math.isnan(value) else f"{value:.3f}"


def _cells(name: str, one: Mapping[str, Any]) -> list[str]:
    between = DASH if one["ci"] is None else f"{one['difference']:.3f} [{one['ci'][0]:.3f}, {one['ci'][1]:.3f}]"
    tested = [one["reason"], DASH] if one["p"] is None else [f"{one['p']:.4f}", f"{one['q']:.4f}"]
    shares = [_share(one["share"]), _share(one["rest_share"])]
    ratio = DASH if one["ratio"] is None else f"{one['ratio']:.2f}"
    return [name, str(one["nuclei"]), *shares, ratio, between, str(one["blocks"]), *tested]


def _differences(rows: Mapping[str, tuple[float, tuple[float, float] | None, float | None]]) -> str:
    figure, axes = plots.plot_axes(5.6, 0.8 + 0.24 * len(rows))
    for place, (difference, ci, q) in enumerate(rows.values()):
        colour = plots.BLUE if q is not None and q < 0.05 else plots.GREY
        if ci is not None:
            axes.plot(ci, [place, place], color=colour, linewidth=1.6)
        axes.plot([difference], [place], marker="o", markersize=4, color=colour)
    axes.axvline(0, color=plots.INK, linewidth=0.7, linestyle=":")
    shown = [name if len(name) <= 44 else f"{name[:43]}…" for name in rows]
    axes.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in shown])
    axes.set(xlabel="share of high nuclei, in the group less elsewhere", ylim=(len(rows) - 0.4, -0.6))
    return plots.data_uri(figure)
