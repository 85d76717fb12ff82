"""Labels of single nuclei and the nuclei they mean."""

from __future__ import annotations

import json

import numpy as np
import shapely

from stimage_qupath.regions.labels import match_labels, read_labels


def square(x, y, half):
    return [
        [x - half, y - half],
        [x + half, y - half],
        [x + half, y + half],
        [x - half, y + half],
        [x - half, y - half],
    ]


def feature(kind, geometry, label, **more):
    properties = {"objectType": kind}
    if label:
        properties["classification"] = {"name": label, "color": [1, 2, 3]}
    return {"type": "Feature", "geometry": geometry, "properties": properties} | more


def area(x, y, half):
    return {"type": "Polygon", "coordinates": [square(x, y, half)]}


def read(tmp_path, *features):
    path = tmp_path / "labels.geojson"
    path.write_text(json.dumps(features), encoding="utf-8")
    return read_labels(path)


def test_the_smallest_outline_and_its_nearest_nucleus_are_one(tmp_path):
    labels = read(
        tmp_path,
        feature("detection", area(50, 50, 40), "Stroma"),
        feature("detection", area(50, 50, 5), "Tumor"),
        feature("detection", area(200, 200, 5), None),
        feature("cell", area(300, 300, 50), "Immune", nucleusGeometry=area(300, 300, 5)),
    )
    assert len(labels) == 3
    assert not labels.has_areas
    centroids = np.array([[50.0, 50], [80, 50], [70, 50], [200, 200], [301, 300], [340, 300]])
    found = match_labels(labels, centroids, None)
    assert found.tolist() == ["Tumor", None, "Stroma", None, "Immune", None]


def test_points_label_the_nucleus_they_lie_in(tmp_path):
    points = {"type": "MultiPoint", "coordinates": [[52, 50], [900, 900]]}
    labels = read(tmp_path, feature("annotation", points, "Tumor"), feature("annotation", area(500, 500, 50), "Region"))
    assert labels.has_areas
    assert labels.classes_of_points == ("Tumor", "Tumor")
    outlines = np.array([shapely.Polygon(square(50, 50, 4)), shapely.Polygon(square(80, 50, 4))], dtype=object)
    assert match_labels(labels, np.array([[50.0, 50], [80, 50]]), outlines).tolist() == ["Tumor", None]
