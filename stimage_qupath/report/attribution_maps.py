"""One picture a gene: the slide, and the nuclei coloured by how much each drove the prediction."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.report.overview import MOST_DOTS

EXTREME = 98
"""Percentile of the absolute values at which colours end: a few nuclei are far beyond."""


def attribution_maps(
    table: pd.DataFrame, background: tuple[NDArray[np.uint8], float], how: str, *, signed: bool, note: str
) -> dict[str, bytes]:
    """Return ``attribution_<GENE>.png`` of each gene, by file name.

    Parameters
    ----------
    table
        One row a nucleus: ``x_px``, ``y_px``, and one column a map, named as it is shown; NaN where there is no value.
    background
        Picture of the slide, (height, width, 3), and its level-0 px a pixel.
    how
        Method and fill, for the title.
    signed
        Whether the sign says up or down.
    note
        Sentences under each picture.
    """
    what = [column for column in table.columns if column not in ("x_px", "y_px")]
    shown = table.iloc[:: -(-len(table) // MOST_DOTS) or 1]
    meaning = "red: raises the prediction" if signed else "which way is not said"
    return {
        names.ATTRIBUTION_PNG.format(what=names.in_file_name(column)): _picture(
            shown, column, background, title=how, label=f"{column}: attribution ({meaning})", note=note
        )
        for column in what
    }


def _picture(
    table: pd.DataFrame,
    column: str,
    background: tuple[NDArray[np.uint8], float],
    *,
    title: str,
    label: str,
    note: str,
) -> bytes:
    pixels, downsample = background
    left, right, top, bottom = _around(table, downsample, pixels.shape[:2])
    figure = Figure(figsize=(8, 8 * (bottom - top) / (right - left) + 1.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(pixels, alpha=0.45)
    found = table[np.isfinite(table[column])]
    # The strongest last, so that they are not hidden under others.
    found = found.iloc[np.argsort(np.abs(found[column].to_numpy()), kind="stable")]
    values = found[column].to_numpy()
    limit = float(np.percentile(np.abs(values), EXTREME)) if len(values) else 0.0
    dots = axes.scatter(
        found.x_px / downsample,
        found.y_px / downsample,
        c=values,
        s=float(np.clip(20_000 / max(len(found), 1), 0.4, 12)),
        cmap=colormaps["RdBu_r"],
        vmin=-(limit or 1.0),
        vmax=limit or 1.0,
        linewidths=0,
    )
    figure.colorbar(dots, ax=axes, shrink=0.7, label=label)
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    axes.set_title(f"{column}   {len(values):,} nuclei shown   {title}", fontsize=9)
    figure.supxlabel(note, fontsize=6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _around(table: pd.DataFrame, downsample: float, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of the part of the picture that holds nuclei, with a margin."""
    height, width = shape
    if table.empty:
        return 0.0, float(width), 0.0, float(height)
    x, y = table.x_px.to_numpy() / downsample, table.y_px.to_numpy() / downsample
    margin = 0.04 * max(float(np.ptp(x)), float(np.ptp(y)), 50.0)
    left, right = max(0.0, float(x.min()) - margin), min(float(width), float(x.max()) + margin)
    top, bottom = max(0.0, float(y.min()) - margin), min(float(height), float(y.max()) + margin)
    return left, right, top, bottom
