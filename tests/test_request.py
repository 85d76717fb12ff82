"""Requests that are refused, requests that are taken, and the JSON Schema that says the same."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from importlib import resources
from pathlib import Path, PurePosixPath

import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.request import ImageRequest, ModelRequest, Request, read_request

EXAMPLES = Path(__file__).parent / "groovy"
SCHEMA = json.loads((resources.files("stimage_qupath") / "schema" / "request.schema.json").read_text(encoding="utf-8"))
IMAGE = {"id": "1", "name": "a", "uri": "file:///a.svs", "width": 10, "height": 20}
SMALLEST = {"api": 1, "run_id": "r", "output": "/o", "model": {"id": "starter"}, "images": [IMAGE]}


def changed(path, value):
    """Return the smallest request with one value set; a number in ``path`` is a place in a list."""
    request = copy.deepcopy(SMALLEST)
    place = request
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return request


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}


def refuses(schema, value):
    """Return whether ``schema`` is against ``value``: the part of JSON Schema that ours uses."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    wanted = schema.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if wanted and (isinstance(value, bool) or not any(isinstance(value, TYPES[name]) for name in wanted)):
        return True
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        return True
    return refuses_inside(schema, value)


def refuses_inside(schema, value):
    if isinstance(value, dict):
        if set(schema.get("required", ())) - set(value) or set(value) - set(schema["properties"]):
            return True
        return any(refuses(schema["properties"][key], part) for key, part in value.items())
    if isinstance(value, list):
        long_enough = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return not long_enough or any(refuses(schema["items"], part) for part in value)
    if isinstance(value, int | float):
        inside = schema.get("minimum", value) <= value <= schema.get("maximum", value)
        return not inside or value <= schema.get("exclusiveMinimum", value - 1)
    return isinstance(value, str) and not re.search(schema.get("pattern", ""), value)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_the_examples_are_taken_by_code_and_schema(path):
    values = json.loads(path.read_text(encoding="utf-8"))
    request = read_request(path)
    assert not refuses(SCHEMA, values)
    assert request.run_id == values["run_id"]
    assert [image.name for image in request.images] == [image["name"] for image in values["images"]]


def test_schema_and_classes_have_the_same_keys():
    for schema, kind in (
        (SCHEMA, Request),
        (SCHEMA["$defs"]["image"], ImageRequest),
        (SCHEMA["properties"]["model"], ModelRequest),
    ):
        fields = dataclasses.fields(kind)
        assert set(schema["properties"]) == {f.name for f in fields}
        assert set(schema["required"]) == {f.name for f in fields if f.default is dataclasses.MISSING}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["api"], 2, r"expected api 1, found 2; run install-scripts"),
        (["api"], "1", r"expected api 1, found '1'"),
        (["output"], "relative", r"expected an absolute output folder, found relative"),
        (["surprise"], 1, r"found surprise"),
        (["model"], {"id": "starter", "sha256": "abc"}, r"model: expected the sha256"),
        (["model"], "starter", r"expected model of type ModelRequest"),
        (["genes"], [1], r"expected genes as a list of gene symbols"),
        (["genes"], "ERBB2", r"expected genes of type tuple"),
        (["unit"], "spots", r"expected unit out of cells, grid, found 'spots'"),
        (["replace"], "all", r"expected replace out of own, none"),
        (["cell_expansion_um"], 51, r"expected cell_expansion_um from 0 to 50, found 51"),
        (["explain"], [1], r"expected explain as a list of gene symbols, found \[1\]"),
        (["images"], [], r"at least one image"),
        (["images"], [5], r"images\[0\]: expected an object, found int"),
        (["images", 0, "id"], "../up", r"images\[0\]: expected an image id"),
        (["images", 0, "id"], "", r"images\[0\]: expected an image id"),
        (["images", 0, "id"], "a" * 65, r"images\[0\]: expected an image id"),
        (["images", 0, "width"], 0, r"expected width of at least 1, found 0"),
        (["images", 0, "width"], 10.5, r"expected width of type int, found 10.5"),
        (["images", 0, "z"], -1, r"expected z of at least 0, found -1"),
        (["images", 0, "rotation"], 45, r"expected a rotation out of 0, 90, 180, 270, found 45"),
        (["images", 0, "pixel_um"], [0.5], r"expected pixel_um as two positive numbers"),
        (["images", 0, "pixel_um"], [0.5, -0.5], r"expected pixel_um as two positive numbers"),
        (["images", 0, "bounds"], [0, 0, 10], r"expected bounds as four whole numbers"),
        (["images", 0, "crop"], [0, 0, 10, 1.5], r"expected crop as four whole numbers"),
        (["images", 0, "zoom"], 1, r"images\[0\]: .* found zoom"),
    ],
)
def test_nonsense_is_refused_by_code_and_schema(path, value, message):
    values = changed(path, value)
    with pytest.raises(UsageError, match=message):
        Request.from_dict(values)
    if path != ["output"]:  # a schema does not know which paths are absolute
        assert refuses(SCHEMA, values)


@pytest.mark.parametrize("missing", ["api", "run_id", "output", "model", "images"])
def test_a_missing_key_is_named(missing):
    values = {key: value for key, value in SMALLEST.items() if key != missing}
    with pytest.raises(UsageError, match=rf"missing 1 required.*'{missing}'"):
        Request.from_dict(values)


def test_an_image_id_stands_once_whatever_its_case():
    values = changed(["images"], [IMAGE | {"id": "a"}, IMAGE | {"id": "A"}])
    with pytest.raises(UsageError, match=r"expected each image id once, found a more than once"):
        Request.from_dict(values)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///data/a.svs", "/data/a.svs"),
        ("file:/data/a.svs", "/data/a.svs"),
        ("file:///data/a%20b%2C%25%26%22.svs", '/data/a b,%&".svs'),
        ("file:///data/%C3%A9%CE%B1.svs", "/data/éα.svs"),
        ("file:///data/éα.svs", "/data/éα.svs"),
        ("file://localhost/data/a+b.svs", "/data/a+b.svs"),
    ],
)
def test_a_file_uri_is_the_path_java_meant(uri, path):
    assert PurePosixPath(ImageRequest(**IMAGE | {"uri": uri}).path) == PurePosixPath(path)


@pytest.mark.parametrize("uri", ["https://server/image/1", "/data/a.svs", "C:/a.svs"])
def test_what_is_no_file_is_refused(uri):
    with pytest.raises(UsageError, match=r"expected an image on a disk"):
        _ = ImageRequest(**IMAGE | {"uri": uri}).path


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "request.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"expected settings as a JSON object"):
        read_request(path)


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"expected a request in UTF-8"):
        read_request(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b"\xe9")
    with pytest.raises(UsageError, match=r"expected a request in UTF-8"):
        read_request(tmp_path / "latin.json")


def test_a_view_is_what_qupath_does_in_its_order():
    image = ImageRequest(**IMAGE, series=2, z=1, t=3, rotation=90, crop=(1, 2, 3, 4))
    assert image.view == ("series 2", "plane 1,3", "rotate 90", "crop 1,2,3,4")
    assert ImageRequest(**IMAGE).view == ()
