"""One picture a gene: the slide, its regions, and the nuclei coloured by predicted mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.results import Region
from stimage_qupath.slide.reader import Slide

LONG_SIDE_PX = 1200
MOST_DOTS = 200_000
"""More dots than this say no more on a picture of this size."""
GREY = "#9a9a9a"


def overview_name(gene: str) -> str:
    """Return the file name of a gene's picture; characters no file name may hold become ``_``."""
    return names.OVERVIEW_PNG.format(gene=names.in_file_name(gene))


def thumbnail(slide: Slide) -> tuple[NDArray[np.uint8], float]:
    """Return a small picture of an open slide, (height, width, 3), and its level-0 px a pixel."""
    downsample = max(1.0, max(slide.width, slide.height) / LONG_SIDE_PX)
    size = max(1, int(slide.width / downsample)), max(1, int(slide.height / downsample))
    return slide.read_region(0, 0, width=size[0], height=size[1], downsample=downsample), downsample


def draw_overviews(
    folder: Path, table: pd.DataFrame, slide: Slide, regions: Sequence[Region], genes: Sequence[str], *, note: str
) -> None:
    """Draw ``overview_<GENE>.png`` of each gene into ``folder``.

    Parameters
    ----------
    folder
        Where the pictures go.
    table
        One row a nucleus: ``x_px``, ``y_px``, ``outside_training`` and the means of ``genes``.
    slide
        Open slide.
    regions
        What was analysed.
    genes
        Genes to draw.
    note
        Sentence under each picture.
    """
    if not genes:
        return
    background, downsample = thumbnail(slide)
    step = -(-len(table) // MOST_DOTS) or 1
    shown = table.iloc[::step]
    for gene in genes:
        _draw(folder / overview_name(gene), background, shown, regions, gene, downsample=downsample, note=note)


def _draw(
    path: Path,
    background: NDArray[np.uint8],
    table: pd.DataFrame,
    regions: Sequence[Region],
    gene: str,
    *,
    downsample: float,
    note: str,
) -> None:
    height, width = background.shape[:2]
    figure = Figure(figsize=(8, 8 * height / width + 0.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(background, alpha=0.55)
    for region in regions:
        for ring in shapely.get_rings(region.geometry):
            axes.plot(*(shapely.get_coordinates(ring).T / downsample), color="black", linewidth=0.8)
    x, y = table.x_px.to_numpy() / downsample, table.y_px.to_numpy() / downsample
    values = table[names.gene_column(gene, "mean")].to_numpy()
    inside = table.outside_training.to_numpy() == 0
    dot = float(np.clip(20_000 / max(len(table), 1), 0.4, 12))
    axes.scatter(x[~inside], y[~inside], s=dot, color=GREY, linewidths=0)
    if inside.any():
        low, high = np.percentile(values[inside], [1, 99])
        dots = axes.scatter(
            x[inside], y[inside], s=dot, c=values[inside], cmap=colormaps["viridis"], vmin=low, vmax=high, linewidths=0
        )
        figure.colorbar(dots, ax=axes, shrink=0.7, label=f"{gene}: predicted mean (counts at reference depth)")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.set_title(
        f"{gene}   {len(values):,} nuclei shown, {int((~inside).sum()):,} outside training (grey)", fontsize=9
    )
    figure.supxlabel(note, fontsize=6)
    with output_errors(path):
        figure.savefig(path, metadata={"Software": None})
