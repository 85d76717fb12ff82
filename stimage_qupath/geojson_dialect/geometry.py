"""GeoJSON geometries, any type, to shapely."""

from __future__ import annotations

from typing import Any, Final

import shapely
from shapely.geometry.base import BaseGeometry

from stimage_qupath.geojson_dialect.fault import FeatureFault, shown
from stimage_qupath.geojson_dialect.rings import parse_polygon, parse_position_array

GEOMETRY_TYPES: Final = frozenset(
    {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"}
)
MAX_COLLECTION_DEPTH: Final = 16
"""GeometryCollections inside one another; QuPath writes none, and only a bomb has more."""


def is_geometry(value: dict[str, Any]) -> bool:
    """Return whether a JSON object says that it is a geometry."""
    kind = value.get("type")
    return isinstance(kind, str) and kind in GEOMETRY_TYPES


def parse_geometry(value: object, *, depth: int = 0) -> BaseGeometry:
    """Return the shapely geometry of a GeoJSON one, as drawn: polygons may cross themselves.

    Raises
    ------
    FeatureFault
        It is null, of an unknown type, or its coordinates are not of that type.
    """
    if not isinstance(value, dict):
        raise FeatureFault(expected="a geometry", found="null" if value is None else shown(value))
    kind = value.get("type")
    if not is_geometry(value):
        raise FeatureFault(expected="a geometry type such as Polygon", found=shown(kind))
    if kind == "GeometryCollection":
        return _collection(value.get("geometries"), depth)
    return _simple(str(kind), value.get("coordinates"), is_ellipse=value.get("isEllipse") is True)


def _collection(value: object, depth: int) -> BaseGeometry:
    if depth >= MAX_COLLECTION_DEPTH:
        raise FeatureFault(expected=f"geometry collections at most {MAX_COLLECTION_DEPTH} deep", found="more")
    parts = [parse_geometry(part, depth=depth + 1) for part in _listed(value, "a list of geometries")]
    return shapely.GeometryCollection(parts)


def _simple(kind: str, value: object, *, is_ellipse: bool) -> BaseGeometry:
    if kind == "Polygon":
        return parse_polygon(value, is_ellipse=is_ellipse)
    if kind == "MultiPolygon":
        return shapely.MultiPolygon([parse_polygon(part) for part in _listed(value, "a list of polygons") if part])
    if kind == "Point":
        return shapely.Point(parse_position_array([value], "one position")[0])
    if kind == "MultiPoint":
        return shapely.MultiPoint(parse_position_array(value, "points"))
    if kind == "LineString":
        return shapely.LineString(_line(value))
    return shapely.MultiLineString([_line(part) for part in _listed(value, "a list of lines")])


def _line(value: object) -> Any:
    positions = parse_position_array(value, "a line")
    if len(positions) == 1:
        raise FeatureFault(expected="a line of at least 2 positions", found="1 position")
    return positions


def _listed(value: object, expected: str) -> list[Any]:
    if not isinstance(value, list):
        raise FeatureFault(expected=expected, found=shown(value))
    return value
