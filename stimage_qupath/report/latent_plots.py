"""Nuclei in the space of the features that the model sees of them, coloured by what is known of them."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stimage_qupath import names

AXES = {
    "pca": ("first principal component", "second principal component"),
    "umap": ("UMAP 1 (distances between groups mean nothing)", "UMAP 2"),
}
MOST_GROUPS = 10
"""More colours than these cannot be told apart; rarer groups are drawn grey."""
GREY = "#9a9a9a"


def latent_plots(places: pd.DataFrame, colours: Mapping[str, pd.Series], *, note: str) -> dict[str, bytes]:
    """Return ``latent_<what>.png`` of everything that places are coloured by, by file name.

    Parameters
    ----------
    places
        ``x``, ``y`` and ``method``: each place once a method.
    colours
        What, to the value of each place in the order of ``places``; numbers get a scale, words a colour each.
    note
        Sentence under each picture.
    """
    return {
        names.LATENT_PNG.format(what=names.in_file_name(what)): _plot(places, what, values.to_numpy(), note)
        for what, values in colours.items()
    }


def _plot(places: pd.DataFrame, what: str, values: NDArray[np.generic], note: str) -> bytes:
    methods = list(places["method"].unique())
    figure = Figure(figsize=(6 * len(methods), 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, method in zip(np.ravel(figure.subplots(1, len(methods))), methods, strict=True):
        here = (places["method"] == method).to_numpy()
        x, y = places["x"].to_numpy()[here], places["y"].to_numpy()[here]
        draw = _numbers if values.dtype.kind in "fiu" else _words
        draw(figure, axes, x, y, values[here])
        axes.set(xlabel=AXES[method][0], ylabel=AXES[method][1], xticks=[], yticks=[])
        axes.set_title(f"{what}   {len(x):,} nuclei   {method.upper()}", fontsize=9)
    figure.supxlabel(note, fontsize=6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _numbers(
    figure: Figure, axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.generic]
) -> None:
    """Draw dots with a scale between the 1st and the 99th percentile."""
    numbers = values.astype(np.float64)
    low, high = np.nanpercentile(numbers, [1, 99]) if np.isfinite(numbers).any() else (0.0, 1.0)
    dots = axes.scatter(x, y, s=3, c=numbers, cmap=colormaps["viridis"], vmin=low, vmax=high, linewidths=0)
    figure.colorbar(dots, ax=axes, shrink=0.7)


def _words(
    figure: Figure, axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.generic]
) -> None:
    """Draw the most frequent words in a colour each, the others grey."""
    words, counts = np.unique(values.astype(str), return_counts=True)
    frequent = words[np.argsort(-counts, kind="stable")][:MOST_GROUPS]
    rare = ~np.isin(values.astype(str), frequent)
    if rare.any():
        axes.scatter(x[rare], y[rare], s=3, color=GREY, linewidths=0, label="others")
    for number, word in enumerate(frequent):
        here = values.astype(str) == word
        axes.scatter(x[here], y[here], s=3, color=colormaps["tab10"](number), linewidths=0, label=word or "none")
    axes.legend(fontsize=7, markerscale=3, loc="best")
