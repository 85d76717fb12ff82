"""Files of nuclei: QuPath's detections and cells as GeoJSON, and label images of any other program."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.geojson_dialect import Color, Feature, read_features, valid_area
from stimage_qupath.nuclei.foreign import ForeignNuclei
from stimage_qupath.nuclei.label_image import LABEL_SUFFIXES, label_outlines, read_labels

GEOJSON_SUFFIXES: Final = (".geojson", ".json", ".geojson.gz", ".json.gz")
OBJECT_TYPES: Final = ("detection", "cell")


def read_nuclei(
    path: Path, *, slide_size: tuple[int, int], simplify_px: float, plane: tuple[int, int] = (0, 0)
) -> ForeignNuclei:
    """Return the nuclei in a file.

    Parameters
    ----------
    path
        GeoJSON (``.geojson`` or ``.json``, gzip or not) with detections or cells, or a label image (``.tif``, ``.png``
        or ``.npy``) of whole numbers: 0 is background, every nucleus has its own number.
    slide_size
        Width and height of the slide, level-0 px.
    simplify_px
        How far simplification may move an outline that is traced from a label image, level-0 px.
    plane
        z and t that are looked at; objects on others are left out.

    Raises
    ------
    UsageError
        The file is missing, of another kind, without nuclei, or a label image of another image.
    AnnotationError
        The GeoJSON is faulty.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(GEOJSON_SUFFIXES):
        return _from_features(read_features(path), path.name, plane)
    if name.endswith(LABEL_SUFFIXES):
        labels, warnings = read_labels(path)
        polygons = label_outlines(labels, slide_size=slide_size, simplify_px=simplify_px, what=path.name)
        none = np.full(len(polygons), None, dtype=object)
        return ForeignNuclei(polygons, none, none, none, warnings=warnings)
    known = ", ".join((*GEOJSON_SUFFIXES, *LABEL_SUFFIXES))
    msg = f"expected a file of nuclei that ends in {known}, found {path.name}; export it as one of these"
    raise UsageError(msg)


def _from_features(features: list[Feature], what: str, plane: tuple[int, int]) -> ForeignNuclei:
    """Return the detections and cells among features; what else is there is counted."""
    kept: list[Feature] = []
    outlines: list[BaseGeometry] = []
    boundaries: list[BaseGeometry | None] = []
    left_out: Counter[str] = Counter()
    for feature in features:
        fault = _fault(feature, plane)
        outline = shapely.Polygon() if fault else _one_polygon(feature.nucleus or feature.geometry)
        if outline.is_empty:
            left_out[fault or f"{feature.object_type} without area"] += 1
            continue
        kept.append(feature)
        outlines.append(outline)
        whole = None if feature.nucleus is None else _one_polygon(feature.geometry)
        boundaries.append(None if whole is None or whole.is_empty else whole)
    listed = ", ".join(f"{count} x {kind}" for kind, count in left_out.items())
    if not kept:
        msg = (
            f"expected detections or cells in {what}, found {listed or 'no object'}; export the nuclei from QuPath as "
            "detections (annotations can be converted there)"
        )
        raise AnnotationError(msg)
    colors: dict[str, Color] = {f.classification: f.color for f in kept if f.classification and f.color}
    return ForeignNuclei(
        polygons=np.array(outlines, dtype=object),
        ids=np.array([f.id for f in kept], dtype=object),
        classifications=np.array([f.classification for f in kept], dtype=object),
        boundaries=np.array(boundaries, dtype=object),
        color_of_class=colors,
        warnings=(f"no nucleus, left out of {what}: {listed}",) if listed else (),
    )


def _fault(feature: Feature, plane: tuple[int, int]) -> str | None:
    """Say why a feature is no nucleus of the plane, or None."""
    if feature.object_type not in OBJECT_TYPES:
        return feature.object_type
    return None if (feature.z, feature.t) == plane else f"{feature.object_type} on another z or t"


def _one_polygon(geometry: BaseGeometry) -> BaseGeometry:
    """Return a geometry as one valid Polygon, its largest part; empty if it has no area."""
    if geometry.geom_type == "Polygon" and geometry.is_valid:
        return geometry
    area = valid_area(geometry)
    return area if area.geom_type == "Polygon" else max(area.geoms, key=lambda part: float(part.area))
