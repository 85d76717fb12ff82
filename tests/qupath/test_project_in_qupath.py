"""Pixels, polygons and both bulk ways, against a real QuPath."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from stimage_qupath import names
from stimage_qupath.config import ProjectSettings
from stimage_qupath.errors import ImageError, OutputExistsError
from stimage_qupath.geojson_dialect import CellFeatureWriter
from stimage_qupath.pipeline import project as flow
from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.qpdata import read_qpdata
from stimage_qupath.qupath.qpproj import read_project, write_project
from stimage_qupath.results import Cells
from stimage_qupath.slide.view import open_view

pytestmark = [pytest.mark.qupath, pytest.mark.slow]

PIXELS = """
import numpy as np
ROTATED = JClass("qupath.lib.images.servers.RotatedImageServer")
ROTATION = JClass("qupath.lib.images.servers.RotatedImageServer$Rotation")
CROPPED = JClass("qupath.lib.images.servers.CroppedImageServer")
REGION = JClass("qupath.lib.regions.ImageRegion")
REQUEST = JClass("qupath.lib.regions.RegionRequest")
uri = JClass("java.io.File")(arguments["image"]).toURI().toString()
plain = JClass("qupath.lib.images.servers.ImageServers").buildServer(uri)
def seen(server):
    x, y, w, h = arguments["box"]
    image = server.readRegion(REQUEST.createInstance(server.getPath(), 1.0, x, y, w, h))
    rgb = np.array(image.getRGB(0, 0, w, h, None, 0, w)).reshape(h, w)
    channels = np.stack([rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255], -1).tolist()
    return [int(server.getWidth()), int(server.getHeight()), channels]
turned = ROTATED(plain, ROTATION.ROTATE_90)
servers = {
    "": plain,
    "rotate 90": turned,
    "rotate 180": ROTATED(plain, ROTATION.ROTATE_180),
    "rotate 270": ROTATED(plain, ROTATION.ROTATE_270),
    "crop 101,203,300,251": CROPPED(plain, REGION.createInstance(101, 203, 300, 251, 0, 0)),
    "rotate 90/crop 20,30,400,500": CROPPED(turned, REGION.createInstance(20, 30, 400, 500, 0, 0)),
}
return {name: seen(server) for name, server in servers.items()}
"""


def test_views_show_the_pixels_of_qupath(tissue_slide: Any, in_qupath: Callable[..., Any]) -> None:
    x, y, width, height = box = (37, 51, 120, 90)
    for name, (full_width, full_height, pixels) in in_qupath(PIXELS, image=str(tissue_slide.path), box=box).items():
        with open_view(tissue_slide.path, tuple(filter(None, name.split("/")))) as view:
            assert (view.width, view.height) == (full_width, full_height), name
            np.testing.assert_array_equal(view.read_region(x, y, width=width, height=height), pixels, err_msg=name)


VIEWS = """
with QuPathProject(arguments["project"], mode="r+") as project:
    package = "qupath.lib.images.servers."
    servers = JClass(package + "RotatedImageServer"), JClass(package + "CroppedImageServer")
    uri = JClass("java.io.File")(arguments["image"]).toURI().toString()
    plain = JClass("qupath.lib.images.servers.ImageServers").buildServer(uri)
    turned = servers[0](plain, JClass("qupath.lib.images.servers.RotatedImageServer$Rotation").ROTATE_270)
    region = JClass("qupath.lib.regions.ImageRegion").createInstance(20, 30, 400, 500, 0, 0)
    cut = servers[1](turned, region)
    for server in (plain, turned, cut):
        entry = project.java_object.addImage(server.getBuilder())
        entry.setImageName(server.getServerType())
        entry.saveImageData(entry.readImageData())
    project.java_object.syncChanges()
return None
"""


def test_views_of_a_project_are_read_from_its_file(
    tissue_slide: Any, tmp_path: Path, bridge: BridgeClient, in_qupath: Any
) -> None:
    bridge.ask("create", project=str(tmp_path / "p"), images=[])
    in_qupath(VIEWS, project=str(tmp_path / "p" / "project.qpproj"), image=str(tissue_slide.path))
    images = read_project(tmp_path / "p").images
    assert [image.view for image in images] == [(), ("rotate 270",), ("rotate 270", "crop 20,30,400,500")]
    listed = bridge.ask("images", project=str(tmp_path / "p" / "project.qpproj"))
    for image, record in zip(images, listed, strict=True):
        with open_view(tissue_slide.path, image.view) as view:
            assert (view.width, view.height) == (record["width"], record["height"])
        if record["pixel_um"] is not None:  # OpenSlide 3.4.1, which 0.4.4 may bring, does not know it
            assert record["pixel_um"] == pytest.approx([0.5, 0.5])


def test_a_project_written_without_java_opens(tissue_slide: Any, tmp_path: Path, bridge: BridgeClient) -> None:
    file = write_project(tmp_path / "new_1.0", [tissue_slide.path])
    (record,) = bridge.ask("images", project=str(file))
    assert (record["name"], record["width"], record["height"]) == (tissue_slide.path.name, 1110, 1483)


def awkward(rng: np.random.Generator, kind: int) -> shapely.Polygon:
    """Return a polygon of one of six kinds, many of them invalid once rounded to 0.01 px."""
    x, y = rng.uniform(0, 5000, size=2)
    angle = np.sort(rng.uniform(0, 2 * np.pi, size=rng.integers(5, 30)))
    if kind == 0:  # star that touches itself
        radius = rng.uniform(0, 8, size=len(angle))
    elif kind == 1:  # tiny
        radius = rng.uniform(0, 0.02, size=len(angle))
    elif kind == 2:  # spike
        radius = np.where(np.arange(len(angle)) == 0, 500.0, 3.0)
    elif kind == 3:  # needle thinner than the grid
        return shapely.Polygon([(x, y), (x + 40, y + 0.004), (x + 80, y), (x + 40, y - 0.004)])
    else:
        radius = rng.uniform(3, 9, size=len(angle))
    ring = np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)])
    if kind == 4:  # corners closer than the grid
        ring = np.repeat(ring, 2, axis=0) + rng.uniform(-0.004, 0.004, size=(2 * len(ring), 2))
    polygon = shapely.Polygon(ring)
    if kind == 5:
        polygon = shapely.Polygon(ring, [shapely.Point(x, y).buffer(float(rng.uniform(0.001, 2.5))).exterior])
    return polygon


READ_FILE = """
io = JClass("qupath.lib.io.PathIO")
found = io.readObjects(JClass("java.io.File")(arguments["file"]))
return [[str(o.getID()), float(o.getROI().getArea())] for o in found]
"""


def test_no_generated_polygon_is_rejected(tmp_path: Path, in_qupath: Callable[..., Any]) -> None:
    rng = np.random.default_rng(5)
    polygons = np.array([awkward(rng, i % 6) for i in range(10_000)], dtype=object)
    ids = np.array([f"{i:08x}-0000-5000-8000-000000000000" for i in range(len(polygons))], dtype=object)
    centres = np.array([[p.bounds[0], p.bounds[1]] for p in polygons])
    path = tmp_path / "cells.geojson.gz"
    with gzip.open(path, "wb") as stream:
        writer = CellFeatureWriter(stream)
        writer.append(Cells(ids=ids, polygons=polygons, centroids_px=centres), {})
        writer.close()
    found = in_qupath(READ_FILE, file=str(path))
    assert [identity for identity, _ in found] == ids.tolist()
    with gzip.open(path) as stream:
        rings = [feature["geometry"]["coordinates"] for feature in json.load(stream)["features"]]
    areas = np.array([shapely.Polygon(shell, holes).area for shell, *holes in rings])
    np.testing.assert_allclose([area for _, area in found], areas, rtol=0.02, atol=0.02)


BOTH = """
import numpy as np
from stimage_qupath.qupath.cell_arrays import CellArrays, RingArrays, uuid_halves
from stimage_qupath.qupath.project.bulk import GroovyBulk, LoopBulk, choose_bulk
import stimage_qupath.names as names
def arrays():
    square = [(10, 10), (20, 10.25), (20, 20), (10, 20), (10, 10)]
    hole = [(13, 13), (13, 16), (16, 16), (16, 13), (13, 13)]
    whole = RingArrays.from_coordinates([[square, hole], [[(x + 30, y) for x, y in square]]])
    nuclei = RingArrays.from_coordinates([[hole], [[(x + 30, y) for x, y in hole]]])
    ids = uuid_halves(["00000000-0000-5000-8000-000000000001", "ffffffff-ffff-5fff-bfff-ffffffffffff"])
    values = np.array([[1, 0.1], [1, np.nan]], dtype=np.float32)
    return CellArrays(ids, whole, (names.OBJECT_VERSION, "STimage: x"), values, np.array([0, -1], dtype=np.int32),
        (("Immune: B", (1, 2, 3)),), np.array([0, 1], dtype=np.int32), nuclei if arguments["cells"] else None)
def seen(bulk):
    h = JClass("qupath.lib.objects.hierarchy.PathObjectHierarchy")()
    rois = JClass("qupath.lib.roi.ROIs")
    plane = JClass("qupath.lib.regions.ImagePlane").getDefaultPlane()
    box = rois.createRectangleROI(0, 0, 100, 100, plane)
    parent = JClass("qupath.lib.objects.PathObjects").createAnnotationObject(box)
    h.addObject(parent)
    parents = [h.getRootObject(), parent]
    bulk.add(arrays(), parents)
    h.fireHierarchyChangedEvent(h.getRootObject())
    rows = []
    for o in sorted(h.getDetectionObjects(), key=lambda o: str(o.getID())):
        m = o.getMeasurementList()
        rows.append([str(o.getID()), str(o.getClass().getName()), str(o.getPathClass()), o.getParent() == parent,
            [[p.getX(), p.getY()] for p in o.getROI().getAllPoints()], o.getROI().getArea(),
            {str(n): float(m.get(n)) for n in m.getMeasurementNames()},
            float(o.getNucleusROI().getArea()) if arguments["cells"] else None])
    ids = [sorted(map(tuple, bulk.ids(h, ours=ours).tolist())) for ours in (True, False)]
    updated = bulk.update(h, arrays())
    removed = bulk.remove_own(parents)
    return [rows, ids[0], len(ids[1]), updated, removed, int(h.getDetectionObjects().size())]
groovy = choose_bulk()
return [groovy.kind, seen(groovy), seen(LoopBulk())]
"""


@pytest.mark.parametrize("cells", [False, True])
def test_both_bulk_ways_make_the_same(cells: bool, in_qupath: Callable[..., Any]) -> None:
    kind, groovy, loop = in_qupath(BOTH, cells=cells)
    assert kind == "groovy"
    assert groovy == loop
    rows, ours, others, updated, removed, left = groovy
    assert len(ours) == updated == removed == 2
    assert (others, left) == (1, 0)
    assert rows[0][5] == pytest.approx(100 - 1.25 - 9, abs=0.01)
    assert rows[0][6] == {names.OBJECT_VERSION: 1.0, "STimage: x": float(np.float32(0.1))}
    assert rows[1][6] == {names.OBJECT_VERSION: 1.0}
    assert [row[3] for row in rows] == [False, True]


REAL = """
from stimage_qupath.qupath.project.store import ProjectStore
h = JClass("qupath.lib.io.PathIO").readHierarchy(JClass("java.io.File")(arguments["file"]))
rows = []
for o in h.getFlattenedObjectList(None):
    if not o.isRootObject():
        m = o.getMeasurementList()
        rows.append([str(o.getID()), str(o.getPathClass()), float(o.getROI().getArea()), o.getROI().getBoundsX(),
            o.getROI().getBoundsY(), {str(n): float(m.get(n)) for n in m.getMeasurementNames()}])
return rows
"""


@pytest.mark.parametrize(
    "place",
    [
        "CosciaLab__Qupath_to_LMD/demo_Qupath_project/data/1",
        "orion-cirb__QuPath_Foci/data/198",
        "orion-cirb__QuPath_Foci/data/244",
    ],
)
def test_real_files_read_as_qupath_reads_them(real_data: Path, place: str, in_qupath: Callable[..., Any]) -> None:
    path = real_data / "qupath" / place / "data.qpdata"
    theirs = {row[0]: row[1:] for row in in_qupath(REAL, file=str(path))}
    ours = {o.id: o for o in read_qpdata(path).objects}
    assert ours.keys() == theirs.keys()
    for identity, (path_class, area, x, y, measurements) in theirs.items():
        found = ours[identity]
        assert (found.classification or "Unclassified") == path_class.replace("None", "Unclassified")
        assert found.geometry.area == pytest.approx(area, rel=1e-3, abs=0.01)  # ellipses as 100 corners
        assert found.geometry.bounds[:2] == pytest.approx((x, y), abs=0.01)
        assert {k: v for k, v in found.measurements.items() if v == v} == pytest.approx(
            {k: v for k, v in measurements.items() if v == v}
        )


THUMBNAILS = """
import time
from pathlib import Path
import stimage_qupath.qupath.project.create as create
from stimage_qupath.qupath.project.store import ProjectStore
create.THUMBNAIL_PX = 1_000_000
folder = create.create_project(Path(arguments["folder"]))
ProjectStore(folder).add_images([Path(image) for image in arguments["images"]])
with QuPathProject(folder, mode="r") as project:
    return [str(entry.image_type) for entry in project.images]
"""


def test_a_large_flat_image_is_added_without_a_thumbnail(
    tissue_slide: Any, tmp_path: Path, in_qupath: Callable[..., Any]
) -> None:
    """The tissue has a small level; its copy is flat and larger than the limit."""
    flat = tmp_path / "flat.png"
    Image.fromarray(tifffile.imread(tissue_slide.path, level=0)).save(flat)
    folder = tmp_path / "p"
    types = in_qupath(THUMBNAILS, folder=str(folder), images=[str(flat), str(tissue_slide.path)])
    assert types == ["QuPathImageType.BRIGHTFIELD_H_E"] * 2
    assert [(folder / "data" / n / "thumbnail.jpg").exists() for n in "12"] == [False, True]


def test_a_project_is_not_made_over_another(tmp_path: Path, bridge: BridgeClient) -> None:
    """paquo's own way would zip what is there and empty the folder."""
    bridge.ask("create", project=str(tmp_path / "p"), images=[])
    before = sorted(path.name for path in (tmp_path / "p").iterdir())
    with pytest.raises(OutputExistsError, match=r"expected a new or empty folder for the project"):
        bridge.ask("create", project=str(tmp_path / "p"), images=[])
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == before
    (tmp_path / "no.svs").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"expected an image QuPath opens, found .*no.svs"):
        bridge.ask("create", project=str(tmp_path / "q"), images=[str(tmp_path / "no.svs")])


@pytest.mark.parametrize("java", ["auto", "never"])
def test_plain_images_become_a_project_with_results(
    java: Any, tissue_slide: Any, tmp_path: Path, in_qupath: Callable[..., Any]
) -> None:
    slides = tmp_path / "slides, é α"
    slides.mkdir()
    pixels = np.ascontiguousarray(tifffile.imread(tissue_slide.path, level=0)[:500, :520])
    for name in ("a 1.tif", "b.tif"):
        options: Any = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(slides / name, pixels, photometric="rgb", tile=(256, 256), **options)
    settings = ProjectSettings(
        image=tmp_path / "study_1.0", output=tmp_path / "runs", images=str(slides), create_project=True, java=java,
        overview=False, device="cpu",
    )  # fmt: skip
    record = flow.run(settings)
    counted = in_qupath(COUNT, project=str(tmp_path / "study_1.0" / "project.qpproj"))
    assert [name for name, _ in counted] == ["a 1.tif", "b.tif"]
    expected = [row["cells"] for row in record["images"]] if java == "auto" else [0, 0]
    assert [count for _, count in counted] == expected
    assert all(row["cells"] > 5 for row in record["images"])


COUNT = """
with QuPathProject(arguments["project"], mode="r") as project:
    return [[e.image_name, int(e.java_object.readHierarchy().getDetectionObjects().size())] for e in project.images]
"""
