"""The Groovy scripts as a real QuPath runs them: annotations out, nuclei back, nothing else touched."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile

from stimage_qupath.pipeline.doctor import find_qupath
from stimage_qupath.qupath.launcher import check_round_trip, launcher_of
from stimage_qupath.qupath.scripts import FOLDER, install

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
