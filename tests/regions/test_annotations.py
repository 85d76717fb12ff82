"""A pathologist's annotations: what is a region, how it is chosen, what the image leaves of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import shapely
from shapely.geometry import mapping, shape

from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.geojson_dialect import write_annotations
from stimage_qupath.regions.annotations import clip_to_image, read_regions, select_regions
from stimage_qupath.regions.identity import geometry_uuid
from stimage_qupath.results import Region

IDS = [f"00000000-0000-0000-0000-{i:012d}" for i in range(9)]


def feature(geometry: Any, *, identity: str | None = None, **properties: object) -> dict[str, Any]:
    raw = geometry if isinstance(geometry, dict) else mapping(geometry)
    return {"type": "Feature", "id": identity, "geometry": raw, "properties": properties}


def write(folder: Path, *features: dict[str, Any]) -> Path:
    path = folder / "x.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def region(i: int, *, geometry: Any = None, **fields: Any) -> Region:
    return Region(id=IDS[i], geometry=geometry or shapely.box(i, 0, i + 5, 5), **fields)


def test_areas_are_regions_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        feature(shapely.Point(1, 1)),
        feature(shapely.MultiPoint([(1, 1), (2, 2)])),
        feature(shapely.LineString([(1, 1), (2, 2)])),
        feature(shapely.box(0, 0, 5, 5), identity=IDS[1], name="a", classification={"name": "T", "color": [1, 2, 3]}),
        feature(shapely.box(0, 0, 5, 5), objectType="detection"),
        feature(shapely.box(0, 0, 5, 5), objectType="cell"),
        feature(shapely.box(0, 0, 5, 5), objectType="tile"),
        feature(shapely.box(0, 0, 5, 5), objectType="tmaCore"),
        feature({"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [9, 9], [0, 0]]]}),
        feature({"type": "Polygon", "coordinates": []}),
    )
    found = read_regions(path)
    (only,) = found.regions
    assert (only.id, only.name, only.classification, only.color, only.source) == (
        IDS[1],
        "a",
        "T",
        (1, 2, 3),
        "annotation",
    )
    assert found.skipped == {
        "point": 2,
        "line": 1,
        "detection": 1,
        "cell": 1,
        "tile": 1,
        "TMA core": 1,
        "annotation without area": 2,
    }


def test_bow_tie_and_lasso_are_repaired(tmp_path: Path) -> None:
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    angle = [i * math.pi / 20 for i in range(80)]  # twice around, ever further out
    spiral = [[(20 + a) * math.cos(a) + 100, (20 + a) * math.sin(a) + 100] for a in angle]
    lasso = {"type": "Polygon", "coordinates": [[*spiral, spiral[0]]]}
    first, second = read_regions(write(tmp_path, feature(bow_tie), feature(lasso))).regions
    assert first.geometry.is_valid
    assert first.geometry.area == pytest.approx(50)
    outer = shapely.Polygon(spiral[40:])
    assert second.geometry.area == pytest.approx(outer.area, rel=0.05)
    assert second.geometry.contains(shapely.Point(100, 100))


def test_region_without_uuid_gets_one_from_its_geometry(tmp_path: Path) -> None:
    box = shapely.box(0, 0, 5, 5)
    for identity in (None, "tumour_1"):
        (only,) = read_regions(write(tmp_path, feature(box, identity=identity))).regions
        assert only.id == geometry_uuid(box)


def test_the_same_annotation_twice_is_refused(tmp_path: Path) -> None:
    a, b = shapely.box(0, 0, 5, 5), shapely.box(9, 9, 15, 15)
    with pytest.raises(
        AnnotationError, match=r'found feature 1 \(name "a"\) and feature 2 \(id .*\) with the same id;'
    ):
        read_regions(write(tmp_path, feature(a, identity=IDS[1], name="a"), feature(b, identity=IDS[1])))
    with pytest.raises(AnnotationError, match=r"found feature 1 and feature 3 with the same outline; remove one"):
        read_regions(write(tmp_path, feature(a), feature(b), feature(a)))


def test_file_without_areas_says_what_it_holds(tmp_path: Path) -> None:
    path = write(tmp_path, feature(shapely.Point(1, 1)), feature(shapely.box(0, 0, 5, 5), objectType="cell"))
    with pytest.raises(AnnotationError, match=r"x\.geojson holds no area annotation but 1 x cell, 1 x point; draw"):
        read_regions(path)
    with pytest.raises(AnnotationError, match="holds no area annotation but nothing else"):
        read_regions(write(tmp_path))
    with pytest.raises(UsageError, match="found nothing there"):
        read_regions(tmp_path / "none.geojson")


def test_written_regions_are_read_back(tmp_path: Path) -> None:
    given = [region(1, classification="Tumor", color=(1, 2, 3), name="a", is_locked=True, t=4), region(2)]
    path = tmp_path / "x.geojson.gz"
    write_annotations(path, given)
    found = read_regions(path).regions
    assert [(r.id, r.name, r.classification, r.color, r.is_locked, r.t) for r in found] == [
        (r.id, r.name, r.classification, r.color, r.is_locked, r.t) for r in given
    ]
    assert all(a.geometry.equals(b.geometry) for a, b in zip(found, given, strict=True))


CHOICE = [
    region(0, classification="Tumor", name="core"),
    region(1, classification="Tumor: Positive", name="rim"),
    region(2, classification="Stroma", name="core"),
    region(3),
]


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"classes": ["Tumor"]}, [0, 1]),
        ({"classes": ["Tumor: Positive"]}, [1]),
        ({"classes": ["Stroma", "Tumor"]}, [0, 1, 2]),
        ({"names": ["core"]}, [0, 2]),
        ({"names": ["core"], "classes": ["Tumor"]}, [0]),
        ({"ids": [IDS[3].upper()]}, [3]),
    ],
)
def test_regions_are_chosen(criteria: dict[str, list[str]], expected: list[int]) -> None:
    assert select_regions(CHOICE, **criteria) == [CHOICE[i] for i in expected]


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({"classes": ["tumor"]}, r'class "tumor", found only "Stroma", "Tumor", "Tumor: Positive"; check'),
        ({"classes": ["Tumor", "Positive"]}, r'class "Positive", found only "Stroma"'),
        ({"names": ["x"]}, r'name "x", found only "core", "rim"'),
        ({"ids": [IDS[8]]}, rf'id "{IDS[8]}", found only "{IDS[0]}"'),
        ({"names": ["rim"], "classes": ["Stroma"]}, r"meets all criteria, found none of 4"),
    ],
)
def test_choice_that_matches_nothing_lists_what_there_is(criteria: dict[str, list[str]], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        select_regions(CHOICE, **criteria)


def test_choice_among_unnamed_regions_says_none() -> None:
    with pytest.raises(AnnotationError, match="found only none; check"):
        select_regions([region(3)], classes=["Tumor"])


def test_region_inside_is_untouched() -> None:
    inside = region(1)
    clipped, warnings = clip_to_image([inside], 100, 50)
    assert clipped == [inside]
    assert clipped[0] is inside
    assert warnings == []


def test_edge_may_be_passed_by_a_pixel_without_a_word() -> None:
    clipped, warnings = clip_to_image([region(1, geometry=shapely.box(-1, -0.5, 100.9, 51))], 100, 50)
    assert warnings == []
    assert clipped[0].geometry.equals(shapely.box(0, 0, 100, 50))


def test_region_partly_outside_is_clipped_with_a_warning() -> None:
    given = region(1, geometry=shapely.box(60, 10, 140, 20), name="rim", classification="Tumor", z=3)
    (only,), (warning,) = clip_to_image([given], 100, 50)
    assert only.geometry.equals(shapely.box(60, 10, 100, 20))
    assert (only.id, only.name, only.classification, only.z) == (given.id, "rim", "Tumor", 3)
    assert warning == f'"rim" ({IDS[1]}) reaches beyond the image; 50.0% of its area is left out.'


def test_clipped_region_keeps_areas_only() -> None:
    touching = shapely.box(10, 10, 20, 20) | shapely.box(100, 0, 110, 10)  # the second shares an edge with the image
    (only,), (warning,) = clip_to_image([region(1, geometry=touching)], 100, 50)
    assert only.geometry.equals(shapely.box(10, 10, 20, 20))
    assert "50.0%" in warning


def test_regions_wholly_outside_are_named() -> None:
    outside = [
        region(1, geometry=shapely.box(100, 0, 120, 10), name="rim"),
        region(2, geometry=shapely.box(0, -9, 5, -3)),
    ]
    with pytest.raises(AnnotationError) as caught:
        clip_to_image([region(3), *outside], 100, 50)
    assert str(caught.value) == (
        f'expected annotations inside the image of 100 x 50 px, found "rim" ({IDS[1]}) at x 100 to 120, y 0 to 10; '
        f"{IDS[2]} at x 0 to 5, y -9 to -3; check that they belong to this image and are in its full-resolution pixels"
    )


@pytest.mark.parametrize(
    ("name", "areas", "skipped"),
    [
        ("annotations_53poly_3pt.geojson", 53, {"point": 3}),
        ("cellpose_217_detections.geojson", 1, {"detection": 217, "point": 3}),
        ("TD_01_verysmall_mIF.geojson", 6, {"point": 3}),
        ("Single_cells.geojson", 7, {"cell": 121, "point": 3}),
        ("2020_08_13__8670_48411.geojson", 268, {}),
    ],
)
def test_real_files(real_data: Path, name: str, areas: int, skipped: dict[str, int]) -> None:
    (path,) = (real_data / "qupath").rglob(name)
    found = read_regions(path)
    assert len(found.regions) == areas
    assert found.skipped == skipped
    document = json.loads(path.read_text(encoding="utf-8"))
    raw = {r["id"]: r for r in (document["features"] if isinstance(document, dict) else document)}
    for r in found.regions:
        assert r.geometry.is_valid
        expected = shape(raw[r.id]["geometry"])
        if expected.is_valid:
            assert r.geometry.equals(expected)
        assert r.classification == raw[r.id]["properties"].get("classification", {}).get("name")


def test_real_file_of_points_has_no_region(real_data: Path) -> None:
    (path,) = (real_data / "qupath").rglob("JP2K-33003-2_cell_detection.geojson")
    with pytest.raises(AnnotationError, match="holds no area annotation but 3 x point"):
        read_regions(path)
