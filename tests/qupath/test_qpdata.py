"""Data files of real QuPaths, read without Java."""

from __future__ import annotations

import json
import struct
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import shapely

from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.qupath.java_stream import JavaStream, JavaStreamError, modified_utf8
from stimage_qupath.qupath.qpdata import END, is_complete, read_qpdata
from stimage_qupath.qupath.stored import StoredObject, area_regions

LMD = "qupath/CosciaLab__Qupath_to_LMD/demo_Qupath_project/data/1"
FOCI = "qupath/orion-cirb__QuPath_Foci/data"
STARDIST = "qupath/stardist/qupath_example_project.zip"


@pytest.fixture(scope="session")
def old_project(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of QuPath 0.2.0-m12."""
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(real_data / STARDIST) as archive:
        archive.extractall(folder)
    return folder / "qupath_example_project"


@pytest.mark.parametrize(
    ("place", "version"),
    [
        (LMD, "0.6.0"),
        (f"{FOCI}/198", "0.4.0"),
        (f"{FOCI}/244", "0.4.0"),
        ("qupath/avyan-k__btc_lab_image_analysis/qupath/data/118", "0.5.1"),
    ],
)
def test_objects_are_those_of_the_summary(real_data: Path, place: str, version: str) -> None:
    data = read_qpdata(real_data / place / "data.qpdata")
    summary = json.loads((real_data / place / "summary.json").read_text(encoding="utf-8"))["hierarchy"]
    assert data.qupath_version == version
    assert data.file_version == 3
    assert len(data.objects) == summary["nObjects"] - 1  # the root
    kinds = Counter(o.object_type for o in data.objects)
    counts = summary["objectTypeCounts"]
    assert kinds["annotation"] == counts.get("Annotations", 0)
    assert kinds["cell"] == counts.get("Cells", 0)
    classes = Counter(o.classification or "Unclassified" for o in data.objects if o.object_type == "annotation")
    assert classes == summary["annotationClassificationCounts"]
    assert all(o.id for o in data.objects)


def test_cells_carry_measurements_and_parents(real_data: Path) -> None:
    objects = read_qpdata(real_data / LMD / "data.qpdata").objects
    cells = [o for o in objects if o.object_type == "cell"]
    annotations = {o.id for o in objects if o.object_type == "annotation"}
    assert {o.parent_id for o in cells} <= annotations
    um2 = np.array([o.measurements["Cell: Area"] for o in cells])  # QuPath's own, before it simplified the outline
    px2 = np.array([o.geometry.area for o in cells])
    np.testing.assert_allclose(um2 / px2, 0.34571008852182383**2, rtol=0.05)


def test_the_oldest_files_have_no_ids(old_project: Path) -> None:
    data = [read_qpdata(path) for path in sorted(old_project.glob("data/*/data.qpdata"))]
    assert [d.file_version for d in data] == [2, 2]
    assert [len(d.objects) for d in data] == [0x13, 32]
    regions = area_regions(data[0].objects)
    assert len({region.id for region in regions}) == len(regions) == 19
    assert regions[0].geometry.area == pytest.approx(1518.6549835205078)  # as QuPath noted beside the outline
    assert any(region.geometry.geom_type == "MultiPolygon" for region in regions)


@pytest.mark.parametrize("cut", [1, 6, 7, 1000, 0.5])
def test_a_truncated_file_is_refused(real_data: Path, tmp_path: Path, cut: float) -> None:
    whole = (real_data / LMD / "data.qpdata").read_bytes()
    path = tmp_path / "data.qpdata"
    path.write_bytes(whole[: -cut if isinstance(cut, int) else int(len(whole) * cut)])
    assert not is_complete(path)
    with pytest.raises(AnnotationError, match=r"expected a whole data file, found .*cut short.*; restore it"):
        read_qpdata(path)


def test_completeness_of_tiny_files(tmp_path: Path) -> None:
    path = tmp_path / "data.qpdata"
    for content, complete in [(b"", False), (END[1:], False), (END, True)]:
        path.write_bytes(content)
        assert is_complete(path) is complete


def test_what_is_no_data_file_is_refused(real_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.qpdata"
    with pytest.raises(UsageError, match=r"expected a data file of QuPath at .*, found: No such file"):
        read_qpdata(path)
    whole = (real_data / LMD / "data.qpdata").read_bytes()
    rng = np.random.default_rng(0)
    for content in [END, whole[:1000] + END, whole.replace(b"Data file", b"Gone file"), b"\xac\xed\x00\x05" + END]:
        path.write_bytes(content)
        with pytest.raises(AnnotationError, match=r"found other content"):
            read_qpdata(path)
    for _ in range(200):  # random damage: read, or refused, but nothing else
        damaged = bytearray(whole[:4000] + END)
        damaged[int(rng.integers(4, 4000))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(AnnotationError):
            read_qpdata(path)


def test_strings_as_java_writes_them() -> None:
    assert modified_utf8(b"a\xc0\x80\xc3\xa9") == "a\0é"
    assert modified_utf8(b"\xed\xa0\xbd\xed\xb8\x80") == "\U0001f600"  # two surrogates of three bytes


def test_stream_grammar_by_hand() -> None:
    head = b"\xac\xed\x00\x05"
    block = b"\x77\x02hi"
    text = b"\x74\x00\x01a"
    again = b"\x71" + struct.pack(">I", 0x7E0000)
    floats = b"\x75\x72\x00\x02[F" + bytes(8) + b"\x02\x00\x00\x78\x70" + struct.pack(">i2f", 2, 1.5, -2)
    first, second, third, fourth = JavaStream(head + block + text + again + floats)
    assert (first, second, third) == (b"hi", "a", "a")
    np.testing.assert_array_equal(fourth, [1.5, -2])
    for bad in [head + b"\x99", head + b"\x77\x05hi", head + b"\x71\x00\x7e\x00\x09", head + b"\x75"]:
        with pytest.raises(JavaStreamError, match=r"expected Java objects, found other bytes"):
            list(JavaStream(bad))
    with pytest.raises(JavaStreamError, match=r"expected a Java serialization stream"):
        JavaStream(b"PK\x03\x04")


def test_only_annotations_with_area_are_regions() -> None:
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    objects = [
        StoredObject(shapely.Point(1, 1)),
        StoredObject(shapely.box(0, 0, 5, 5), object_type="detection"),
        StoredObject(bow_tie, id="x", classification="Tumor", z=1),
        StoredObject(shapely.Polygon()),
    ]
    (region,) = area_regions(objects)
    assert (region.id, region.classification, region.z) == ("x", "Tumor", 1)
    assert region.geometry.area == pytest.approx(50)
