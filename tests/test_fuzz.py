"""Whatever is in the files that people hand over: no crash, only errors with a type and a sentence.

Documents that are right are changed at a random place into random JSON, which reaches deeper than random bytes do.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stimage_qupath.errors import StimageError
from stimage_qupath.geojson_dialect import read_features
from stimage_qupath.models.checkpoint import load_model, model_folder
from stimage_qupath.regions.annotations import read_regions
from stimage_qupath.request import read_request
from stimage_qupath.spots.readers import read_dataset

EXAMPLES = Path(__file__).parent / "groovy"
SQUARE = {
    "type": "Polygon",
    "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]],
    "plane": {"c": -1, "z": 0, "t": 0},
}
FEATURE = {
    "type": "Feature",
    "id": "1f0d2a1c-3c1f-4a64-9b1b-6a2b4f0d9e11",
    "geometry": SQUARE,
    "nucleusGeometry": SQUARE,
    "properties": {
        "objectType": "annotation",
        "name": "a",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "measurements": {"x": 1.5},
        "isLocked": True,
        "childObjects": [],
    },
}

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["../../etc/passwd", "NaN", "\x00", "Polygon", "annotation", 1e308, -1, 2**70, "C:\\x", "é" * 300]),
)  # fmt: skip
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fuzz = settings(
    deadline=None,
    max_examples=int(os.environ.get("STIMAGE_FUZZ_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a document."""
    found = [at] if at else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:6]):
            found += places(inner, (*at, index))
    return found


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Return the document with some values replaced or removed."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        there = places(found)
        if not there:
            break
        *parents, last = draw(st.sampled_from(there))
        inside = found
        for step in parents:
            inside = inside[step]
        if draw(st.booleans()) or isinstance(inside, list):
            inside[last] = draw(json_values)
        else:
            del inside[last]
    return found


def is_refused_or_read(read: Any) -> None:
    """Read, and let only errors of ours pass, each with a sentence."""
    code, said = 2, "read"
    try:
        read()
    except StimageError as error:
        code, said = error.exit_code, str(error)
    assert code in (2, 3, 4, 5)
    assert said


@fuzz
@given(changed({"type": "FeatureCollection", "features": [FEATURE, FEATURE | {"id": None}]}), st.booleans())
def test_geojson(tmp_path: Path, document: Any, packed: bool) -> None:
    path = tmp_path / "a.geojson"
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text, 1) if packed else text)
    is_refused_or_read(lambda: list(read_features(path)))
    is_refused_or_read(lambda: read_regions(path))


@fuzz
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b\x08", b'{"type": "FeatureCollection", "features": [']))
def test_bytes_that_are_no_geojson(tmp_path: Path, data: bytes, start: bytes) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(start + data)
    is_refused_or_read(lambda: read_regions(path))


@pytest.mark.parametrize("name", ["request_full.json", "request_smallest.json"])
@fuzz
@given(data=st.data())
def test_requests(tmp_path: Path, name: str, data: st.DataObject) -> None:
    document = data.draw(changed(json.loads((EXAMPLES / name).read_text(encoding="utf-8"))))
    path = tmp_path / "request.json"
    path.write_text(json.dumps(document), encoding="utf-8")

    def read() -> None:
        request = read_request(path)
        for image in request.images:
            assert image.path is not None
            assert image.view is not None
            name = image.folder_name
            assert Path(name).name == name  # no way out of the output folder

    is_refused_or_read(read)


@fuzz
@given(data=st.data())
def test_model_cards(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "model"
    if not folder.exists():
        shutil.copytree(model_folder("starter"), folder, ignore=shutil.ignore_patterns("nuclei", "*trunk*"))
    card = json.loads((model_folder("starter") / "model.json").read_text(encoding="utf-8"))
    small = {key: value for key, value in card.items() if key not in ("genes", "held_out", "panel")}
    document = data.draw(changed(small))
    whole = {**{key: card[key] for key in ("genes", "held_out", "panel")}, **document}
    (folder / "model.json").write_text(json.dumps(whole), encoding="utf-8")

    def read() -> None:
        model = load_model(str(folder))
        assert model.name
        assert model.research_use
        assert model.choose_genes(()) is not None

    is_refused_or_read(read)


cells = st.one_of(
    st.text(max_size=12), st.sampled_from(["", "nan", "../x", "legacy_st", "0.5", "-1", "S1", 'é,"', "\x00"])
)


@fuzz
@given(
    st.lists(st.sampled_from(["section", "patient", "image", "counts", "spots", "platform", "mpp", "x"]), max_size=9),
    st.lists(st.lists(cells, max_size=9), max_size=4),
)
def test_dataset_tables(tmp_path: Path, columns: list[str], rows: list[list[str]]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(",".join(row) for row in [columns, *rows]), encoding="utf-8")
    is_refused_or_read(lambda: read_dataset(path))


@fuzz
@given(st.binary(max_size=200))
def test_bytes_that_are_no_table(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"section,patient,image,counts,spots,platform,mpp\n" + data)
    is_refused_or_read(lambda: read_dataset(path))
