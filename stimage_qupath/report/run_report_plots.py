"""Pictures of a run's report, each an SVG that follows the reader's light or dark setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.export.run_genes import GeneValues
from stimage_qupath.export.tables import OOD_LIMIT
from stimage_qupath.report.html import Picture
from stimage_qupath.report.plots import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    coverage_curves,
    data_uri,
    plot_axes,
    plot_legend,
)

MOST_GENES: Final = 24
"""More rows than this no reader compares."""
BINS: Final = 48


def run_pictures(
    genes: Mapping[str, GeneValues], ood_score: NDArray[np.float64] | None, card: Mapping[str, Any]
) -> list[Picture]:
    """Return the pictures of a run.

    Parameters
    ----------
    genes
        Values of all nuclei.
    ood_score
        (nucleus,), or None where nothing was predicted.
    card
        The model's card.
    """
    shown = dict(list(genes.items())[:MOST_GENES])
    if ood_score is None or not len(ood_score) or not shown:
        return []
    found = [*_held_out(shown, card), _spread(shown), _uncertainty(shown), _outside(ood_score)]
    return found + _calibration(card)


def _held_out(genes: Mapping[str, GeneValues], card: Mapping[str, Any]) -> list[Picture]:
    """Return the held-out correlation of each gene with its interval."""
    known = {gene: card["genes"][gene] for gene in genes if gene in card.get("genes", {})}
    if not known:
        return []
    ranked = sorted(known, key=lambda gene: -known[gene]["pcc_residual"])
    figure, axes = plot_axes(4.4, 0.8 + 0.22 * len(ranked))
    for place, gene in enumerate(ranked):
        low, high = known[gene]["ci"]
        colour = BLUE if low > 0 else GREY
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot([known[gene]["pcc_residual"]], [place], "o", color=colour, markersize=4.5)
    axes.axvline(0, color=INK, linewidth=0.7, linestyle=":")
    _rows(axes, ranked)
    axes.set(xlabel="held-out correlation with Pearson residuals")
    said = ", ".join(f"{gene} {known[gene]['pcc_residual']:.2f}" for gene in ranked)
    caption = "How well each gene was predicted on sections that training had not seen; grey: the interval includes 0."
    return [Picture(data_uri(figure), caption, f"Held-out correlation by gene: {said}.")]


def _spread(genes: Mapping[str, GeneValues]) -> Picture:
    """Return the distribution of each gene's predicted mean over the nuclei, one ridge a gene."""
    figure, axes = plot_axes(4.4, 0.8 + 0.34 * len(genes))
    for place, values in enumerate(genes.values()):
        logs = np.log10(np.maximum(values.mean[np.isfinite(values.mean)], 1e-3))
        height, edges = np.histogram(logs, bins=BINS)
        curve = height / max(height.max(initial=1), 1) * 0.85
        middle = 10 ** ((edges[1:] + edges[:-1]) / 2)
        axes.fill_between(middle, place, place - curve, color=BLUE, alpha=0.45, linewidth=0)
        axes.plot(middle, place - curve, color=BLUE, linewidth=1)
        if len(logs):
            axes.plot([10 ** np.median(logs)] * 2, [place, place - 0.3], color=ORANGE, linewidth=1.6)
    axes.set_xscale("log")
    _rows(axes, list(genes))
    axes.set(xlabel="predicted mean, counts at reference depth", ylim=(len(genes) - 0.7, -1))
    caption = "Predicted means over the nuclei of this run, each gene to its own height; orange: the median."
    return Picture(data_uri(figure), caption, "Distribution of predicted means of each gene over all nuclei.")


def _uncertainty(genes: Mapping[str, GeneValues]) -> Picture:
    """Return the median relative SD of each gene, split by kind."""
    figure, axes = plot_axes(4.4, 0.95 + 0.24 * len(genes))
    said = []
    for place, (gene, values) in enumerate(genes.items()):
        mean = np.maximum(values.mean, 1e-9)
        chance, models = (float(np.nanmedian(sd / mean)) for sd in (values.aleatoric_sd, values.epistemic_sd))
        first = place == 0
        axes.barh(place - 0.19, chance, height=0.36, color=BLUE, label="aleatoric" if first else None)
        axes.barh(place + 0.19, models, height=0.36, color=ORANGE, label="epistemic" if first else None)
        said.append(f"{gene} {chance:.2f} and {models:.2f}")
    _rows(axes, list(genes))
    axes.set(xlabel="SD over mean, median of the nuclei")
    plot_legend(axes)
    caption = (
        "Aleatoric: counts scatter even where the model is right. Epistemic: the models disagree. The second is only "
        "about models trained on the same patients."
    )
    return Picture(data_uri(figure), caption, f"Relative aleatoric and epistemic SD by gene: {'; '.join(said)}.")


def _outside(ood_score: NDArray[np.float64]) -> Picture:
    """Return how far the nuclei lie from what training saw."""
    figure, axes = plot_axes(4.4, 3.0)
    known = ood_score[np.isfinite(ood_score)]
    high = max(1.5, float(np.percentile(known, 99.9))) if len(known) else 1.5
    edges = np.linspace(0, high, 61)
    clipped = np.minimum(known, high)
    axes.hist(clipped[clipped <= OOD_LIMIT], bins=edges.tolist(), color=BLUE, alpha=0.75, label="within training")
    axes.hist(clipped[clipped > OOD_LIMIT], bins=edges.tolist(), color=GREY, label="outside training")
    axes.axvline(OOD_LIMIT, color=INK, linewidth=0.9, linestyle=":")
    axes.set(xlabel="OOD score", ylabel="nuclei")
    plot_legend(axes)
    beyond = float((known > OOD_LIMIT).mean()) if len(known) else 0.0
    caption = f"Distance of each nucleus from the training tiles; 1 is their 99th percentile. Beyond it: {beyond:.1%}."
    return Picture(data_uri(figure), caption, f"Histogram of the OOD score; {beyond:.1%} of the nuclei lie beyond 1.")


def _calibration(card: Mapping[str, Any]) -> list[Picture]:
    """Return the coverage of intervals on held-out sections, where the card holds it."""
    coverage = {
        name: figures["coverage"]
        for kind in card.get("held_out", {}).values()
        for name, figures in kind.get("sections", {}).items()
        if "coverage" in figures
    }
    if not coverage:
        return []
    caption = "Share of held-out counts inside the model's intervals, from the model card; on the line all is right."
    said = " ".join(f"{name}: {of.get('0.9', float('nan')):.3f} of 90 %." for name, of in coverage.items())
    return [Picture(coverage_curves(coverage), caption, f"Coverage against level. {said}")]


def _rows(axes: Any, names: list[str]) -> None:
    """Name the rows of a picture, from the top; a dollar sign is no formula."""
    shown = [name if len(name) <= 22 else f"{name[:21]}…" for name in names]
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in shown])
    axes.set_ylim(len(names) - 0.4, -0.6)
