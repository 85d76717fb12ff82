"""Rings and polygons: from GeoJSON coordinates to valid areas, and back to rings that survive two decimals."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from stimage_qupath.geojson_dialect.fault import FeatureFault, shown

DECIMALS: Final = 2
GRID_PX: Final = 0.01
"""QuPath writes two decimals and, from 0.6 on, reads onto this grid."""
NO_AREA_PX2: Final = GRID_PX**2 / 4
"""A polygon on the grid has a multiple of half a grid square; less is a line that floats take for an area."""
VANISHED_SIDE_PX: Final = 0.1
"""Side of the square drawn for a nucleus that has no area left on the grid."""
MAX_COORDINATE_PX: Final = 2.0**31
"""QuPath's image sizes are 32-bit integers; anything beyond is no pixel."""
ELLIPSE_VERTICES: Final = 100
"""As QuPath itself writes an ellipse."""
POLYGON_TYPE_ID: Final = 3


def parse_position_array(value: object, what: str) -> NDArray[np.float64]:
    """Return (n, 2) x and y of a list of positions; further dimensions are dropped.

    Raises
    ------
    FeatureFault
        ``value`` (called ``what``) is no list of positions, or one is not finite or beyond any image.
    """
    expected = f"{what} of positions [x, y]"
    if not isinstance(value, list):
        raise FeatureFault(expected=expected, found=shown(value))
    if not value:
        return np.empty((0, 2))
    try:
        array = np.asarray(value)
    except ValueError:  # some positions carry z, others do not
        if not all(isinstance(p, list) and len(p) >= 2 for p in value):
            raise FeatureFault(expected=expected, found=shown(value)) from None
        try:
            array = np.asarray([p[:2] for p in value])
        except ValueError:
            raise FeatureFault(expected=expected, found=shown(value)) from None
    if array.dtype.kind not in "iuf" or array.ndim != 2 or array.shape[1] < 2:
        raise FeatureFault(expected=expected, found=shown(value))
    positions = array[:, :2].astype(np.float64)
    wrong = ~(np.abs(positions) <= MAX_COORDINATE_PX).all(axis=1)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise FeatureFault(expected="finite level-0 pixels", found=f"{shown(value[at])} at position {at + 1}")
    return positions


def parse_ring(value: object) -> NDArray[np.float64]:
    """Return (n, 2) positions of a closed ring.

    Raises
    ------
    FeatureFault
        It has fewer than four positions or does not end where it began.
    """
    ring = parse_position_array(value, "a ring")
    is_closed = len(ring) > 0 and np.array_equal(ring[0], ring[-1])
    if len(ring) < 4 or not is_closed:
        found = f"{len(ring)} positions" if len(ring) < 4 else f"{len(ring)} positions whose last is not the first"
        raise FeatureFault(expected="a closed ring of at least 4 positions", found=found)
    return ring


def parse_polygon(value: object, *, is_ellipse: bool = False) -> shapely.Polygon:
    """Return the polygon of a list of rings, as drawn: it may cross itself; an empty list is an empty polygon."""
    if not isinstance(value, list):
        raise FeatureFault(expected="a list of rings", found=shown(value))
    rings = [parse_ring(ring) for ring in value]
    if not rings:
        return shapely.Polygon()
    if is_ellipse and len(rings) == 1 and len(rings[0]) == 5:
        rings = [_ellipse_in(rings[0])]
    return shapely.Polygon(rings[0], rings[1:])


def _ellipse_in(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ring of the ellipse that touches the four sides of ``box``."""
    low, high = box.min(axis=0), box.max(axis=0)
    angle = np.linspace(0.0, 2 * np.pi, ELLIPSE_VERTICES, endpoint=False)
    ring: NDArray[np.float64] = (low + high) / 2 + np.column_stack([np.cos(angle), np.sin(angle)]) * (high - low) / 2
    return np.vstack([ring, ring[:1]])


def valid_area(geometry: BaseGeometry) -> BaseGeometry:
    """Return the valid Polygon or MultiPolygon that ``geometry`` encloses; an empty Polygon if there is none.

    A line that crosses itself encloses everything it goes around, as on QuPath's screen: both wings of a bow-tie, and
    what a lasso went around twice is inside, not a hole.
    """
    if geometry.geom_type not in {"Polygon", "MultiPolygon", "GeometryCollection"}:
        return shapely.Polygon()
    if not geometry.is_valid:
        with np.errstate(all="ignore"):  # GEOS divides by zero near the smallest float, and copes
            geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    if geometry.geom_type in {"Polygon", "MultiPolygon"}:
        return geometry
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in {"Polygon", "MultiPolygon"}]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def on_grid(geometry: BaseGeometry) -> BaseGeometry:
    """Return ``geometry`` with two decimals, valid, of one polygon or several; empty if it has no area left."""
    area = valid_area(geometry)
    with np.errstate(all="ignore"):  # as above
        rounded = _rounded(shapely.set_precision(area, GRID_PX))
    return valid_area(rounded) if rounded.is_valid and rounded.area > NO_AREA_PX2 else shapely.Polygon()


def polygons_on_grid(polygons: NDArray[np.object_], centres_px: NDArray[np.float64]) -> NDArray[np.object_]:
    """Return ``polygons`` with two decimals, every one a valid Polygon with area.

    Parameters
    ----------
    polygons
        (n,) shapely geometries with finite coordinates.
    centres_px
        (n, 2) where to draw the square of 0.1 px for one that vanishes, so that no nucleus is lost: every output holds
        the same nuclei. Of a polygon that falls apart the largest part stays.
    """
    result = np.array(_rounded(polygons), dtype=object)
    sound = (shapely.get_type_id(result) == POLYGON_TYPE_ID) & shapely.is_valid(result)
    sound &= shapely.area(result) > NO_AREA_PX2
    for i in np.flatnonzero(~sound):
        parts = shapely.get_parts(on_grid(polygons[i]))
        areas = shapely.area(parts)
        result[i] = parts[int(np.argmax(areas))] if areas.sum() > NO_AREA_PX2 else _square(polygons[i], centres_px[i])
    return result


def _rounded(geometry: Any) -> Any:
    """Round every coordinate; ``+ 0.0`` turns the minus zero into zero."""
    return shapely.transform(geometry, lambda xy: np.round(xy, DECIMALS) + 0.0)


def _square(polygon: BaseGeometry, centre_px: NDArray[np.float64]) -> BaseGeometry:
    """Return the smallest square we draw, around ``centre_px`` but within the bounds of what vanished."""
    if not polygon.is_empty:  # the centroid of next to no area can lie anywhere
        low_x, low_y, high_x, high_y = polygon.bounds
        centre_px = np.clip(centre_px, (low_x, low_y), (high_x, high_y))
    x, y = centre_px - VANISHED_SIDE_PX / 2
    return _rounded(shapely.box(x, y, x + VANISHED_SIDE_PX, y + VANISHED_SIDE_PX))


def ring_arrays(polygons: NDArray[np.object_]) -> list[list[NDArray[np.float64]]]:
    """Return for each Polygon its rings, (position, 2) each, outline first, cut from one block of coordinates."""
    _, coordinates, (ring_starts, polygon_starts) = shapely.to_ragged_array(polygons)
    rings = [coordinates[a:b] for a, b in zip(ring_starts[:-1].tolist(), ring_starts[1:].tolist(), strict=True)]
    return [rings[a:b] for a, b in zip(polygon_starts[:-1].tolist(), polygon_starts[1:].tolist(), strict=True)]
