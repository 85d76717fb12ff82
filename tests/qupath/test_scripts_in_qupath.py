"""The Groovy scripts as a real QuPath runs them: annotations out, nuclei back, nothing else touched."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile

from stimage_qupath.pipeline.doctor import find_qupath
from stimage_qupath.qupath.launcher import check_round_trip, launcher_of
from stimage_qupath.qupath.scripts import FOLDER, install
from stimage_qupath.request import ImageRequest
from stimage_qupath.slide.view import open_view

pytestmark = pytest.mark.qupath

ODD = "odd, name 'é' α 100% & more"
TUMOR, STROMA, USER = (f"{n * 8}-{n * 4}-4{n * 3}-8{n * 3}-{n * 12}" for n in "abc")
SETUP = """
import qupath.lib.io.PathIO
import qupath.lib.objects.PathObjects
import qupath.lib.objects.classes.PathClass
import qupath.lib.regions.ImagePlane
import qupath.lib.roi.ROIs
import qupath.lib.scripting.QP
def hierarchy = QP.getCurrentHierarchy()
hierarchy.addObjects(PathIO.readObjects(new File(args[0])))
def parent = hierarchy.getAnnotationObjects().find { it.getName() == "tumor" }
def circle = ROIs.createEllipseROI(200, 200, 20, 20, ImagePlane.getDefaultPlane())
def nucleus = PathObjects.createDetectionObject(circle, PathClass.fromString("Immune"))
nucleus.setID(UUID.fromString(args[1]))
nucleus.getMeasurementList().put("Mine", 7.0)
parent.addChildObjects([nucleus])
hierarchy.fireHierarchyChangedEvent(this, hierarchy.getRootObject())
"""
DUMP = """
import com.google.gson.GsonBuilder
import qupath.lib.io.PathIO
import qupath.lib.scripting.QP
def hierarchy = QP.getCurrentHierarchy()
def folder = new File(args[0])
def file = new File(folder, "annotations.geojson")
PathIO.exportObjectsAsGeoJSON(file, hierarchy.getAnnotationObjects(), PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
def rows = hierarchy.getDetectionObjects().collect { o ->
    def names = o.getMeasurementList().getMeasurementNames()
    [id: o.getID().toString(), parent: o.getParent().isRootObject() ? null : o.getParent().getID().toString(),
     classification: o.getPathClass()?.toString(), x: o.getROI().getCentroidX(), y: o.getROI().getCentroidY(),
     measurements: names.collectEntries { [it, o.getMeasurementList().get(it)] }]
}
new File(folder, "detections.json").setText(new GsonBuilder().serializeNulls().create().toJson(rows), "UTF-8")
"""


def annotation(identity, name, ring, color):
    properties = {"objectType": "annotation", "name": name, "classification": {"name": name.title(), "color": color}}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}


class Project:
    """A project of one image in a folder of an odd name, and QuPath to run scripts in it."""

    def __init__(self, folder, slide, qupath):
        self.folder = folder
        self.qupath = qupath
        self.image = folder / f"{ODD}.tif"
        folder.mkdir(parents=True)
        # QuPath's plainest reader, which is in every build, reads flat and uncompressed TIFF
        pixels, scale = tifffile.imread(slide.path, series=0, level=0), 1e4 / slide.mpp
        tifffile.imwrite(self.image, pixels, photometric="rgb", resolution=(scale, scale), resolutionunit="CENTIMETER")
        builder = {
            "builderType": "uri",
            "providerClassName": "qupath.imagej.images.servers.ImageJServerBuilder",
            "uri": self.image.as_uri(),
            "args": [],
        }
        entry = {"serverBuilder": builder, "entryID": 1, "randomizedName": "r", "imageName": self.image.name}
        self.file = folder / "project.qpproj"
        text = {"version": "0.5.1", "createTimestamp": 0, "modifyTimestamp": 0, "uri": self.file.as_uri()}
        self.file.write_text(json.dumps({**text, "lastID": 1, "images": [entry | {"metadata": {}}]}), encoding="utf-8")
        square = [[60, 60], [900, 60], [900, 700], [60, 700], [60, 60]]
        strip = [[100, 800], [1050, 800], [1050, 1400], [100, 1400], [100, 800]]
        features = [annotation(TUMOR, "tumor", square, [200, 1, 2]), annotation(STROMA, "stroma", strip, [1, 200, 3])]
        regions = folder / "drawn.geojson"
        regions.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
        self.scripts = folder / FOLDER
        install(self.scripts)
        self.command(SETUP, regions, USER)

    def start(self, script, *arguments, save=True, java="", env=None):
        words = [word for argument in arguments for word in ("-a", str(argument))]
        command = [launcher_of(self.qupath), "script", "-p", self.file, *(["-s"] if save else []), *words, script]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        if java:
            environment["QUPATH_JAVA_OPTS"] = environment["JAVA_TOOL_OPTIONS"] = java
        return subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def run(self, script, *arguments, timeout=100, **options):
        process = self.start(script, *arguments, **options)
        try:
            output = process.communicate(timeout=timeout)[0].decode(errors="replace")
        finally:
            process.kill()
        assert process.returncode == 0, output
        return output

    def command(self, text, *arguments, save=True):
        script = self.folder / "step.groovy"
        script.write_text(text, encoding="utf-8")
        output = self.run(script, *arguments, save=save)
        assert "ERROR" not in output, output

    def dump(self):
        """Return the annotations' GeoJSON as QuPath exports it, and all detections."""
        self.command(DUMP, self.folder, save=False)
        detections = json.loads((self.folder / "detections.json").read_text(encoding="utf-8"))
        return (self.folder / "annotations.geojson").read_bytes(), detections

    def predict(self, *arguments, **options):
        """Run the script and return its line of the status file and what it printed."""
        status = self.folder / "stimage" / "status.jsonl"
        status.unlink(missing_ok=True)
        script = self.scripts / "Predict selected annotations.groovy"
        output = self.run(script, "genes=BGN,TAGLN", "device=cpu", *arguments, **options)
        assert status.exists(), output
        (line,) = status.read_text(encoding="utf-8").splitlines()
        return json.loads(line), output


@pytest.fixture(scope="module")
def qupath():
    """Return the folder of QuPath."""
    folder = find_qupath()
    if folder is None:
        pytest.skip("qupath: no QuPath on this machine; set PAQUO_QUPATH_DIR")
    return folder


@pytest.fixture(scope="module")
def project(qupath, tissue_slide, tmp_path_factory):
    """Return a project with annotations, with what QuPath exports before and after two predictions."""
    project = Project(tmp_path_factory.mktemp("qupath") / ODD, tissue_slide, qupath)
    project.before = project.dump()
    project.first_status, output = project.predict()
    assert project.first_status["status"] == "done", output
    project.first = project.dump()
    return project


def own(detections):
    return {d["id"]: d for d in detections if "STimage: object version" in d["measurements"]}


def run_folder(status):
    return Path(status["run"]) / "image-1"


def features(status):
    with gzip.open(run_folder(status) / "cells.geojson.gz", "rb") as file:
        return json.load(file)["features"]


def test_every_nucleus_of_the_run_is_in_the_project(project):
    found, written = own(project.first[1]), features(project.first_status)
    assert len(written) > 20
    assert set(found) == {feature["id"] for feature in written}
    for feature in written:
        here = found[feature["id"]]
        expected = feature["properties"]["measurements"]
        assert set(here["measurements"]) == set(expected)
        for name, value in expected.items():
            assert np.float32(here["measurements"][name]) == np.float32(value), name
        assert here["classification"] == feature["properties"].get("classification", {}).get("name")


def test_nuclei_are_children_of_the_annotation_they_lie_in(project):
    spans = json.loads((run_folder(project.first_status) / "run.json").read_text(encoding="utf-8"))["regions"]
    found, written = own(project.first[1]), features(project.first_status)
    assert {span["id"] for span in spans} == {TUMOR, STROMA}
    for span in spans:
        for feature in written[span["first"] : span["first"] + span["count"]]:
            assert found[feature["id"]]["parent"] == span["id"]


def test_annotations_are_byte_for_byte_as_before(project):
    assert project.first[0] == project.before[0]


def test_the_users_nuclei_are_as_before(project):
    (before,) = project.before[1]
    (after,) = [d for d in project.first[1] if d["id"] == USER]
    assert before["id"] == USER
    assert after == before
    assert after["classification"] == "Immune"


def test_a_second_run_replaces_exactly_its_own(project):
    status, _ = project.predict("genes=COL1A2", "classes=Tumor")
    annotations, detections = project.dump()
    before, after = own(project.first[1]), own(detections)
    of_tumor = {i for i, d in before.items() if d["parent"] == TUMOR}
    assert status["removed"] == status["added"] == len(of_tumor) > 5
    assert annotations == project.before[0]
    assert {i for i, d in after.items() if d["parent"] == TUMOR} == of_tumor  # equal runs give equal ids
    assert all("STimage: COL1A2: mean" in after[i]["measurements"] for i in of_tumor)
    assert {i: d for i, d in after.items() if d["parent"] == STROMA} == {
        i: d for i, d in before.items() if d["parent"] == STROMA
    }
    assert [d for d in detections if d["id"] == USER] == project.before[1]


def test_the_nuclei_are_those_of_the_segmenter_that_is_asked_for(project):
    status, _ = project.predict("segmenter=he", "classes=Tumor")
    assert status["status"] == "done"
    record = json.loads((run_folder(status) / "run.json").read_text(encoding="utf-8"))
    assert record["settings"]["segmenter"] == "he"
    first = json.loads((run_folder(project.first_status) / "run.json").read_text(encoding="utf-8"))
    assert first["settings"]["segmenter"] == "classical"
    status, _ = project.predict("segmenter=teaspoon", "classes=Tumor")
    assert status["status"] == "failed"
    assert "expected segmenter" in status["message"]


def test_a_failure_is_said_in_the_status_file_and_changes_nothing(project):
    before = project.dump()
    status, _ = project.predict("genes=NOSUCHGENE")
    assert status["status"] == "failed"
    assert "NOSUCHGENE" in status["message"]
    assert "worker.log" in status["message"]
    assert project.dump() == before


@pytest.mark.parametrize("language", ["-Duser.language=de -Duser.country=DE", "-Duser.language=ar -Duser.country=EG"])
def test_the_language_does_not_matter(project, language):
    script = project.folder / "language.groovy"
    bridge = (project.scripts / "Predict selected annotations.groovy").read_text(encoding="utf-8")
    tag = "ar-EG-u-nu-arab" if "ar" in language else "de-DE"
    body = bridge.replace("\ndef values", f'\nLocale.setDefault(Locale.forLanguageTag("{tag}"))\ndef values', 1)
    script = project.scripts / "language.groovy"
    script.write_text(body, encoding="utf-8")
    status = project.folder / "status-language.jsonl"
    status.unlink(missing_ok=True)
    output = project.run(script, "genes=BGN", f"status={status}", save=False, java=language)
    script.unlink()
    said = json.loads(status.read_text(encoding="utf-8"))
    assert said["status"] == "done", output
    assert said["added"] == len(own(project.first[1]))


def test_a_cancel_ends_everything_within_three_seconds(project):
    before = (project.folder / "data" / "1" / "data.qpdata").read_bytes()
    runs = project.folder / "stimage" / "runs"
    known = set(runs.iterdir())
    script = project.scripts / "interrupted.groovy"
    text = (project.scripts / "Predict selected annotations.groovy").read_text(encoding="utf-8")
    timer = """
def me = Thread.currentThread()
def watch = new Thread({
    def runs = new File(%s)
    def known = %s
    def started = { !(it.getName() in known) && new File(it, "worker.log").isFile() }
    while (!(runs.listFiles() ?: []).any(started)) Thread.sleep(50)
    Thread.sleep(1500)
    println "INTERRUPT " + System.currentTimeMillis()
    me.interrupt()
})
watch.setDaemon(true)
watch.start()
def values""" % (json.dumps(str(runs)), json.dumps([folder.name for folder in known]))  # noqa: UP031
    script.write_text(text.replace("\ndef values", timer, 1), encoding="utf-8")
    status = project.folder / "status-cancel.jsonl"
    output = project.run(script, f"status={status}", save=False)
    script.unlink()
    said = json.loads(status.read_text(encoding="utf-8"))
    assert said["status"] == "cancelled", output
    (job,) = set(runs.iterdir()) - known
    answer = json.loads((job / "response.json").read_text(encoding="utf-8"))
    assert answer["status"] == "cancelled"
    assert answer["error"]["message"] == "cancelled: asked for in QuPath"
    asked = int(output.split("INTERRUPT ")[1].split()[0]) / 1000
    assert (job / "response.json").stat().st_mtime - asked < 3
    assert not [path for path in job.iterdir() if path.is_dir()]
    assert (project.folder / "data" / "1" / "data.qpdata").read_bytes() == before


def test_the_setup_check_answers(project):
    status = project.folder / "status-check.jsonl"
    project.run(project.scripts / "Check setup.groovy", f"status={status}", save=False)
    said = json.loads(status.read_text(encoding="utf-8"))
    assert said["status"] == "done"
    assert said["versions"]["stimage-qupath"]


def test_the_project_script_does_every_image_and_saves(project):
    status = project.folder / "status-project.jsonl"
    script = project.scripts / "Predict for project.groovy"
    output = project.run(script, "genes=BGN", "device=cpu", f"status={status}")
    said = json.loads(status.read_text(encoding="utf-8"))
    assert said["status"] == "done", output
    assert said["added"] == len(own(project.dump()[1])) > 20


def test_export_writes_what_is_in_the_project(project, tmp_path):
    status = tmp_path / "status.jsonl"
    project.run(project.scripts / "Export.groovy", f"to={tmp_path / 'out'}", f"status={status}", save=False)
    said = json.loads(status.read_text(encoding="utf-8"))
    assert said["status"] == "done", said
    table = (Path(said["folder"]) / "nuclei.csv").read_text(encoding="utf-8").splitlines()
    detections = own(project.dump()[1])
    assert {line.split(",")[0] for line in table[1:]} == set(detections)
    exported = json.loads((Path(said["folder"]) / "nuclei.geojson").read_text(encoding="utf-8"))
    assert {feature["id"] for feature in exported["features"]} == set(detections)
    assert (Path(said["folder"]) / "cells.h5ad").is_file()


def test_colours_without_a_window_are_refused(project, tmp_path):
    status = tmp_path / "status.jsonl"
    with pytest.raises(AssertionError, match=r"expected QuPath's window, found none"):
        project.command(
            (project.scripts / "Show gene.groovy").read_text(encoding="utf-8"), f"status={status}", save=False
        )
    assert json.loads(status.read_text(encoding="utf-8"))["status"] == "failed"


def test_the_doctor_has_this_qupath_call_back(qupath):
    assert check_round_trip(qupath).endswith("answer each other")


@pytest.fixture
def run_copy(project, tmp_path):
    """Return a run of the project's image, which may be changed, in a folder of an odd name."""
    copy = tmp_path / ODD / "run"
    shutil.copytree(run_folder(project.first_status), copy)
    return copy


def imported(project, folder, *arguments, **options):
    """Run the script ``Import results`` and return its line of the status file and what it printed."""
    status = folder.parent / "status.jsonl"
    status.unlink(missing_ok=True)
    script = options.pop("script", project.scripts / "Import results.groovy")
    output = project.run(script, f"from={folder}", f"status={status}", *arguments, **options)
    assert status.exists(), output
    return json.loads(status.read_text(encoding="utf-8")), output


def change_record(run, **changes):
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(record | changes), encoding="utf-8")


def test_a_run_from_elsewhere_is_imported(project, run_copy):
    before = project.dump()
    status, output = imported(project, run_copy)
    assert status["status"] == "done", output
    annotations, detections = project.dump()
    assert status["added"] == len(own(detections)) == len(own(project.first[1]))
    assert set(own(detections)) == set(own(project.first[1]))
    assert status["removed"] == len(own(before[1]))
    assert annotations == before[0]
    assert [d for d in detections if d["id"] == USER] == project.before[1]


def test_the_runs_of_a_project_find_their_images(project, run_copy):
    out = run_copy.parent
    row = {"id": "1", "name": project.image.name, "status": "done", "run": "run"}
    table = {"kind": "project", "images": [row, {"id": "2", "name": "x", "status": "failed", "run": None}]}
    (out / "run.json").write_text(json.dumps(table), encoding="utf-8")
    status, output = imported(project, out)
    assert status["status"] == "done", output
    assert status["added"] == len(own(project.dump()[1])) == len(own(project.first[1]))
    note = project.folder / "stimage" / "results.json"
    note.write_text(json.dumps({"output": os.path.relpath(out, project.folder)}), encoding="utf-8")
    output = project.run(project.scripts / "Import results.groovy", f"status={out / 'status2.jsonl'}", save=False)
    note.unlink()
    assert json.loads((out / "status2.jsonl").read_text(encoding="utf-8"))["status"] == "done", output
    table["images"][0]["name"] = "another.svs"
    (out / "run.json").write_text(json.dumps(table), encoding="utf-8")
    status, _ = imported(project, out, save=False)
    assert "found another.svs; open the project they were made for" in status["message"]


@pytest.mark.parametrize("what", ["count", "first id"])
def test_a_run_whose_record_does_not_fit_is_not_imported(project, run_copy, what):
    before = project.dump()
    regions = json.loads((run_copy / "run.json").read_text(encoding="utf-8"))["regions"]
    if what == "count":
        change_record(run_copy, cells=200_001)
    else:
        regions[0]["first_id"] = USER
        change_record(run_copy, regions=regions)
    status, output = imported(project, run_copy)
    assert status["status"] == "failed"
    if what == "count":
        assert "200,001 nuclei; above 200,000 QuPath becomes slow: predict smaller annotations" in output
        assert "expected 200001 nuclei in the order of the run, found" in status["message"]
    else:
        assert f"another first nucleus in region {regions[0]['id']}" in status["message"]
    assert project.dump() == before


CANCEL_IMPORT = """
import qupath.lib.io.PathIO
PathIO.metaClass.static.readObjects = { File file ->
    def found = PathIO.getMethod("readObjects", File).invoke(null, file)
    Thread.currentThread().interrupt()
    return found
}
def values"""


def test_a_cancel_during_the_import_changes_nothing(project, run_copy):
    before = project.dump()
    script = project.scripts / "interrupted import.groovy"
    text = (project.scripts / "Import results.groovy").read_text(encoding="utf-8")
    script.write_text(text.replace("\ndef values", CANCEL_IMPORT, 1), encoding="utf-8")
    status, _ = imported(project, run_copy, script=script)
    script.unlink()
    assert (status["status"], status["message"]) == ("cancelled", "cancelled; nothing was changed")
    assert project.dump() == before


VIEWS = """
import com.google.gson.GsonBuilder
import qupath.lib.images.ImageData
import qupath.lib.images.servers.CroppedImageServer
import qupath.lib.images.servers.ImageServers
import qupath.lib.images.servers.RotatedImageServer
import qupath.lib.objects.PathObjects
import qupath.lib.regions.ImagePlane
import qupath.lib.regions.ImageRegion
import qupath.lib.roi.ROIs
def gson = new GsonBuilder().serializeNulls().create()
def type = new GroovyClassLoader(getClass().getClassLoader()).parseClass(new File(args[0], "StimageRequest.groovy"))
def ask = type.getConstructors()[0].newInstance([classes: ""], null, gson)
def plain = ImageServers.buildServer(new File(args[1]).toURI().toString())
def turned = new RotatedImageServer(plain, RotatedImageServer.Rotation.ROTATE_270)
def box = ImageRegion.createInstance(20, 30, 400, 500, 0, 0)
def servers = [plain, turned, new CroppedImageServer(turned, box), new CroppedImageServer(plain, box),
    new RotatedImageServer(new CroppedImageServer(plain, box), RotatedImageServer.Rotation.ROTATE_90)]
def rows = servers.collect { server ->
    def data = new ImageData(server)
    def roi = ROIs.createRectangleROI(1, 2, 30, 40, ImagePlane.getPlane(2, 1))
    data.getHierarchy().addObject(PathObjects.createAnnotationObject(roi))
    try {
        return ask.describe(new File(args[2]), [id: "x", data: data, areas: ask.areasOf(data, false)])
    } catch (IllegalStateException e) {
        return e.getMessage()
    }
}
new File(args[2], "views.json").setText(gson.toJson(rows), "UTF-8")
"""


def test_the_request_says_how_the_image_is_shown(project, tmp_path):
    project.command(VIEWS, project.scripts, project.image, tmp_path, save=False)
    *rows, last = json.loads((tmp_path / "views.json").read_text(encoding="utf-8"))
    images = [ImageRequest.from_dict(row) for row in rows]
    assert [image.view for image in images] == [
        ("plane 2,1",),
        ("plane 2,1", "rotate 270"),
        ("plane 2,1", "rotate 270", "crop 20,30,400,500"),
        ("plane 2,1", "crop 20,30,400,500"),
    ]
    for image in images:
        with open_view(image.path, image.view[1:]) as view:
            assert (view.width, view.height) == (image.width, image.height)
    assert "expected an image as in its file, turned and then cropped, found" in last
    plane = json.loads((tmp_path / "regions-x.geojson").read_text(encoding="utf-8"))["features"][0]["geometry"]["plane"]
    assert (plane["z"], plane["t"]) == (2, 1)


def test_a_validation_leaves_a_page_and_changes_nothing(project, tmp_path):
    project.predict("genes=BGN,TAGLN")
    before = project.dump()
    script, status = project.scripts / "Validate against annotations.groovy", tmp_path / "status.jsonl"
    output = project.run(script, f"to={tmp_path / ODD}", "genes=BGN", f"status={status}", save=False)
    said = json.loads(status.read_text(encoding="utf-8"))
    assert said["status"] == "done", output
    assert Path(said["report"]) == (tmp_path / ODD / "validation.html").resolve()
    assert "Research use only" in said["message"]
    assert "not pathology" in said["message"]
    assert "Research use only" in Path(said["report"]).read_text(encoding="utf-8")
    found = json.loads((tmp_path / ODD / "validation.json").read_text(encoding="utf-8"))
    assert list(found["classes"]) == ["Stroma", "Tumor"]
    assert list(found["classes"]["Tumor"]["genes"]) == ["BGN"]
    of = own(before[1])
    of_tumor = [d for d in of.values() if d["parent"] == TUMOR]
    assert found["classes"]["Tumor"]["nuclei"] == len(of_tumor)
    pairs = [
        (a["measurements"]["STimage: BGN: mean"], b["measurements"]["STimage: BGN: mean"])
        for a in of_tumor
        for b in of.values()
        if b["parent"] == STROMA
    ]
    expected = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    assert found["classes"]["Tumor"]["genes"]["BGN"]["auroc"]["value"] == pytest.approx(expected, abs=1e-12)
    assert project.dump() == before


def test_a_validation_without_a_run_or_a_class_says_so(project, tmp_path):
    script, status = project.scripts / "Validate against annotations.groovy", tmp_path / "status.jsonl"
    project.run(script, f"from={tmp_path}", f"status={status}", save=False)
    project.run(script, "classes=Necrosis", f"status={status}", save=False)
    project.run(script, f"to={tmp_path}", f"status={status}", save=False)
    run, classes, there = map(json.loads, status.read_text(encoding="utf-8").splitlines())
    assert {said["status"] for said in (run, classes, there)} == {"failed"}
    assert "expected the run of this image in" in run["message"]
    assert "expected annotations with a class, found none" in classes["message"]
    assert "choose another output" in there["message"]


def test_an_explained_gene_is_on_every_nucleus(project, tmp_path):
    status = tmp_path / "status.jsonl"
    script = project.scripts / "Explain a gene.groovy"
    project.run(script, "gene=BGN", "genes=BGN", "device=cpu", "classes=Tumor", f"status={status}")
    said = json.loads(status.read_text(encoding="utf-8"))
    assert said["status"] == "done", said
    assert "Faithful to the model, not evidence of biology." in said["message"]
    nuclei = [d for d in own(project.dump()[1]).values() if d["parent"] == TUMOR]
    values = {d["measurements"]["STimage: BGN: attribution"] for d in nuclei}
    assert len(values) > len(nuclei) / 2 > 5
    assert all(d["measurements"]["STimage: BGN: attribution SD"] >= 0 for d in nuclei)
