"""The picture of a test of attributions: what painting over nuclei does, in their order and in that of the controls."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3b76b0", "#d8802a", "#8a8a8a"
LINES = {
    "ordered": ("by attribution", BLUE, "-"),
    "matched": ("matched nuclei", ORANGE, "--"),
    "regions": ("random regions", GREY, ":"),
}
INCHES = 3.0
DPI = 130


def faithfulness_png(by_gene: Mapping[str, Mapping[str, Any]], *, note: str) -> bytes:
    """Return a PNG: a column a gene, deletion above insertion.

    Parameters
    ----------
    by_gene
        Gene to its record, of :func:`stimage_qupath.pipeline.faithfulness_verdict.verdict`.
    note
        Sentence under the picture.
    """
    figure = Figure(figsize=(max(INCHES * len(by_gene), 2 * INCHES), 2 * INCHES), layout="constrained")
    grid = figure.subplots(2, len(by_gene), sharex=True, squeeze=False)
    for column, (gene, of) in zip(grid.T, by_gene.items(), strict=True):
        for axes, way in zip(column, ("deletion", "insertion"), strict=True):
            _draw(axes, of["shares"], of["curves"][way])
        column[0].set_title(f"{gene.replace('$', chr(92) + '$')}\n{verdict_text(of)}", fontsize=8)
        column[1].set_xlabel("share of the nuclear area", fontsize=8)
    grid[0, 0].set_ylabel("painted over:\nchange of the log mean", fontsize=8)
    grid[1, 0].set_ylabel("restored:\nchange of the log mean", fontsize=8)
    grid[0, 0].legend(fontsize=7, frameon=False)
    figure.supxlabel(note, fontsize=7)
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def verdict_text(of: Mapping[str, Any]) -> str:
    """Return the effect size with its interval and the corrected p of one gene, in a few words."""
    test = of["over_matched_nuclei"]["both"]
    low, high = test["size_ci"]
    p = of["reason"] if test["p_holm"] is None else f"p {test['p_holm']:.2g} (Holm)"
    return f"d {test['size']:.2f} [{low:.2f}, {high:.2f}], {p}"


def _draw(axes: Axes, shares: list[float], curves: Mapping[str, list[float]]) -> None:
    for name, (label, colour, style) in LINES.items():
        if name in curves:
            axes.plot(shares, curves[name], color=colour, linestyle=style, marker="o", markersize=3, label=label)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
