"""Cells arrive in a real QuPath as cells, and the user's nuclei are updated where they are and never doubled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from stimage_qupath import names
from stimage_qupath.export.run_folder import RunWriter
from stimage_qupath.export.run_reader import read_run
from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.guards import fingerprint
from stimage_qupath.results import Cells, Region

pytestmark = [pytest.mark.qupath, pytest.mark.slow]

KNOWN, NEW = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
MEAN = f"{names.PREFIX}ERBB2: mean"
GROOVY = Path(__file__).parents[2] / "groovy"

DRAW = """
with QuPathProject(arguments["project"], mode="r+") as project:
    h = project.images[0].hierarchy
    h.add_annotation(box(50, 50, 600, 600))
    own = h.add_detection(Point(400, 400).buffer(9), measurements={"Mine": 12.5, "STimage: OLD: mean": 1.0}).java_object
    root = h.java_object
    area = [a.java_object for a in h.annotations][0]
    root.removeObject(own, False)
    own.setID(JClass("java.util.UUID").fromString(arguments["known"]))
    area.addChildObject(own)
    root.fireHierarchyChangedEvent(root.getRootObject())
    result = str(area.getID())
return result
"""

LOOK = """
def look(objects):
    rows = {}
    for o in objects:
        m, c, parent = o.getMeasurementList(), o.getPathClass(), o.getParent()
        row = {"type": str(o.getClass().getSimpleName()), "class": None if c is None else str(c.toString())}
        row["measurements"] = {str(n): float(m.get(n)) for n in m.getMeasurementNames()}
        row["area"] = float(o.getROI().getArea())
        row["nucleus"] = float(o.getNucleusROI().getArea()) if o.isCell() else None
        row["parent"] = None if parent is None or parent.isRootObject() else str(parent.getID())
        rows[str(o.getID())] = row
    return rows
"""

READ = (
    LOOK
    + """
project = QuPathProject(arguments["project"], mode="r")
return look(project.images[0].java_object.readHierarchy().getDetectionObjects())
"""
)

READ_FILE = (
    LOOK
    + """
return look(JClass("qupath.lib.io.PathIO").readObjects(JClass("java.io.File")(arguments["file"])))
"""
)

ATTACH = (
    LOOK
    + """
project = QuPathProject(arguments["project"], mode="r")
data = project.images[0].java_object.readImageData()
file, groovy = JClass("java.io.File"), JClass("groovy.lang.GroovyShell")
shell = groovy(JClass("java.lang.ClassLoader").getSystemClassLoader())
shell.setVariable("home", file(arguments["home"]))
shell.setVariable("data", data)
shell.setVariable("run", arguments["run"])
shell.setVariable("text", arguments["image"])
made = shell.evaluate('''
    def type = new GroovyClassLoader(getClass().getClassLoader()).parseClass(new File(home, "StimageNuclei.groovy"))
    type.attach(data, new groovy.json.JsonSlurper().parseText(text), true)
''')
return [int(made.get("added")), int(made.get("updated")), look(data.getHierarchy().getDetectionObjects())]
"""
)


def users_nuclei(**changes: Any) -> Cells:
    """Return a nucleus that QuPath has, as a detection, and a cell that it lacks."""
    nuclei = np.array([shapely.Point(400, 400).buffer(9), shapely.Point(200, 200).buffer(8)], dtype=object)
    cells = Cells(
        ids=np.array([KNOWN, NEW], dtype=object),
        polygons=nuclei,
        centroids_px=np.array([[400.0, 400], [200, 200]]),
        measurements={names.AREA: np.array([63.6, 50.3], np.float32), MEAN: np.array([2.5, 3.5], np.float32)},
        classifications=np.array([None, "Immune"], dtype=object),
        boundaries=np.array([None, nuclei[1].buffer(6)], dtype=object),
    )
    return replace(cells, **changes)


def write_run(folder: Path, region_id: str, cells: Cells, *, own: bool) -> Path:
    with RunWriter(folder, panel=None, model_card={}, own_objects=own) as writer:
        writer.start_region(Region(id=region_id, geometry=shapely.box(50, 50, 600, 600)))
        writer.append(cells, None)
        return writer.finish({})


@pytest.fixture
def project(tmp_path: Path, tissue_slide: Any, bridge: BridgeClient, in_qupath: Callable[..., Any]) -> tuple[Path, str]:
    """Return a project with an annotation that holds a nucleus of the user's, and the annotation's id."""
    bridge.ask("create", project=str(tmp_path / "project"), images=[str(tissue_slide.path)])
    file = tmp_path / "project" / "project.qpproj"
    return file, in_qupath(DRAW, project=str(file), known=KNOWN)


def assert_updated_and_added(found: dict[str, Any], region_id: str) -> None:
    assert set(found) == {KNOWN, NEW}
    assert found[KNOWN]["measurements"] == {"Mine": 12.5, MEAN: 2.5}  # ours replaced, theirs kept
    assert found[KNOWN]["type"] == "PathDetectionObject"
    assert found[NEW]["type"] == "PathCellObject"
    assert found[NEW]["class"] == "Immune"
    assert found[NEW]["measurements"][MEAN] == 3.5
    assert found[NEW]["nucleus"] == pytest.approx(np.pi * 64, rel=0.02)
    assert found[NEW]["area"] == pytest.approx(np.pi * 14**2, rel=0.02)
    assert found[KNOWN]["parent"] == found[NEW]["parent"] == region_id


def test_cells_are_read_as_cells_with_their_nucleus(tmp_path: Path, in_qupath: Callable[..., Any]) -> None:
    nuclei = np.array([shapely.Point(x, 100).buffer(8) for x in (100, 140)], dtype=object)
    cells = users_nuclei(polygons=nuclei, boundaries=shapely.buffer(nuclei, 6))
    run = read_run(write_run(tmp_path / "run", "r", cells, own=True))
    found = in_qupath(READ_FILE, file=str(run.geojson_path))
    assert [row["type"] for row in found.values()] == ["PathCellObject"] * 2
    for row in found.values():
        assert row["nucleus"] == pytest.approx(np.pi * 64, rel=0.02)
        assert row["area"] == pytest.approx(np.pi * 14**2, rel=0.02)


def test_a_project_keeps_the_users_nuclei_and_gets_those_it_lacks(
    project: tuple[Path, str], tmp_path: Path, bridge: BridgeClient, in_qupath: Callable[..., Any]
) -> None:
    file, region_id = project
    data = file.parent / "data" / "1" / "data.qpdata"
    run = write_run(tmp_path / "run", region_id, users_nuclei(), own=False)
    for added, updated in ((1, 1), (0, 2)):  # again: nothing is doubled
        written = bridge.ask("write", project=str(file), image="1", run=str(run), expected=fingerprint(data))
        assert (written["added"], written["updated"], written["removed"]) == (added, updated, 0)
        assert_updated_and_added(in_qupath(READ, project=str(file)), region_id)


def test_the_scripts_update_the_users_nuclei_in_place(
    project: tuple[Path, str], tmp_path: Path, in_qupath: Callable[..., Any]
) -> None:
    file, region_id = project
    run = write_run(tmp_path / "run", region_id, users_nuclei(), own=False)
    regions = [{"id": region_id, "first": 0, "count": 2, "first_id": KNOWN}]
    image = {"id": "1", "name": "n", "folder": str(run), "cells": 2, "regions": regions, "research_use": "note"}
    added, updated, found = in_qupath(
        ATTACH, project=str(file), home=str(GROOVY), run=str(run), image=json.dumps(image)
    )
    assert (added, updated) == (1, 1)
    assert_updated_and_added(found, region_id)
