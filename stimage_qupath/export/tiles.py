"""Squares over a run, each with the means of the nuclei in it, as QuPath's tile objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely

from stimage_qupath import names
from stimage_qupath.export.run_blocks import Selection, blocks
from stimage_qupath.regions.identity import geometry_uuid

NUCLEI: Final = f"{names.PREFIX}nuclei"
"""Number of nuclei in a tile."""


def tile_features(chosen: Selection, *, tile_um: float) -> Iterator[dict[str, Any]]:
    """Yield the squares that hold nuclei, row by row.

    The grid is anchored at the slide's corner. Each measurement is the mean over the nuclei that have it; memory grows
    with the number of tiles, not of nuclei.

    Parameters
    ----------
    chosen
        Nuclei and their measurements.
    tile_um
        Side of a square.
    """
    image = chosen.finished.record["image"]
    side = tile_um / float(image["mpp"])
    sums = _sums(chosen, side)
    width, height = float(image["width"]), float(image["height"])
    for (row, column), values in zip(sums.index, sums.to_numpy(), strict=True):
        box = shapely.box(column * side, row * side, min((column + 1) * side, width), min((row + 1) * side, height))
        means = dict(zip(chosen.measurements, _means(values[1:]), strict=True))
        measurements = {NUCLEI: float(values[0]), **{n: round(float(v), 6) for n, v in means.items() if np.isfinite(v)}}
        ring = np.round(shapely.get_coordinates(box), 2).tolist()
        yield {
            "type": "Feature",
            "id": geometry_uuid(box),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "tile", "measurements": measurements},
        }


def _sums(chosen: Selection, side: float) -> pd.DataFrame:
    """Return, by row and column of the grid, the nuclei, and of each measurement its sum and how many have it."""
    found: pd.DataFrame | None = None
    for block in blocks(chosen):
        matrix = np.column_stack([np.ones(len(block.keys)), *_parts(block.columns)])
        place = [np.floor(block.keys[axis].to_numpy() / side).astype(np.int64) for axis in ("y_px", "x_px")]
        part = pd.DataFrame(matrix).groupby(place).sum()
        found = part if found is None else found.add(part, fill_value=0.0)
    if found is None:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []]))
    return found.sort_index()


def _parts(columns: Any) -> Iterator[Any]:
    for values in columns.values():
        known = np.isfinite(values)
        yield np.where(known, values, 0.0)
        yield known


def _means(values: Any) -> Any:
    total, number = values[::2], values[1::2]
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
