"""Areas whose predictions deserve a second look, as annotations for QuPath.

A nucleus is doubtful if the models disagree about it more than about most others of the run (epistemic SD over mean,
averaged over the genes), or if it lies outside what they were trained on. An area to review is where most nuclei are
doubtful: on a grid of 10 um the doubtful nuclei and all nuclei are counted and smoothed with a Gaussian; their ratio is
over one half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath import names
from stimage_qupath.errors import UsageError
from stimage_qupath.export.run_blocks import Selection, blocks
from stimage_qupath.geojson_dialect import region_feature, valid_area
from stimage_qupath.regions.identity import geometry_uuid
from stimage_qupath.results import Region

CLASS: Final = "Review"
COLOR: Final = (230, 159, 0)
"""Orange of the palette of Okabe and Ito, which no class of a fresh QuPath project has."""
GRID_UM: Final = 10.0
SMOOTHING_UM: Final = 30.0
REACH_UM: Final = 25.0
"""An area ends so far from its last nucleus."""
MIN_NUCLEI: Final = 12
"""Fewer are not worth a pathologist's way."""
MOST_GRID: Final = 16_000_000
"""Squares of the grid; on a slide of more it is coarser."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Where nuclei are, and how far each is to be doubted."""

    points_px: NDArray[np.float64]
    relative_sd: NDArray[np.float32]
    outside: NDArray[np.bool_]
    doubtful: NDArray[np.bool_]


def uncertain_features(chosen: Selection, *, quantile: float) -> Iterator[dict[str, Any]]:
    """Yield the areas to review, the one with most doubtful nuclei first.

    Parameters
    ----------
    chosen
        Nuclei with mean and epistemic SD of at least one gene.
    quantile
        Share of the nuclei about which the models do not disagree conspicuously.

    Raises
    ------
    UsageError
        The run holds no predictions.
    """
    doubt = _doubt(chosen, quantile)
    mpp = float(chosen.finished.record["image"]["mpp"])
    if not doubt.doubtful.any():
        return
    plane = chosen.spans[0].region
    areas = _areas(doubt, mpp)
    found = [(area, inside) for area in areas if (inside := _inside(area, doubt)).sum() >= MIN_NUCLEI]
    found.sort(key=lambda pair: -int(doubt.doubtful[pair[1]].sum()))
    for number, (area, inside) in enumerate(found, start=1):
        region = Region(
            id=geometry_uuid(area),
            geometry=area,
            name=f"{CLASS} {number}",
            classification=CLASS,
            color=COLOR,
            z=plane.z,
            t=plane.t,
        )
        feature = dict(region_feature(region))
        feature["properties"]["measurements"] = {
            f"{names.PREFIX}nuclei": float(inside.sum()),
            f"{names.PREFIX}share uncertain": round(float(doubt.doubtful[inside].mean()), 4),
            f"{names.PREFIX}share outside training": round(float(doubt.outside[inside].mean()), 4),
            f"{names.PREFIX}mean relative epistemic SD": round(float(np.nanmean(doubt.relative_sd[inside])), 4),
        }
        yield feature


def _doubt(chosen: Selection, quantile: float) -> _Doubt:
    genes = [name.removesuffix(": mean") for name in chosen.measurements if name.endswith(": mean")]
    genes = [gene for gene in genes if f"{gene}: epistemic SD" in chosen.measurements]
    if not genes:
        msg = f"expected a run with predictions at {chosen.finished.path}, found nuclei alone; run predict"
        raise UsageError(msg)
    points, sds, flags = [], [], []
    for block in blocks(chosen):
        of = block.columns
        relative = [of[f"{gene}: epistemic SD"] / np.maximum(of[f"{gene}: mean"], 1e-9) for gene in genes]
        sds.append(np.mean(relative, axis=0, dtype=np.float32))
        flags.append(of[names.OUTSIDE_TRAINING] == 1)
        points.append(block.keys[["x_px", "y_px"]].to_numpy(np.float64))
    relative_sd = np.concatenate([*sds, np.empty(0, np.float32)])
    outside = np.concatenate([*flags, np.empty(0, bool)])
    limit = np.nanquantile(relative_sd, quantile) if np.isfinite(relative_sd).any() else np.inf
    doubtful = (relative_sd > limit) | outside
    return _Doubt(np.concatenate([*points, np.empty((0, 2))]), relative_sd, outside, doubtful)


def _areas(doubt: _Doubt, mpp: float) -> list[shapely.Polygon]:
    """Return where most nuclei are doubtful, level-0 px."""
    corner = doubt.points_px.min(axis=0) - 3 * SMOOTHING_UM / mpp
    extent = doubt.points_px.max(axis=0) + 3 * SMOOTHING_UM / mpp - corner
    side = max(GRID_UM / mpp, float(np.sqrt(extent.prod() / MOST_GRID)))
    shape = tuple(np.ceil(extent[::-1] / side).astype(int) + 1)
    place = np.floor((doubt.points_px - corner) / side).astype(np.intp)
    counts = np.zeros((2, *shape), dtype=np.float32)
    np.add.at(counts[0], (place[:, 1], place[:, 0]), 1)
    np.add.at(counts[1], (place[doubt.doubtful, 1], place[doubt.doubtful, 0]), 1)
    near = ndimage.distance_transform_edt(counts[0] == 0) * side * mpp <= REACH_UM
    sigma = SMOOTHING_UM / (side * mpp)
    everything, doubtful = (ndimage.gaussian_filter(count, sigma, mode="constant") for count in counts)
    mask = near & (doubtful > 0.5 * everything)
    return [_smooth(part, side) for part in _polygons(mask, corner, side)]


def _polygons(mask: NDArray[np.bool_], corner: NDArray[np.float64], side: float) -> list[shapely.Polygon]:
    """Return the connected parts of a mask: boxes over the runs of each row, united."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    _, stops = np.nonzero(change == -1)
    union = shapely.union_all(shapely.box(starts, rows, stops, rows + 1))  # whole numbers: neighbours touch exactly
    placed = shapely.transform(union, lambda xy: xy * side + corner)
    return [part for part in shapely.get_parts(placed) if not part.is_empty]


def _smooth(area: shapely.Polygon, side: float) -> shapely.Polygon:
    """Return the area without steps, and without holes that no one would draw."""
    rounded = area.buffer(side).buffer(-2 * side).buffer(side) if area.area > 40 * side**2 else area.buffer(side / 2)
    parts = [part for part in shapely.get_parts(valid_area(rounded)) if part.geom_type == "Polygon"]
    largest = max(parts, key=lambda part: part.area) if parts else area
    holes = [ring for ring in largest.interiors if shapely.Polygon(ring).area > 100 * side**2]
    return shapely.simplify(shapely.Polygon(largest.exterior, holes), side / 4)


def _inside(area: shapely.Polygon, doubt: _Doubt) -> NDArray[np.bool_]:
    shapely.prepare(area)
    return np.asarray(shapely.contains_xy(area, doubt.points_px[:, 0], doubt.points_px[:, 1]))
