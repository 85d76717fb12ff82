"""Outlines of ``data.qpdata`` as shapely geometries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from stimage_qupath.qupath.java_stream import JavaObject, JavaStreamError

ELLIPSE_VERTICES: Final = 100
"""As QuPath itself writes an ellipse to GeoJSON."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A geometry (level-0 px) and its plane."""

    geometry: BaseGeometry
    z: int = 0
    t: int = 0


def roi_geometry(roi: JavaObject | None) -> Outline:
    """Return the outline that a QuPath ROI stored; empty where there is none.

    Raises
    ------
    JavaStreamError
        It is of a kind that is not known.
    """
    if roi is None:
        return Outline(shapely.Polygon())
    kind = roi.class_name.rsplit(".", 1)[-1].split("$")[0]
    if kind not in _GEOMETRIES:
        msg = f"expected an outline of QuPath, found {roi.class_name}"
        raise JavaStreamError(msg)
    return Outline(_GEOMETRIES[kind](roi.fields), int(roi.fields.get("z", 0)), int(roi.fields.get("t", 0)))


def _points(fields: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return (n, 2) x and y."""
    return np.column_stack([fields["x"], fields["y"]]).astype(np.float64)


def _polygon(fields: Mapping[str, Any]) -> BaseGeometry:
    points = _points(fields)
    return shapely.Polygon(points) if len(points) >= 3 else shapely.Polygon()


def _polyline(fields: Mapping[str, Any]) -> BaseGeometry:
    return shapely.LineString(_points(fields))


def _multipoint(fields: Mapping[str, Any]) -> BaseGeometry:
    points = _points(fields)
    return shapely.Point(points[0]) if len(points) == 1 else shapely.MultiPoint(points)


def _line(fields: Mapping[str, Any]) -> BaseGeometry:
    return shapely.LineString([(fields["x"], fields["y"]), (fields["x2"], fields["y2"])])


def _rectangle(fields: Mapping[str, Any]) -> BaseGeometry:
    return shapely.box(fields["x"], fields["y"], fields["x2"], fields["y2"])


def _ellipse(fields: Mapping[str, Any]) -> BaseGeometry:
    low, high = np.array([fields["x"], fields["y"]]), np.array([fields["x2"], fields["y2"]])
    angle = np.linspace(0.0, 2 * np.pi, ELLIPSE_VERTICES, endpoint=False)
    return shapely.Polygon((low + high) / 2 + np.column_stack([np.cos(angle), np.sin(angle)]) * (high - low) / 2)


def _rings(fields: Mapping[str, Any]) -> BaseGeometry:
    """Return what several rings enclose together: a ring inside another is a hole (0.2's area by the even-odd rule)."""
    area: BaseGeometry = shapely.Polygon()
    for x, y in zip(fields["x"], fields["y"], strict=True):
        if len(x) >= 3:
            area = area.symmetric_difference(shapely.Polygon(_points({"x": x, "y": y})).buffer(0))
    return area


def _wkb(fields: Mapping[str, Any]) -> BaseGeometry:
    """Return what QuPath stores as well-known binary: holes, several parts."""
    return shapely.from_wkb(fields["wkb"].tobytes(), on_invalid="ignore")


_GEOMETRIES: Final[Mapping[str, Callable[[Mapping[str, Any]], BaseGeometry]]] = {
    "PolygonROI": _polygon,
    "PolylineROI": _polyline,
    "PointsROI": _multipoint,
    "LineROI": _line,
    "RectangleROI": _rectangle,
    "EllipseROI": _ellipse,
    "AreaROI": _rings,
    "AWTAreaROI": _rings,
    "GeometryROI": _wkb,
}
