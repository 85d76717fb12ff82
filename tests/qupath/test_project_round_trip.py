"""Project -> annotations -> prediction -> written back -> reopened, on a real QuPath."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from stimage_qupath import names
from stimage_qupath.config import ProjectSettings
from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.export.run_reader import read_run
from stimage_qupath.geojson_dialect import read_features
from stimage_qupath.pipeline import project as flow
from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.guards import LOCK_FILE, fingerprint
from stimage_qupath.qupath.qpdata import read_qpdata
from stimage_qupath.qupath.qpproj import read_project
from stimage_qupath.qupath.source import JavaFreeSource, QuPathSource

pytestmark = [pytest.mark.qupath, pytest.mark.slow]

DRAW = """
from paquo.classes import QuPathPathClass
with QuPathProject(arguments["project"], mode="r+") as project:
    h = project.images[0].hierarchy
    kite = Polygon([(60, 60), (700, 80), (650, 700), (90, 640)])
    tumour = h.add_annotation(kite, path_class=QuPathPathClass("Tumor", color="#c80000"))
    tumour.name = "α, main"
    tumour.locked = True
    h.add_annotation(box(720, 750, 1080, 1300), path_class=QuPathPathClass("Stroma", color="#96c896"))
    hole = [(200, 1000), (300, 1000), (300, 1100), (200, 1100)]
    h.add_annotation(Polygon([(50, 800), (650, 800), (650, 1400), (50, 1400)], [hole]))
    h.add_annotation(Point(5, 5))
    mine = QuPathPathClass("Mine", color="#010203")
    own = h.add_detection(Point(400, 400).buffer(9), path_class=mine, measurements={"Nucleus: Area": 12.5})
    root = h.java_object
    inside = [a.java_object for a in h.annotations if a.name == "α, main"][0]
    root.removeObject(own.java_object, False)
    inside.addChildObject(own.java_object)
    root.fireHierarchyChangedEvent(root.getRootObject())
    result = {"user": str(own.java_object.getID()), "tumour": str(inside.getID())}
return result
"""

READ = """
import base64
project = QuPathProject(arguments["project"], mode="r")
h = project.images[0].java_object.readHierarchy()
io, options = JClass("qupath.lib.io.PathIO"), JClass("qupath.lib.io.PathIO$GeoJsonExportOptions")
def export(objects):
    stream = JClass("java.io.ByteArrayOutputStream")()
    io.exportObjectsAsGeoJSON(stream, objects, JArray(options)([options.FEATURE_COLLECTION]))
    return base64.b64encode(bytes(stream.toByteArray())).decode()
rows = []
tools = JClass("qupath.lib.common.ColorTools")
for o in h.getDetectionObjects():
    parent, m, c = o.getParent(), o.getMeasurementList(), o.getPathClass()
    points = [(p.getX(), p.getY()) for p in o.getROI().getAllPoints()]
    rows.append({"id": str(o.getID()), "parent": None if parent.isRootObject() else str(parent.getID()),
        "type": str(o.getClass().getSimpleName()), "class": None if c is None else str(c.toString()),
        "color": None if c is None else [tools.red(c.getColor()), tools.green(c.getColor()), tools.blue(c.getColor())],
        "measurements": {str(n): float(m.get(n)) for n in m.getMeasurementNames()}, "points": points})
return {"annotations": export(h.getAnnotationObjects()), "detections": rows}
"""


@dataclass(frozen=True)
class Drawn:
    """A project with annotations and a nucleus of the user's."""

    file: Path
    user: str
    tumour: str

    @property
    def data(self) -> Path:
        return self.file.parent / "data" / "1" / "data.qpdata"


@pytest.fixture(scope="session")
def drawn_once(
    tmp_path_factory: pytest.TempPathFactory, tissue_slide: Any, bridge: BridgeClient, in_qupath: Callable[..., Any]
) -> Drawn:
    odd = "" if sys.platform == "win32" else '"'
    folder = tmp_path_factory.mktemp("round trip, é") / f"proj_1.0 α%20&'{odd}"
    bridge.ask("create", project=str(folder), images=[str(tissue_slide.path)])
    file = folder / "project.qpproj"
    return Drawn(file, **in_qupath(DRAW, project=str(file)))


@pytest.fixture
def drawn(drawn_once: Drawn, tmp_path: Path) -> Drawn:
    """Return a copy of the project, which may be written."""
    shutil.copytree(drawn_once.file.parent, tmp_path / "copy.2.0")
    return Drawn(tmp_path / "copy.2.0" / "project.qpproj", drawn_once.user, drawn_once.tumour)


def settings(drawn: Drawn, output: Path, **changes: Any) -> ProjectSettings:
    return ProjectSettings(
        **({"image": drawn.file, "output": output, "write_back": True, "overview": False, "device": "cpu"} | changes)
    )


def test_round_trip_and_second_run(drawn: Drawn, tmp_path: Path, in_qupath: Callable[..., Any]) -> None:
    before = in_qupath(READ, project=str(drawn.file))
    record = flow.run(settings(drawn, tmp_path / "out"))
    (row,) = record["images"]
    assert row["status"] == "done"
    assert row["written"]["route"] == "groovy"
    assert row["written"]["removed"] == 0
    after = in_qupath(READ, project=str(drawn.file))

    assert after["annotations"] == before["annotations"]
    run = read_run(tmp_path / "out" / row["run"])
    features = {feature.id: feature for feature in read_features(run.geojson_path)}
    region_of = {i: s.region.id for s in run.spans for i in list(features)[s.first : s.first + s.count]}
    found = {d["id"]: d for d in after["detections"]}
    user = found.pop(drawn.user)
    assert found.keys() == features.keys()
    assert len(found) > 30
    assert len({d["parent"] for d in found.values()}) == 3
    for identity, detection in found.items():
        feature = features[identity]
        assert detection["type"] == "PathDetectionObject"
        assert detection["parent"] == region_of[identity]
        assert detection["class"] == feature.classification
        assert detection["measurements"].keys() == feature.measurements.keys()
        assert detection["measurements"][names.OBJECT_VERSION] == 1.0
        for name, value in detection["measurements"].items():
            assert np.float32(value) == np.float32(feature.measurements[name])
        ring = shapely.Polygon(detection["points"])
        assert shapely.hausdorff_distance(ring.exterior, feature.geometry.exterior) < 0.01
    assert user == next(d for d in before["detections"] if d["id"] == drawn.user)
    assert user["class"] == "Mine"
    assert user["color"] == [1, 2, 3]
    assert drawn.data.with_name("data.qpdata.stimage-backup").is_file()
    assert not (drawn.file.parent / LOCK_FILE).exists()

    again = flow.run(settings(drawn, tmp_path / "out2"))["images"][0]["written"]
    assert again["removed"] == again["added"] == len(found)
    last = in_qupath(READ, project=str(drawn.file))
    assert last["annotations"] == before["annotations"]
    assert sorted(d["id"] for d in last["detections"]) == sorted(d["id"] for d in after["detections"])

    of_tumour = flow.run(settings(drawn, tmp_path / "out3", classes=("Tumor",)))["images"][0]["written"]
    assert of_tumour["removed"] == of_tumour["added"] == sum(d["parent"] == drawn.tumour for d in found.values())


def test_java_free_reading_equals_qupath(drawn: Drawn, bridge: BridgeClient) -> None:
    project = read_project(drawn.file)
    through = QuPathSource(project, bridge).objects(project.images[0])
    plain = JavaFreeSource().objects(project.images[0])
    assert [o.id for o in plain] == [o.id for o in through]
    assert len(plain) == 5
    for one, other in zip(plain, through, strict=True):
        assert (one.name, one.classification, one.is_locked) == (other.name, other.classification, other.is_locked)
        assert one.object_type == other.object_type
        if one.classification:
            assert one.color == other.color
        assert one.measurements == pytest.approx(other.measurements)
        assert shapely.hausdorff_distance(one.geometry, other.geometry) < 0.01
    data = read_qpdata(drawn.data)
    assert {o.parent_id for o in data.objects if o.id == drawn.user} == {drawn.tumour}


def test_classes_and_colours_of_cells(drawn: Drawn, tmp_path: Path, bridge: BridgeClient, in_qupath: Any) -> None:
    """Cells with classes, holes and nuclei, which the prediction itself does not make yet."""
    from stimage_qupath.export.run_folder import RunWriter
    from stimage_qupath.results import Cells, Region

    ring = shapely.Point(300, 300).buffer(12).difference(shapely.Point(300, 300).buffer(4))
    whole = shapely.box(500.25, 300.5, 520, 320)
    polygons = np.array([ring, whole], dtype=object)
    cells = Cells(
        ids=np.array(["00000000-0000-5000-8000-000000000001", "ffffffff-ffff-5fff-bfff-ffffffffffff"], dtype=object),
        polygons=polygons,
        centroids_px=np.array([[300.0, 300.0], [510, 310]]),
        measurements={names.AREA: np.array([1.5, np.nan], dtype=np.float32)},
        classifications=np.array(["Immune: B cell", "Mine"], dtype=object),
    )
    with RunWriter(tmp_path / "run", panel=None, model_card={}, color_of_class={"Immune: B cell": (9, 8, 7)}) as writer:
        writer.start_region(Region(id="11111111-1111-4111-8111-111111111111", geometry=shapely.box(0, 0, 900, 900)))
        writer.append(cells, None)
        writer.finish({})
    written = bridge.ask(
        "write", project=str(drawn.file), image="1", run=str(tmp_path / "run"), expected=fingerprint(drawn.data)
    )
    assert written["unplaced"] == ["11111111-1111-4111-8111-111111111111"]
    found = {d["id"]: d for d in in_qupath(READ, project=str(drawn.file))["detections"]}
    first, second = found[cells.ids[0]], found[cells.ids[1]]
    assert (first["class"], first["color"], first["parent"]) == ("Immune: B cell", [9, 8, 7], None)
    assert (second["class"], second["color"]) == ("Mine", [1, 2, 3])  # the user's colour wins
    assert first["measurements"] == {names.AREA: 1.5, names.OBJECT_VERSION: 1.0}
    assert names.AREA not in second["measurements"]
    stored = {o.id: o for o in read_qpdata(drawn.data).objects}
    assert stored[cells.ids[0]].geometry.symmetric_difference(ring).area < 0.5
    assert stored[cells.ids[1]].geometry.equals(whole)


def test_measurements_of_the_users_nuclei_are_updated(
    drawn: Drawn, tmp_path: Path, bridge: BridgeClient, in_qupath: Any
) -> None:
    from stimage_qupath.export.run_folder import RunWriter
    from stimage_qupath.results import Cells, Region

    cells = Cells(
        ids=np.array([drawn.user], dtype=object),
        polygons=np.array([shapely.Point(400, 400).buffer(9)], dtype=object),
        centroids_px=np.array([[400.0, 400.0]]),
        measurements={f"{names.PREFIX}ERBB2: mean": np.array([2.5], dtype=np.float32)},
    )
    with RunWriter(tmp_path / "run", panel=None, model_card={}, own_objects=False) as writer:
        writer.start_region(Region(id=drawn.tumour, geometry=shapely.box(0, 0, 900, 900)))
        writer.append(cells, None)
        writer.finish({})
    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    before = in_qupath(READ, project=str(drawn.file))
    written = bridge.ask("write", project=str(drawn.file), image="1", run=str(run), expected=fingerprint(drawn.data))
    after = in_qupath(READ, project=str(drawn.file))
    assert (written["added"], written["updated"]) == (0, 1)
    (one,), (other,) = before["detections"], after["detections"]
    for key in ("id", "class", "parent", "points"):
        assert one[key] == other[key]
    new = {m: 2.5 for m in record["measurements"] if m.startswith(names.PREFIX)}
    assert other["measurements"] == one["measurements"] | new


def test_own_objects_are_removed_and_nothing_else(
    drawn: Drawn, tmp_path: Path, bridge: BridgeClient, in_qupath: Any
) -> None:
    before = in_qupath(READ, project=str(drawn.file))
    (row,) = flow.run(settings(drawn, tmp_path / "out", classes=("Stroma",)))["images"]
    written = bridge.ask("remove", project=str(drawn.file), image="1", expected=row["written"]["sha256"])
    assert (written["added"], written["removed"]) == (0, row["cells"])
    assert in_qupath(READ, project=str(drawn.file)) == before
    with pytest.raises(UsageError, match="expected an image of the project, found id 9"):
        bridge.ask("remove", project=str(drawn.file), image="9", expected=None)


@pytest.mark.parametrize("locale", [("ar", "EG"), ("de", "DE")])
def test_the_language_changes_nothing(
    locale: tuple[str, str], drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language = [f"-Duser.language={locale[0]}", f"-Duser.region={locale[1]}"]
    monkeypatch.setenv("PAQUO_JAVA_OPTS", json.dumps(language))
    monkeypatch.setenv("LC_ALL", "C")
    project = read_project(drawn.file)
    with BridgeClient() as client:
        found = QuPathSource(project, client).objects(project.images[0])
    assert {o.color for o in found if o.classification == "Tumor"} == {(200, 0, 0)}
    (row,) = flow.run(settings(drawn, tmp_path / "out", classes=("Stroma",)))["images"]
    assert row["written"]["added"] == row["cells"] > 5


def test_images_are_added_once(drawn: Drawn, tmp_path: Path, tissue_slide: Any, bridge: BridgeClient) -> None:
    shutil.copy(tissue_slide.path, tmp_path / "more é.tif")
    assert bridge.ask("add_images", project=str(drawn.file), images=[str(tmp_path / "more é.tif")]) == ["2"]
    with pytest.raises(UsageError, match="expected an image that is not in the project yet"):
        bridge.ask("add_images", project=str(drawn.file), images=[str(tmp_path / "more é.tif")])
    names_now = [image["name"] for image in bridge.ask("images", project=str(drawn.file))]
    assert names_now == [tissue_slide.path.name, "more é.tif"]
    assert len(QuPathSource(read_project(drawn.file), bridge).objects(read_project(drawn.file).images[0])) == 5


@pytest.mark.parametrize("what", ["truncated", "changed", "locked", "no image", "saving", "damaged"])
def test_nothing_is_written_where_a_guard_fails(
    what: str, drawn: Drawn, tmp_path: Path, bridge: BridgeClient, in_qupath: Any
) -> None:
    flow.run(settings(drawn, tmp_path / "out", write_back=False, java="never", classes=("Tumor",)))
    (run,) = [p for p in (tmp_path / "out").iterdir() if p.is_dir()]
    expected = fingerprint(drawn.data)
    kind: type[UsageError] = UsageError
    if what == "truncated":
        drawn.data.write_bytes(drawn.data.read_bytes()[:-7])
        expected, kind = fingerprint(drawn.data), AnnotationError
    elif what == "changed":
        expected = "0" * 64
    elif what == "locked":
        import os
        import platform

        lock = json.dumps({"pid": os.getpid(), "host": platform.node()})
        (drawn.file.parent / LOCK_FILE).write_text(lock, encoding="utf-8")
    elif what == "no image":
        text = drawn.file.read_text(encoding="utf-8").replace("tissue.tif", "gone.tif")
        drawn.file.write_text(text, encoding="utf-8")
    elif what == "saving":
        drawn.data.with_name("data.qpdata.bkp").write_bytes(b"")
    else:
        # QuPath logs a class it does not know and goes on, with an empty hierarchy
        drawn.data.write_bytes(drawn.data.read_bytes().replace(b"PathAnnotationObject", b"PathAnnotationObjecX"))
        expected, kind = fingerprint(drawn.data), AnnotationError
    content = drawn.data.read_bytes()
    with pytest.raises(kind):
        bridge.ask("write", project=str(drawn.file), image="1", run=str(run), expected=expected)
    assert drawn.data.read_bytes() == content


SLOW_WRITE = """
import os, runpy, sys, time
sys.argv = ["bridge"]
import stimage_qupath.qupath.guards as guards
original = guards.back_up
def slow(path):
    made = original(path)
    path.write_bytes(b"half")
    time.sleep(60)
    return made
guards.back_up = slow
runpy.run_module("stimage_qupath.qupath.bridge", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no polite signals there")
def test_a_cancel_during_the_write_leaves_the_project_as_it_was(drawn: Drawn, tmp_path: Path) -> None:
    """The bridge is stopped where the file is half written; a run in a process of its own, ended politely."""
    (tmp_path / "slow.py").write_text(SLOW_WRITE, encoding="utf-8")
    code = (
        "import sys, stimage_qupath.qupath.client as c, subprocess\n"
        "real = subprocess.Popen\n"
        f"c.subprocess.Popen = lambda command, **k: real([command[0], '-u', {str(tmp_path / 'slow.py')!r}], **k)\n"
        "from stimage_qupath import cli\n"
        "sys.argv = ['stimage-qupath'] + sys.argv[1:]\ncli.main()"
    )
    words = ["predict", str(drawn.file), "--output", str(tmp_path / "out"), "--write-back", "--device", "cpu"]
    content = drawn.data.read_bytes()
    command = [sys.executable, "-c", code, *words, "--no-overview", "--classes", "Tumor"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while drawn.data.read_bytes() != b"half":
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    asked = time.monotonic()
    process.terminate()
    said = process.communicate(timeout=30)[1].decode()
    assert time.monotonic() - asked < 3
    assert process.returncode == 7, said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert drawn.data.read_bytes() == content
    assert not drawn.data.with_name("data.qpdata.bkp").exists()
