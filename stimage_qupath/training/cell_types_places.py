"""Places of one image with a mixture of types, or the tissue that they lie in: spots, and annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.nuclei.ownership import RegionOwners
from stimage_qupath.regions.annotations import read_regions
from stimage_qupath.slide.reader import Slide
from stimage_qupath.training.cell_types_labels import Labels, as_cells, nuclei_of_image, one_hot

SPOT_UM: Final = 100.0
GRID_UM: Final = 50.0
"""Spacing of the places inside an annotation; the windows around them are several times as wide."""


def spot_proportions(
    path: Path, slide: Slide, mpp: float, *, spots: Path | None, nuclei: Path | None, spot_um: float = SPOT_UM
) -> Labels:
    """Read the proportions of types in spots: with ``nuclei`` every nucleus of a spot shares them, else its centre.

    Parameters
    ----------
    path
        TSV or CSV: a row a spot, a column a type; the rows are called ``XxY`` as in ``spots``, or the table itself has
        the columns ``x_px, y_px``.
    slide, mpp
        The image and its pixel size.
    spots
        Spot table of an ST array: ``x, y, pixel_x, pixel_y``.
    nuclei
        File of nuclei outlined in the image.
    spot_um
        Diameter of a spot.

    Raises
    ------
    UsageError
        A file is missing or of another form, or nothing of the two tables belongs together.
    """
    shares, points = _placed(_table(path), path, spots)
    values = shares.to_numpy(dtype=np.float64)
    total = values.sum(axis=1)
    if (values < 0).any() or not np.isfinite(values).all() or (total <= 0).any():
        msg = f"expected proportions of at least 0 that sum to more in {path.name}, found others"
        raise UsageError(msg)
    shares = shares / total[:, None]
    if nuclei is None:
        return Labels(points, shares.reset_index(drop=True), np.ones(len(points)))
    found = nuclei_of_image(nuclei, slide, mpp)
    cells = as_cells(found.polygons)
    nearest = shapely.STRtree(shapely.points(points)).query_nearest(
        shapely.points(cells.centroids_px), max_distance=spot_um / 2 / mpp, all_matches=False
    )
    nucleus, spot = nearest
    if not len(nucleus):
        msg = f"expected nuclei inside the spots of {path.name}, found none; check the pixel size and the spot table"
        raise UsageError(msg)
    each = np.bincount(spot, minlength=len(points))
    empty = int((each == 0).sum())
    notes = (f"{empty} of {len(points)} spots hold no nucleus and were left out",) if empty else ()
    kept = cells.take(nucleus)
    return Labels(kept.centroids_px, shares.iloc[spot].reset_index(drop=True), 1 / each[spot], kept, {}, notes)


def annotated_areas(path: Path, slide: Slide, mpp: float, *, grid_um: float = GRID_UM) -> Labels:
    """Return places on a grid inside classified annotations; where annotations overlap, the smallest has its say.

    Raises
    ------
    UsageError, AnnotationError
        The file is missing or faulty, or no annotation in it has a class.
    """
    regions = [r for r in read_regions(path).regions if r.classification is not None]
    if not regions:
        msg = f"expected annotations with a class in {path.name}, found none; set it in QuPath and export again"
        raise UsageError(msg)
    owners = RegionOwners(regions)
    step = grid_um / mpp
    points, names, weights = [], [], []
    for number, region in enumerate(regions):
        inside = _grid(region.geometry.bounds, step, slide)
        middle = region.geometry.representative_point()  # an annotation smaller than the grid still says something
        candidates = np.concatenate([inside, [[middle.x, middle.y]]])
        owned = owners.owned(number, candidates)
        inside = candidates[:-1][owned[:-1]] if owned[:-1].any() else candidates[owned]
        points.append(inside)
        names += [str(region.classification)] * len(inside)
        weights.append(np.ones(len(inside)))
    colors = {r.classification: r.color for r in regions if r.classification and r.color}
    return Labels(np.concatenate(points), one_hot(names), np.concatenate(weights), None, colors)


def _grid(bounds: tuple[float, float, float, float], step: float, slide: Slide) -> NDArray[np.float64]:
    """Return the nodes within bounds and slide of a grid that is anchored at the slide's corner, (place, 2)."""
    left, top, right, bottom = bounds
    x = np.arange(np.ceil(max(left, 0) / step), min(right, slide.width) / step) * step
    y = np.arange(np.ceil(max(top, 0) / step), min(bottom, slide.height) / step) * step
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _placed(table: pd.DataFrame, path: Path, spots: Path | None) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return the columns that are types, and where each row lies."""
    if {"x_px", "y_px"} <= set(table.columns):
        return table.drop(columns=["x_px", "y_px"]), table[["x_px", "y_px"]].to_numpy(dtype=np.float64)
    if spots is None:
        msg = f"expected where the spots of {path.name} lie, found nothing; fill the column spots, or add x_px and y_px"
        raise UsageError(msg)
    place = _table(spots, index=False)
    missing = [c for c in ("x", "y", "pixel_x", "pixel_y") if c not in place.columns]
    if missing:
        msg = f"expected the columns x, y, pixel_x, pixel_y in {spots.name}, found no {', '.join(missing)}"
        raise UsageError(msg)
    place.index = place.x.round().astype(int).astype(str) + "x" + place.y.round().astype(int).astype(str)
    shared = table.index.intersection(place.index)
    if shared.empty or not place.index.is_unique:
        msg = f"expected rows of {path.name} that are called XxY as in {spots.name}, found none, or some twice"
        raise UsageError(msg)
    return table.loc[shared], place.loc[shared, ["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)


def _table(path: Path, *, index: bool = True) -> pd.DataFrame:
    """Read a table whose columns are separated as the file's name says."""
    if not path.is_file():
        msg = f"expected a table at {path}, found no file; check the path"
        raise UsageError(msg)
    name = path.name.removesuffix(".gz")
    separator = "," if name.endswith(".csv") else "\t"
    return pd.read_csv(path, sep=separator, index_col=0 if index else None)
