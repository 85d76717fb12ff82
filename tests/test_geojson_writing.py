"""QuPath's GeoJSON, written: what no version from 0.4 to 0.7 rejects, equal to what the geojson package would say."""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import tracemalloc
import uuid
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely.geometry import mapping, shape

from stimage_qupath.errors import AnnotationError, OutputError, OutputExistsError
from stimage_qupath.geojson_dialect import CellFeatureWriter, read_features, region_feature, write_annotations
from stimage_qupath.geojson_dialect.rings import polygons_on_grid
from stimage_qupath.results import Cells, Region

ID = "3f1c0b0e-6f0a-4c1e-9d5b-0a1b2c3d4e5f"
TWO_DECIMALS = re.compile(rb"-?\d+(\.\d{1,2})?")


def make_cells(polygons: list[Any], **fields: Any) -> Cells:
    n = len(polygons)
    ids = np.array([str(uuid.UUID(int=i + 1)) for i in range(n)], dtype=object)
    centroids = np.array([[p.centroid.x, p.centroid.y] if not p.is_empty else [5.0, 5.0] for p in polygons])
    array = np.empty(n, dtype=object)
    array[:] = polygons
    return Cells(ids=ids, polygons=array, centroids_px=centroids.reshape(n, 2), **fields)


def blobs(n: int, *, seed: int = 0) -> Cells:
    random = np.random.default_rng(seed)
    polygons = []
    for x, y in random.uniform(50, 5000, (n, 2)):
        angle = np.linspace(0, 2 * np.pi, random.integers(12, 31), endpoint=False)
        radius = random.uniform(6, 12, len(angle))
        polygons.append(shapely.Polygon(np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)])))
    return make_cells(polygons)


def streamed(*parts: tuple[Cells, Mapping[str, NDArray[np.float32]]], **options: Any) -> bytes:
    stream = io.BytesIO()
    writer = CellFeatureWriter(stream, **options)
    for cells, measurements in parts:
        writer.append(cells, measurements)
    writer.close()
    return stream.getvalue()


def assert_qupath_reads(feature: Mapping[str, Any]) -> None:
    """Check what QuPath 0.4 to 0.7 throws on."""
    assert str(uuid.UUID(feature["id"])) == feature["id"]
    properties = feature["properties"]
    assert properties["objectType"] in {"annotation", "detection", "cell"}
    if "classification" in properties:
        color = properties["classification"]["color"]
        assert len(color) == 3
        assert all(isinstance(c, int) and 0 <= c <= 255 for c in color)
    for value in properties.get("measurements", {}).values():
        assert isinstance(value, int | float)
        assert math.isfinite(value)
    for geometry in [feature["geometry"], *([feature["nucleusGeometry"]] if "nucleusGeometry" in feature else [])]:
        assert geometry["type"] in {"Polygon", "MultiPolygon"}
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for ring in (ring for polygon in polygons for ring in polygon):
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            assert all(TWO_DECIMALS.fullmatch(repr(c).encode()) for position in ring for c in position)
        area = shape(geometry)
        assert area.is_valid
        assert area.area > 0


def test_stream_and_geojson_package_parse_to_equal_features() -> None:
    cells = blobs(50)
    random = np.random.default_rng(1)
    measurements = {f"STimage: G{i}: mean": random.gamma(2, 2, 50).astype(np.float32) for i in range(3)}
    measurements["STimage: G0: mean"][7] = np.nan
    classes = np.array(["Tumor", None] * 25, dtype=object)
    cells = make_cells(list(cells.polygons), classifications=classes)
    features = []
    for i, polygon in enumerate(cells.polygons):
        rounded = shapely.transform(polygon, lambda xy: np.round(xy, 2))
        properties: dict[str, Any] = {"objectType": "detection"}
        if classes[i]:
            properties["classification"] = {"name": "Tumor", "color": [200, 0, 0]}
        values = {name: float(str(column[i])) for name, column in measurements.items()}
        properties["measurements"] = {name: value for name, value in values.items() if math.isfinite(value)}
        geometry = geojson.Polygon(mapping(rounded)["coordinates"])
        features.append(geojson.Feature(id=cells.ids[i], geometry=geometry, properties=properties))
    expected = geojson.loads(geojson.dumps(geojson.FeatureCollection(features)))
    found = geojson.loads(streamed((cells, measurements)))
    assert found == expected
    assert found.is_valid
    for feature in found["features"]:
        assert_qupath_reads(feature)


def test_measurements_are_the_same_float32_in_short() -> None:
    values = np.array([0.1, 1 / 3, 1e-9, 3e8, 16777217, np.nan, np.inf, -np.inf, 0], dtype=np.float32)
    text = streamed((make_cells([shapely.box(0, 0, 2, 2)] * len(values)), {"A": values}))
    assert b"NaN" not in text
    assert b"null" not in text
    assert b'"A":0.1}' in text
    rows = [f["properties"].get("measurements", {}) for f in json.loads(text)["features"]]
    assert [np.float32(row["A"]) for row in rows if "A" in row] == list(values[np.isfinite(values)])
    assert [("A" in row) for row in rows] == list(np.isfinite(values))


def test_cells_have_their_nucleus_beside_the_geometry() -> None:
    nuclei = [shapely.box(2, 2, 4, 4), shapely.box(20, 20, 24, 24)]
    boundaries = np.array([n.buffer(3, quad_segs=2) for n in nuclei], dtype=object)
    features = json.loads(streamed((make_cells(nuclei, boundaries=boundaries), {})))["features"]
    for feature, nucleus in zip(features, nuclei, strict=True):
        assert_qupath_reads(feature)
        assert feature["properties"] == {"objectType": "cell"}
        assert shape(feature["nucleusGeometry"]).equals(nucleus)
        assert shape(feature["geometry"]).contains(nucleus)


def test_given_and_default_colours() -> None:
    classes = np.array(["Immune", "Odd"], dtype=object)
    cells = make_cells([shapely.box(0, 0, 2, 2)] * 2, classifications=classes)
    features = json.loads(streamed((cells, {}), color_of_class={"Immune": (1, 2, 3)}))["features"]
    assert features[0]["properties"]["classification"] == {"name": "Immune", "color": [1, 2, 3]}
    assert_qupath_reads(features[1])


def test_no_nuclei_is_an_empty_collection_and_blocks_leave_no_seam() -> None:
    assert json.loads(streamed()) == {"type": "FeatureCollection", "features": []}
    cells = blobs(2500)
    column = np.arange(2500, dtype=np.float32)
    whole = streamed((cells, {"A": column}))
    cuts = [0, 1, 1, 999, 2001, 2500]
    parts = [(cells.take(np.arange(a, b)), {"A": column[a:b]}) for a, b in pairwise(cuts)]
    assert streamed(*parts) == whole
    assert [f["properties"]["measurements"]["A"] for f in json.loads(whole)["features"]] == list(range(2500))


def test_holes_stay() -> None:
    ring = shapely.box(0, 0, 10, 10) - shapely.box(3, 3, 6, 6)
    (feature,) = json.loads(streamed((make_cells([ring]), {})))["features"]
    assert_qupath_reads(feature)
    assert shape(feature["geometry"]).equals(ring)


def test_memory_does_not_grow_with_the_number_of_nuclei() -> None:
    class Nowhere:
        def write(self, data: bytes) -> None:
            pass

    cells, column = blobs(500), {"A": np.ones(500, dtype=np.float32)}
    peaks = []
    for blocks in (2, 20):
        writer = CellFeatureWriter(Nowhere())
        tracemalloc.start()
        for _ in range(blocks):
            writer.append(cells, column)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert writer.count == 500 * blocks
    assert peaks[1] < 1.2 * peaks[0]


coordinates = st.one_of(
    st.floats(-1e5, 1e5, allow_nan=False),
    st.floats(-0.1, 0.1, allow_nan=False),
    st.sampled_from([0.0, 0.005, 0.01, 1.0, 1.004, 1.005, 2.0, 99999.995]),
)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=30)
small_rings = st.lists(st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)), min_size=3, max_size=15)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(rings, small_rings), min_size=1, max_size=5))
def test_any_outline_becomes_a_polygon_that_qupath_reads(outlines: list[Any]) -> None:
    polygons = [shapely.Polygon(outline) for outline in outlines]
    features = json.loads(streamed((make_cells(polygons), {})))["features"]
    assert len(features) == len(polygons)
    for feature in features:
        assert_qupath_reads(feature)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 50), st.integers(5, 40), st.booleans())
def test_rounding_moves_an_outline_by_no_more_than_the_grid(seed: int, size: float, n: int, with_hole: bool) -> None:
    random = np.random.default_rng(seed)
    angle = (np.arange(n) + random.uniform(0, 0.9, n)) * 2 * np.pi / n  # no gap of half a turn, so no narrow neck
    unit = np.column_stack([np.cos(angle), np.sin(angle)]) * random.uniform(0.4, 1, n)[:, None]
    polygon = shapely.Polygon(unit * size + 3000)
    if with_hole:
        polygon = polygon - shapely.Point(3000, 3000).buffer(size / 10)
    (result,) = polygons_on_grid(np.array([polygon]), np.array([[3000.0, 3000.0]]))
    # Each vertex moves by at most half the diagonal of the 0.01 px grid; the repair snaps once more.
    assert shapely.symmetric_difference(result, polygon).area <= 0.02 * polygon.length + 0.02


@pytest.mark.parametrize(
    ("wkt", "area"),
    [
        ("POLYGON ((5 5, 5.001 5, 5.001 5.001, 5 5))", 0.01),  # vanishes: the square of 0.1 px
        ("POLYGON EMPTY", 0.01),
        ("POLYGON ((0 0, 10 0, 10 10, 0 10, 0 0))", 100),
        ("POLYGON ((0 0, 10 10, 10 0, 0 9, 0 0))", None),  # crosses itself: its larger part
        ("MULTIPOLYGON (((0 0, 1 0, 1 1, 0 0)), ((20 20, 30 20, 30 30, 20 30, 20 20)))", 100),
        ("POLYGON ((0 0, 4 0, 4 4, 2 4, 2.001 2, 2.002 2, 2.003 4, 0 4, 0 0))", 16),  # a slit that closes
    ],
)
def test_nucleus_after_rounding(wkt: str, area: float | None) -> None:
    polygon = shapely.from_wkt(wkt)
    (result,) = polygons_on_grid(np.array([polygon]), np.array([[5.0, 5.0]]))
    assert result.is_valid
    if area is None:
        parts = shapely.get_parts(shapely.make_valid(polygon))
        area = max(part.area for part in parts)
    assert result.area == pytest.approx(area, abs=0.05 if area > 1 else 1e-6)


def test_minus_zero_is_zero() -> None:
    text = streamed((make_cells([shapely.box(-0.001, -0.001, 4, 4)]), {}))
    assert b"-0.0" not in text


def region(**fields: Any) -> Region:
    return Region(**{"id": ID, "geometry": shapely.box(0, 0, 10.126, 10), **fields})


def test_region_feature_is_a_qupath_annotation() -> None:
    given = region(name="core µ", classification="Tumor: Positive", color=(1, 2, 3), is_locked=True, z=1, t=2)
    feature = region_feature(given)
    assert isinstance(feature, geojson.Feature)
    assert feature.is_valid
    assert_qupath_reads(feature)
    assert feature["geometry"]["plane"] == {"c": -1, "z": 1, "t": 2}
    assert feature["properties"] == {
        "objectType": "annotation",
        "name": "core µ",
        "classification": {"name": "Tumor: Positive", "color": [1, 2, 3]},
        "isLocked": True,
    }
    assert shape(feature["geometry"]).bounds == (0, 0, 10.13, 10)


def test_region_without_class_keeps_its_own_colour_and_no_empty_keys() -> None:
    assert region_feature(region(color=(4, 5, 6)))["properties"] == {"objectType": "annotation", "color": [4, 5, 6]}
    assert "plane" not in region_feature(region())["geometry"]
    assert region_feature(region(classification="Stroma"))["properties"]["classification"]["color"] == [150, 200, 150]


def test_region_of_several_areas_with_holes() -> None:
    geometry = (shapely.box(0, 0, 10, 10) - shapely.box(2, 2, 4, 4)) | shapely.box(20, 20, 30, 30)
    feature = region_feature(region(geometry=geometry))
    assert_qupath_reads(feature)
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert shape(feature["geometry"]).equals(geometry)


def test_region_that_vanishes_is_refused() -> None:
    with pytest.raises(AnnotationError, match=f"expected a region with area on QuPath's grid .* none left of {ID}"):
        region_feature(region(geometry=shapely.box(0, 0, 0.001, 0.001)))


@pytest.mark.parametrize("name", ["x.geojson", "x.geojson.gz"])
def test_written_annotations_are_read_back(tmp_path: Path, name: str) -> None:
    given = region(
        name="core µ", classification="Tumor", color=(1, 2, 3), is_locked=True, geometry=shapely.box(1, 2, 3, 4)
    )
    path = tmp_path / name
    write_annotations(path, [given])
    assert path.read_bytes().startswith(b"\x1f\x8b") == name.endswith("gz")
    (found,) = read_features(path)
    assert (found.id, found.name, found.classification) == (ID, "core µ", "Tumor")
    assert (found.color, found.is_locked) == ((1, 2, 3), True)
    assert found.geometry.equals(given.geometry)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_annotations_are_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "x.geojson.gz"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="expected a new file at"):
        write_annotations(path, [region()])
    assert path.read_text() == "mine"
    write_annotations(path, [region()], force=True)
    assert json.loads(gzip.decompress(path.read_bytes()))["features"][0]["id"] == ID


def test_annotations_into_a_missing_folder_are_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected to write .*x\.geojson, found: No such file"):
        write_annotations(tmp_path / "none" / "x.geojson", [region()])
