"""A person's labels of single nuclei: classified cells, detections and points of QuPath's GeoJSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath.geojson_dialect import Feature, read_features, valid_area

OBJECTS: Final = ("cell", "detection")


@dataclass(frozen=True, slots=True)
class LabelFile:
    """Labels of single nuclei in a file.

    Attributes
    ----------
    outlines
        (label,) areas of classified cells (their nuclei, where known) and detections, level-0 px.
    classes_of_outlines
        (label,) their classes.
    points
        (point, 2) classified points, level-0 px.
    classes_of_points
        (point,) their classes.
    has_areas
        Whether the file holds an annotation with an area too.
    """

    outlines: NDArray[np.object_]
    classes_of_outlines: tuple[str, ...]
    points: NDArray[np.float64]
    classes_of_points: tuple[str, ...]
    has_areas: bool

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.outlines) + len(self.points)


def read_labels(path: Path) -> LabelFile:
    """Return the classified cells, detections and points in a GeoJSON file of QuPath.

    Raises
    ------
    UsageError
        The file is missing or cannot be opened.
    AnnotationError
        It, or a feature in it, is faulty.
    """
    outlines, classes, points, classes_of_points, has_areas = [], [], [], [], False
    for feature in read_features(path):
        area = feature.object_type == "annotation" and "Polygon" in feature.geometry.geom_type
        has_areas = has_areas or (area and not valid_area(feature.geometry).is_empty)
        if feature.classification is None:
            continue
        if feature.object_type in OBJECTS:
            outline = valid_area(feature.geometry if feature.nucleus is None else feature.nucleus)
            if not outline.is_empty:
                outlines.append(outline)
                classes.append(feature.classification)
        for point in _points(feature):
            points.append(point)
            classes_of_points.append(feature.classification)
    return LabelFile(
        outlines=np.array(outlines, dtype=object),
        classes_of_outlines=tuple(classes),
        points=np.array(points, dtype=np.float64).reshape(-1, 2),
        classes_of_points=tuple(classes_of_points),
        has_areas=has_areas,
    )


def _points(feature: Feature) -> Sequence[tuple[float, float]]:
    if feature.object_type != "annotation" or "Point" not in feature.geometry.geom_type:
        return ()
    return [(x, y) for x, y in shapely.get_coordinates(feature.geometry).tolist()]


def match_labels(
    labels: LabelFile, centroids_px: NDArray[np.float64], outlines: NDArray[np.object_] | None
) -> NDArray[np.object_]:
    """Return the class of each nucleus, (nucleus,) text or None.

    A nucleus gets the class of the smallest labelled outline that holds its centroid, of several nuclei in one outline
    the one nearest to its middle; else that of a point inside the nucleus.

    Parameters
    ----------
    labels
        Of :func:`read_labels`.
    centroids_px
        (nucleus, 2).
    outlines
        (nucleus,) polygons of the nuclei; may be None where there are no points.
    """
    found = np.full(len(centroids_px), None, dtype=object)
    if outlines is not None and len(labels.points):
        nucleus, point = shapely.STRtree(shapely.points(labels.points)).query(outlines, predicate="intersects")
        found[nucleus] = np.array(labels.classes_of_points, dtype=object)[point]
    if len(labels.outlines):
        nucleus, label = _pairs(labels.outlines, centroids_px)
        found[nucleus] = np.array(labels.classes_of_outlines, dtype=object)[label]
    return found


def _pairs(outlines: NDArray[np.object_], centroids_px: NDArray[np.float64]) -> tuple[NDArray[np.intp], ...]:
    """Return nucleus and label of each match; each stands in one."""
    nucleus, label = shapely.STRtree(outlines).query(shapely.points(centroids_px), predicate="intersects")
    order = np.argsort(shapely.area(outlines[label]), kind="stable")
    nucleus, first = np.unique(nucleus[order], return_index=True)
    label = label[order][first]
    middle = shapely.get_coordinates(shapely.centroid(outlines[label]))
    distance = np.hypot(*(centroids_px[nucleus] - middle).T)
    order = np.argsort(distance, kind="stable")
    label, first = np.unique(label[order], return_index=True)
    return nucleus[order][first], label
