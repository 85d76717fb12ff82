"""Pictures of an evaluation, each a self-contained SVG that follows the reader's light or dark setting."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Float = NDArray[np.float64]

INK = "#010203"
"""Stands for the colour of text and lines until the SVG is written, which no other element has."""
BLUE, ORANGE, GREEN, GREY = "#3b76b0", "#d8802a", "#2f8f5b", "#8a8a8a"
STYLE = "<style>svg{color:#1d2329}@media (prefers-color-scheme:dark){svg{color:#d7dde3}}</style>"


@dataclass(frozen=True, slots=True)
class Maps:
    """One gene on one section.

    Attributes
    ----------
    gene, role
        Symbol, and ``best``, ``median`` or ``worst``.
    pcc
        Residual correlation of the gene.
    positions_um
        (spot, 2).
    panels
        Title to (spot,) values: measured, mean, both uncertainties.
    """

    gene: str
    role: str
    pcc: float
    positions_um: Float
    panels: Mapping[str, Float]


def data_uri(figure: Figure) -> str:
    """Return a figure as the ``data:`` address of an SVG; equal figures give equal text."""
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "stimage-qupath", "svg.fonttype": "path"}):
        figure.set_canvas(FigureCanvasSVG(figure))
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue().decode("utf-8").replace(INK, "currentColor")
    head = svg.index(">", svg.index("<svg")) + 1
    svg = svg[svg.index("<svg") : head] + STYLE + svg[head:]
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def plot_axes(width: float = 4.2, height: float = 3.0) -> tuple[Figure, Axes]:
    """Return an empty figure of that size in inches, transparent and in the reader's own ink."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot()
    _ink(axes)
    return figure, axes


def _ink(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(INK)
        label.set_fontsize(9)


def plot_legend(axes: Axes) -> None:
    """Add a legend in the reader's own ink."""
    legend = axes.legend(fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_color(INK)


def pcc_distribution(pcc: Mapping[str, Float]) -> str:
    """Return histograms of the residual correlation of each gene, one line a section."""
    figure, axes = plot_axes()
    values = np.concatenate([v[np.isfinite(v)] for v in pcc.values()])
    bins = np.linspace(min(-0.2, float(values.min(initial=0))), max(0.4, float(values.max(initial=0))), 41).tolist()
    for (name, of), colour in zip(pcc.items(), _colours(len(pcc)), strict=True):
        axes.hist(of[np.isfinite(of)], bins=bins, histtype="step", color=colour, label=name)
    axes.axvline(0, color=INK, linewidth=0.7)
    axes.set(xlabel="correlation with Pearson residuals", ylabel="genes")
    plot_legend(axes)
    return data_uri(figure)


def coverage_curves(coverage: Mapping[str, Mapping[str, float]]) -> str:
    """Return randomised coverage against the level, one line a section."""
    figure, axes = plot_axes()
    axes.plot([0.4, 1], [0.4, 1], color=INK, linewidth=0.7, linestyle=":", label="exact")
    for (name, of), colour in zip(coverage.items(), _colours(len(coverage)), strict=True):
        levels = [float(level) for level in of]
        axes.plot(levels, list(of.values()), marker="o", markersize=3, color=colour, label=name)
    axes.set(xlabel="level of the interval", ylabel="counts inside", xlim=(0.45, 1), ylim=(0.4, 1))
    plot_legend(axes)
    return data_uri(figure)


def pit_histogram(pit: Mapping[str, Sequence[float]]) -> str:
    """Return the histogram of the randomised transform, one line a section; flat where all is right."""
    figure, axes = plot_axes()
    for (name, of), colour in zip(pit.items(), _colours(len(pit)), strict=True):
        axes.stairs(np.asarray(of) * len(of), np.linspace(0, 1, len(of) + 1), color=colour, label=name)
    axes.axhline(1, color=INK, linewidth=0.7, linestyle=":")
    axes.set(xlabel="predicted level of the measured count", ylabel="density", ylim=(0, None))
    plot_legend(axes)
    return data_uri(figure)


def risk_curves(kept: Float, curves: Mapping[str, Float], title: str) -> str:
    """Return the error of the spots that are kept when the least certain ones are left out."""
    figure, axes = plot_axes()
    colours = {"oracle": GREY, "predicted_mean": ORANGE, "total_sd": BLUE}
    for name, curve in curves.items():
        axes.plot(kept, curve, color=colours.get(name, GREEN), label=name.replace("_", " "))
    axes.axhline(1, color=INK, linewidth=0.7, linestyle=":", label="random")
    axes.set(xlabel="spots kept", ylabel="error over that of all", title=title, ylim=(0, None))
    plot_legend(axes)
    return data_uri(figure)


def forest(rows: Mapping[str, tuple[float, tuple[float, float] | None]], *, emphasised: Sequence[str]) -> str:
    """Return figures with their intervals, one a line, beside a line at one half.

    Parameters
    ----------
    rows
        Name to a figure between 0 and 1 and its interval, if it has one; from the top.
    emphasised
        Names drawn in the other colour.
    """
    figure, axes = plot_axes(5.6, 0.7 + 0.24 * len(rows))
    for place, (name, (value, interval)) in enumerate(rows.items()):
        colour = ORANGE if name in emphasised else BLUE
        if interval is not None:
            axes.plot(interval, [place, place], color=colour, linewidth=1.6)
        axes.plot([value], [place], marker="o", markersize=4, color=colour)
    axes.axvline(0.5, color=INK, linewidth=0.7, linestyle=":")
    shown = [name if len(name) <= 40 else f"{name[:39]}…" for name in rows]
    axes.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name in shown])
    axes.set(xlabel="AUROC against the rest", xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    return data_uri(figure)


def gene_maps(maps: Maps) -> str:
    """Return measured and predicted values of one gene side by side, each with its own colours."""
    # Places are set by hand: the layout engine would draw everything twice.
    count = len(maps.panels)
    figure = Figure(figsize=(2.6 * count, 3.1), facecolor="none")
    x, y = maps.positions_um.T / 1000
    for number, (title, values) in enumerate(maps.panels.items()):
        left = (number + 0.04) / count
        axes = figure.add_axes((left, 0.2, 0.92 / count, 0.7))
        _ink(axes)
        low, high = np.percentile(values, [2, 98])
        dots = axes.scatter(x, y, c=values, s=14, cmap="viridis", vmin=low, vmax=max(high, low + 1e-9), linewidths=0)
        dots.set_rasterized(True)
        axes.set(title=title, xticks=[], yticks=[], aspect="equal")
        axes.invert_yaxis()
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(
            dots, cax=figure.add_axes((left + 0.1 / count, 0.14, 0.72 / count, 0.03)), orientation="horizontal"
        )
        bar.locator = MaxNLocator(4)
        bar.ax.tick_params(colors=INK, labelsize=7)
        bar.outline.set_visible(False)
    return data_uri(figure)


def _colours(number: int) -> list[str]:
    named = [BLUE, ORANGE, GREEN, "#a0509d", "#b8423c", "#6b7a1e"]
    return [named[i % len(named)] for i in range(number)]
