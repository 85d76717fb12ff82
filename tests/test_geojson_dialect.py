"""QuPath's GeoJSON, read: every spelling of 0.2 to 0.7 becomes one record, every fault one sentence."""

from __future__ import annotations

import gzip
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.geojson_dialect import Feature, default_color, read_features, valid_area

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]}
ID = "3f1c0b0e-6f0a-4c1e-9d5b-0a1b2c3d4e5f"


def feature(geometry: object = SQUARE, **properties: object) -> dict[str, Any]:
    return {"type": "Feature", "id": ID, "geometry": geometry, "properties": properties}


def write(folder: Path, document: object, name: str = "x.geojson") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def read_one(folder: Path, raw: object) -> Feature:
    (only,) = read_features(write(folder, raw))
    return only


@pytest.mark.parametrize(
    "wrap",
    [
        lambda f: {"type": "FeatureCollection", "features": [f], "crs": None},
        lambda f: [f],
        lambda f: [[], [[f]]],
        lambda f: f,
        lambda f: [{"type": "FeatureCollection", "features": [f]}],
    ],
    ids=["collection", "list", "nested lists", "one feature", "list of collections"],
)
def test_every_top_level_holds_the_same_feature(tmp_path: Path, wrap: Any) -> None:
    found = read_one(tmp_path, wrap(feature(name="tumour", isLocked=True)))
    assert (found.index, found.id, found.name, found.is_locked) == (1, ID, "tumour", True)
    assert found.geometry.equals(shapely.box(0, 0, 10, 10))


def test_bare_geometry_is_an_annotation(tmp_path: Path) -> None:
    found = read_one(tmp_path, SQUARE)
    assert (found.object_type, found.id, found.classification) == ("annotation", None, None)


def test_children_follow_their_parent(tmp_path: Path) -> None:
    inner = feature(name="inner")
    parent = {**feature(name="parent"), "childObjects": [{**feature(name="middle"), "children": [inner]}]}
    names = [f.name for f in read_features(write(tmp_path, [parent, feature(name="last")]))]
    assert names == ["parent", "middle", "inner", "last"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, ("Tumor", (200, 0, 0))),
        ({"name": "Tumor", "color": [200, 0, 0, 255]}, ("Tumor", (200, 0, 0))),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, ("Tumor: Positive", (1, 2, 3))),
        ({"name": "Tumor", "colorRGB": -3670016}, ("Tumor", (200, 0, 0))),
        ({"name": "Tumor", "color": 0xC80000}, ("Tumor", (200, 0, 0))),
        ({"name": "Tumor"}, ("Tumor", None)),
        ({"name": None}, (None, None)),
        ("Tumor: Positive", ("Tumor: Positive", None)),
        (None, (None, None)),
        ("", (None, None)),
    ],
)
def test_classification_in_every_spelling(tmp_path: Path, value: object, expected: object) -> None:
    found = read_one(tmp_path, feature(classification=value))
    assert (found.classification, found.color) == expected


def test_object_colour_is_used_without_a_class_colour(tmp_path: Path) -> None:
    assert read_one(tmp_path, feature(color=[255, 0, 1])).color == (255, 0, 1)
    with_class = feature(color=[255, 0, 1], classification={"name": "A", "color": [9, 9, 9]})
    assert read_one(tmp_path, with_class).color == (9, 9, 9)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (feature(objectType="detection"), "detection"),
        (feature(object_type="cell"), "cell"),
        (feature(type="tile"), "tile"),
        (feature(objectType="Detection"), "detection"),
        (feature(object_type="tma_core"), "tmaCore"),
        (feature(objectType="nonsense"), "annotation"),
        ({**feature(), "id": "PathDetectionObject"}, "detection"),
        ({**feature(), "id": "PathCellObject"}, "cell"),
        ({**feature(), "id": "TMACoreObject"}, "tmaCore"),
        ({**feature(), "id": "PathAnnotationObject"}, "annotation"),
        ({**feature(), "id": 17}, "annotation"),
        ({"type": "Feature", "geometry": SQUARE, "properties": None}, "annotation"),
    ],
)
def test_object_type_of_every_version(tmp_path: Path, raw: object, expected: str) -> None:
    assert read_one(tmp_path, raw).object_type == expected


def test_id_is_kept_only_when_it_is_a_uuid(tmp_path: Path) -> None:
    assert read_one(tmp_path, {**feature(), "id": ID.upper()}).id == ID
    for other in ("cell_1", 17, None, f"{{{ID}}}", ID.replace("-", "")):
        assert read_one(tmp_path, {**feature(), "id": other}).id is None


@pytest.mark.parametrize(
    "measurements",
    [
        {"A": 1.5, "B": "2", "C": "NaN", "D": "-Infinity", "E": None, "F": True},
        [{"name": "A", "value": 1.5}, {"name": "B", "value": "2"}, {"name": "C", "value": "NaN"},
         {"name": "D", "value": "-Infinity"}, {"name": "E", "value": None}, {"name": "F", "value": True}],
    ],
)  # fmt: skip
def test_measurements_as_map_and_as_list(tmp_path: Path, measurements: object) -> None:
    found = dict(read_one(tmp_path, feature(measurements=measurements)).measurements)
    assert math.isnan(found.pop("C"))
    assert found == {"A": 1.5, "B": 2.0, "D": -math.inf}


def test_bare_nan_of_old_versions(tmp_path: Path) -> None:
    text = json.dumps(feature(measurements={"A": math.nan, "B": math.inf, "C": 1}))
    assert "NaN" in text
    found = read_one(tmp_path, text).measurements
    assert math.isnan(found["A"])
    assert (found["B"], found["C"]) == (math.inf, 1)


def test_the_last_of_two_metadata_keys_is_no_fault(tmp_path: Path) -> None:
    text = json.dumps(feature(name="x", metadata={"a": "b"})).replace('"name"', '"metadata":{"a":"c"},"name"')
    assert text.count('"metadata"') == 2
    assert read_one(tmp_path, text).name == "x"


def test_plane_and_nucleus(tmp_path: Path) -> None:
    plane = {"c": -1, "z": 2, "t": 3}
    raw = {**feature({**SQUARE, "plane": plane}, objectType="cell"), "nucleusGeometry": SQUARE}
    found = read_one(tmp_path, raw)
    assert (found.z, found.t) == (2, 3)
    assert found.nucleus is not None
    assert found.nucleus.area == 100


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Point", "coordinates": [1.5, 2]},
        {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        {"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]], [[5, 6], [7, 9]]]},
        {"type": "Polygon", "coordinates": [*SQUARE["coordinates"], [[2, 2], [4, 2], [4, 4], [2, 2]]]},
        {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], [[[20, 20], [24, 20], [24, 24], [20, 20]]]]},
        {"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point", "coordinates": [1, 2]}]},
    ],
    ids=lambda g: g["type"],
)
def test_geometries_agree_with_shapely(tmp_path: Path, geometry: dict[str, Any]) -> None:
    assert read_one(tmp_path, geometry).geometry.equals(shape(geometry))


def test_third_dimension_is_dropped_even_when_some_lack_it(tmp_path: Path) -> None:
    ring = [[0, 0, 5], [10, 0], [10, 10, 7], [0, 10], [0, 0, 5]]
    for coordinates in ([ring], [[[*p[:2], 1] for p in ring]]):
        found = read_one(tmp_path, {"type": "Polygon", "coordinates": coordinates}).geometry
        assert not found.has_z
        assert found.equals(shapely.box(0, 0, 10, 10))


@pytest.mark.parametrize(
    "geometry", [{"type": "Polygon", "coordinates": []}, {"type": "MultiPolygon", "coordinates": [[]]}]
)
def test_area_that_qupath_emptied_is_empty(tmp_path: Path, geometry: object) -> None:
    assert read_one(tmp_path, geometry).geometry.is_empty


def test_ellipse_given_by_its_box_only(tmp_path: Path) -> None:
    box = {"type": "Polygon", "isEllipse": True, "coordinates": [[[10, 20], [10, 60], [30, 60], [30, 20], [10, 20]]]}
    ellipse = read_one(tmp_path, box).geometry
    assert ellipse.is_valid
    assert ellipse.bounds == pytest.approx((10, 20, 30, 60))
    assert ellipse.area == pytest.approx(50 * math.sin(2 * math.pi / 100) * 10 * 20)  # inscribed 100-gon
    assert ellipse.centroid.coords[0] == pytest.approx((20, 40))


def test_ellipse_given_as_polygon_stays_as_it_is(tmp_path: Path) -> None:
    ring = shapely.Point(50, 50).buffer(20, quad_segs=25)
    raw = {"type": "Polygon", "isEllipse": True, "coordinates": [list(map(list, ring.exterior.coords))]}
    assert read_one(tmp_path, raw).geometry.equals(ring)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["x.geojson", "x.json", "x.geojson.gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with BOM"])
def test_content_not_name_tells_gzip(tmp_path: Path, name: str, packed: bool, mark: bytes) -> None:
    data = mark + json.dumps(feature(name="Tumör µ")).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if packed else data)
    assert [f.name for f in read_features(path)] == ["Tumör µ"]


def test_gzip_of_several_members_is_one_text(tmp_path: Path) -> None:
    data = json.dumps([feature(name="a"), feature(name="b")]).encode()
    path = tmp_path / "x.geojson.gz"
    path.write_bytes(gzip.compress(data[:50]) + gzip.compress(data[50:]))
    assert [f.name for f in read_features(path)] == ["a", "b"]


def test_lone_surrogate_in_a_name_does_not_reach_the_outputs(tmp_path: Path) -> None:
    text = '{"type":"Feature","geometry":%s,"properties":{"name":"a\\ud800","measurements":{"x":NaN}}}'
    assert read_one(tmp_path, text % json.dumps(SQUARE)).name == "a?"


RING = "a closed ring of at least 4 positions"
FAULTS = [
    ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, {}, f"expected {RING}", "2 positions;"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}, {}, RING, "whose last is not the first"),
    ({"type": "Polygon", "coordinates": [[]]}, {}, RING, "0 positions"),
    ({"type": "Polygon", "coordinates": None}, {}, "a list of rings", "None"),
    ({"type": "Polygon", "coordinates": [5]}, {}, "a ring of positions", "5"),
    ({"type": "Polygon", "coordinates": [[[0], [1], [2], [0]]]}, {}, "a ring of positions", r"\[\[0\]"),
    ({"type": "Polygon", "coordinates": [[["0", "0"], ["1", "0"], ["1", "1"], ["0", "0"]]]}, {}, "a ring of", "'0'"),
    ({"type": "Polygon", "coordinates": [[[0, None], [1, 0], [1, 1], [0, 0]]]}, {}, "a ring of positions", "None"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], 3, [0, 0]]]}, {}, "a ring of positions", "3"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [1e30, 0], [1, 1], [0, 0]]]}, {}, "finite level-0 pix", "position 2"),
    ({"type": "Polygon", "coordinates": [[[0, 0], [math.nan, 0], [1, 1], [0, 0]]]}, {}, "finite level-0", "nan"),
    ({"type": "LineString", "coordinates": [[0, 0]]}, {}, "a line of at least 2 positions", "1 position"),
    ({"type": "MultiPolygon", "coordinates": 3}, {}, "a list of polygons", "3"),
    ({"type": "Circle", "coordinates": [1, 2]}, {}, "a geometry type", "'Circle'"),
    ({"type": ["Point"]}, {}, "a geometry type", "Point"),
    (None, {}, "a geometry", "null"),
    (SQUARE, {"classification": {"name": "T", "color": "#ff0000"}}, "a colour of three whole numbers", "'#ff0000'"),
    (SQUARE, {"classification": {"name": "T", "color": [1, 2, 300]}}, "a colour of three", "300"),
    (SQUARE, {"classification": 5}, "a classification as text", "5"),
    (SQUARE, {"name": 5}, "a name as text", "5"),
    (SQUARE, {"measurements": {"A": "high"}}, "a number for the measurement 'A'", "'high'"),
    (SQUARE, {"measurements": [{"value": 1}]}, "a measurement with a name", "None"),
    (SQUARE, {"measurements": [3]}, "a measurement as", "3"),
    ({**SQUARE, "plane": {"z": -1}}, {}, "z and t of the plane", "-1"),
]


@pytest.mark.parametrize(("geometry", "properties", "expected", "found"), FAULTS)
def test_fault_names_feature_and_reason(
    tmp_path: Path, geometry: object, properties: dict[str, object], expected: str, found: str
) -> None:
    path = write(tmp_path, [feature(), feature(), {**feature(geometry, **properties), "id": None}])
    with pytest.raises(AnnotationError, match=rf"{expected}.* in feature 3 of x\.geojson, found .*{found}"):
        read_features(path)


def test_fault_says_name_or_id(tmp_path: Path) -> None:
    bad = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}
    sentence = f'expected {RING} in feature 3 (name "tumour") of x.geojson, found 2 positions; '
    with pytest.raises(AnnotationError) as caught:
        read_features(write(tmp_path, [feature(), feature(), feature(bad, name="tumour")]))
    assert str(caught.value) == sentence + "re-export the object from QuPath"
    with pytest.raises(AnnotationError, match=rf"feature 1 \(id {ID}\) of"):
        read_features(write(tmp_path, feature(bad)))
    with pytest.raises(AnnotationError, match=r"expected a Feature in feature 2 of .*, found 'Fruit'"):
        read_features(write(tmp_path, [feature(), {"type": "Fruit"}]))
    with pytest.raises(AnnotationError, match=r"expected a Feature in feature 1 of .*, found 5"):
        read_features(write(tmp_path, [5]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found an empty file"),
        (b"  \n", "found an empty file"),
        (gzip.compress(b""), "found an empty file"),
        (b"Tumor,1,2", "expected JSON in x.geojson, found: "),
        (b'{"type": ', "expected JSON in x.geojson"),
        (b"5", "expected a FeatureCollection or features in x.geojson, found 5"),
        (b'"NaN"', "expected a FeatureCollection"),
        ('{"name":"é"}'.encode("latin-1"), "UTF-8"),
        ('{"color":[١, ٢٠, ٢٠٠]}'.encode(), "set QuPath's locale to English"),
        (gzip.compress(b"[" * 5000)[:-9], "expected a whole gzip file, found damaged data in x.geojson"),
        (gzip.compress(b"{}")[:12] + b"\xff\xff\xff\xff", "expected a whole gzip file"),
        (b"[" * 100_000, "expected JSON in x.geojson, found: .*depth"),
        (b"[NaN," + b"[" * 100_000, "expected JSON in x.geojson"),
    ],
    ids=["empty", "blank", "empty gzip", "text", "cut short", "number", "string", "Latin-1", "Arabic digits",
         "cut gzip", "damaged gzip", "deep", "deep after NaN"],
)  # fmt: skip
def test_file_that_is_no_geojson(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.geojson"
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match=message):
        read_features(path)


def test_missing_file_and_folder_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found nothing there") as caught:
        read_features(tmp_path / "none.geojson")
    assert not isinstance(caught.value, AnnotationError)
    with pytest.raises(UsageError, match="expected a readable GeoJSON file"):
        read_features(tmp_path)


def test_gzip_bomb_is_never_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.geojson"
    path.write_bytes(gzip.compress(b" " * 2**26))
    tracemalloc.start()
    try:
        with pytest.raises(AnnotationError, match="expected at most 2,097,152 bytes of GeoJSON, found more"):
            read_features(path, limit_bytes=2**21)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_plain_file_has_the_same_limit(tmp_path: Path) -> None:
    path = write(tmp_path, feature())
    size = path.stat().st_size
    assert len(read_features(path, limit_bytes=size)) == 1
    with pytest.raises(AnnotationError, match="expected at most"):
        read_features(path, limit_bytes=size - 1)


def test_deep_nesting_is_read_or_refused_but_never_crashes(tmp_path: Path) -> None:
    deep: Any = feature(name="deepest")
    for _ in range(400):
        deep = {**feature(), "childObjects": [deep]}
    assert len(read_features(write(tmp_path, deep))) == 401
    bomb: Any = SQUARE
    for _ in range(300):
        bomb = {"type": "GeometryCollection", "geometries": [bomb]}
    with pytest.raises(AnnotationError, match="expected geometry collections at most 16 deep in feature 1"):
        read_features(write(tmp_path, bomb))


def test_valid_area_fills_what_the_line_goes_around() -> None:
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    assert valid_area(bow_tie).area == pytest.approx(50)
    twice = shapely.Polygon([(0, 0), (10, 0), (10, 10), (0, 10), (0, 0), (2, 2), (8, 2), (8, 8), (2, 8), (2, 2)])
    assert valid_area(twice).area == pytest.approx(100)
    spike = shapely.Polygon([(0, 0), (10, 0), (10, 10), (10, 50), (10, 10), (0, 10)])
    assert valid_area(spike).equals(shapely.box(0, 0, 10, 10))
    hole = shapely.box(0, 0, 10, 10) - shapely.box(2, 2, 4, 4)
    assert valid_area(hole) is hole


@pytest.mark.parametrize(
    "wkt", ["POINT (1 2)", "LINESTRING (0 0, 1 1)", "POLYGON ((0 0, 5 5, 9 9, 0 0))", "POLYGON EMPTY"]
)
def test_valid_area_of_what_has_none_is_empty(wkt: str) -> None:
    assert valid_area(shapely.from_wkt(wkt)).is_empty


def test_valid_area_of_a_collection_is_its_polygons() -> None:
    collection = shapely.GeometryCollection([shapely.box(0, 0, 2, 2), shapely.Point(9, 9), shapely.box(1, 0, 3, 2)])
    assert valid_area(collection).area == pytest.approx(6)


def test_default_colours_are_qupaths_or_fixed() -> None:
    assert default_color("Tumor") == default_color("Tumor: Positive") == (200, 0, 0)
    assert default_color("Plasma") == default_color("Plasma") != default_color("Mast")
    assert all(0 <= c <= 255 for c in default_color("Plasma"))


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("annotations_53poly_3pt.geojson", {"annotation": 56}),
        ("cellpose_217_detections.geojson", {"annotation": 4, "detection": 217}),
        ("TD_01_verysmall_mIF.geojson", {"annotation": 9}),
        ("Single_cells.geojson", {"annotation": 10, "cell": 121}),
        ("JP2K-33003-2_cell_detection.geojson", {"annotation": 3}),
        ("2020_08_13__8670_48411.geojson", {"annotation": 268}),
    ],
)
def test_real_files(real_data: Path, name: str, types: dict[str, int]) -> None:
    (path,) = (real_data / "qupath").rglob(name)
    found = read_features(path)
    counts = {kind: sum(f.object_type == kind for f in found) for kind in {f.object_type for f in found}}
    assert counts == types
    document = json.loads(path.read_text(encoding="utf-8"))
    raw = document["features"] if isinstance(document, dict) else document
    areas = [shape(r["geometry"]).area for r in raw]
    np.testing.assert_allclose([f.geometry.area for f in found], areas)
    assert [f.id for f in found] == [r["id"] for r in raw]
