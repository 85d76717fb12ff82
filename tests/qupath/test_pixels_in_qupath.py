"""Bounds, planes and what is done to them: QuPath's own pixels against ours.

No reader of several series (Bio-Formats) is part of every QuPath; series are held against tifffile in
``tests/slide/test_planes.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.qpproj import read_project
from stimage_qupath.slide.openslide_slide import OpenSlideSlide
from stimage_qupath.slide.view import open_view

pytestmark = [pytest.mark.qupath, pytest.mark.slow]

NM_PER_PX = 250
SLIDE_PX = (2000, 1600)
AREAS = {"first": (200, 240, 600, 400), "second": (880, 520, 520, 700)}
"""x, y, width, height of what was scanned, px of the slide; the bounds are around both."""
BOUNDS = (200, 240, 1200, 980)


def picture(seed: int, width: int, height: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def scn_image(levels: list[tuple[int, int, int]], x: int, y: int, size_nm: tuple[int, int]) -> str:
    """Return an image of a Leica SCN: ``levels`` are width, height and page of each."""
    listed = "".join(f'<dimension sizeX="{w}" sizeY="{h}" r="{r}" ifd="{i}"/>' for r, (w, h, i) in enumerate(levels))
    return (
        f'<image><device model="SCN400"/><pixels sizeX="{levels[0][0]}" sizeY="{levels[0][1]}">{listed}</pixels>'
        f'<view sizeX="{size_nm[0]}" sizeY="{size_nm[1]}" offsetX="{x}" offsetY="{y}"/><scanSettings>'
        "<objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )


@pytest.fixture(scope="module")
def leica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Leica SCN of two scanned areas, a format of which OpenSlide states bounds."""
    path = tmp_path_factory.mktemp("leica, é") / "two areas α.scn"
    slide_nm = (SLIDE_PX[0] * NM_PER_PX, SLIDE_PX[1] * NM_PER_PX)
    pages = [picture(0, 256, 208)]
    images = [scn_image([(256, 208, 0)], 0, 0, slide_nm)]  # the macro covers the slide
    for seed, (x, y, width, height) in enumerate(AREAS.values(), start=1):
        pixels, levels = picture(seed, width, height), []
        for step in (1, 2):
            levels.append((width // step, height // step, len(pages)))
            pages.append(pixels[::step, ::step])
        images.append(scn_image(levels, x * NM_PER_PX, y * NM_PER_PX, (width * NM_PER_PX, height * NM_PER_PX)))
    collection = f'<collection sizeX="{slide_nm[0]}" sizeY="{slide_nm[1]}">{"".join(images)}</collection>'
    xml = f'<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">{collection}</scn>'
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, page in enumerate(pages):
            options: Any = {"description": xml} if number == 0 else {}
            writer.write(page, tile=(256, 256), photometric="rgb", metadata=None, software=False, **options)
    return path


BOUNDED = """
import numpy as np
package = "qupath.lib.images.servers."
ROTATED, CROPPED = JClass(package + "RotatedImageServer"), JClass(package + "CroppedImageServer")
ROTATION = JClass(package + "RotatedImageServer$Rotation")
REGION, REQUEST = JClass("qupath.lib.regions.ImageRegion"), JClass("qupath.lib.regions.RegionRequest")
uri = JClass("java.io.File")(arguments["image"]).toURI().toString()
build = JClass(package + "ImageServers").buildServer
def seen(server, downsample=1.0):
    x, y, w, h = arguments["box"]
    image = server.readRegion(REQUEST.createInstance(server.getPath(), downsample, x, y, w, h))
    w, h = image.getWidth(), image.getHeight()
    rgb = np.array(image.getRGB(0, 0, w, h, None, 0, w)).reshape(h, w)
    channels = np.stack([rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255], -1).tolist()
    return [int(server.getWidth()), int(server.getHeight()), channels]
plain = build(uri)
servers = {"": plain, "rotate 90": ROTATED(plain, ROTATION.ROTATE_90),
    "rotate 180": ROTATED(plain, ROTATION.ROTATE_180),
    "rotate 270": ROTATED(plain, ROTATION.ROTATE_270),
    "crop 471,303,725,600": CROPPED(plain, REGION.createInstance(471, 303, 725, 600, 0, 0))}
half = seen(plain, 2.0)
kind = str(plain.getClass().getSimpleName())
return [kind, {name: seen(server) for name, server in servers.items()}, half, seen(build(uri, "--no-crop"))]
"""


def assert_same_where_scanned(ours: np.ndarray[Any, Any], theirs: Any, name: str) -> None:
    """QuPath leaves black what was not scanned; here it is glass, so that no tissue is found there."""
    scanned = (ours != 255).any(axis=2)
    assert scanned.any(), name
    np.testing.assert_array_equal(ours[scanned], np.array(theirs)[scanned], err_msg=name)
    assert set(np.unique(np.array(theirs)[~scanned])) <= {0, 255}, name


def test_bounds_are_cut_as_qupath_cuts_them(leica: Path, bridge: BridgeClient, in_qupath: Callable[..., Any]) -> None:
    x, y, width, height = box = (420, 250, 300, 200)  # of both areas and of the glass between
    kind, views, half, whole = in_qupath(BOUNDED, image=str(leica), box=box)
    assert kind == "OpenslideImageServer"
    for name, (full_width, full_height, pixels) in views.items():
        with open_view(leica, tuple(filter(None, [name]))) as view:
            assert (view.width, view.height) == (full_width, full_height), name
            shown = view.read_region(x, y, width=len(pixels[0]), height=len(pixels))
            assert_same_where_scanned(shown, pixels, name)
    assert views[""][:2] == list(BOUNDS[2:])
    assert len(np.unique(np.reshape(views[""][2], (-1, 3)), axis=0)) > 1000
    with OpenSlideSlide(leica) as slide:
        shown = slide.read_region(x, y, width=width // 2, height=height // 2, downsample=2.0)
    first = AREAS["first"]
    expected = picture(1, *first[2:])[y:, x:][:height, :width]  # bounds begin where the first area does
    np.testing.assert_array_equal(shown[: len(expected[::2]), : len(expected[0, ::2])], expected[::2, ::2])
    if not bridge.ask("start").startswith("0.4"):  # its OpenSlide 3.4.1 is a pixel off in this small level
        assert_same_where_scanned(shown, half[2], "half")
    assert whole[:2] == list(SLIDE_PX)  # such an image is refused by its size
    expected = picture(1, *first[2:])[y - first[1] :, x - first[0] :][:height]
    np.testing.assert_array_equal(np.array(whole[2])[:, : expected.shape[1]], expected[:, :width])


def test_the_project_states_the_size_of_the_bounds(leica: Path, tmp_path: Path, bridge: BridgeClient) -> None:
    bridge.ask("create", project=str(tmp_path / "p"), images=[str(leica)])
    (image,) = read_project(tmp_path / "p").images
    assert (image.view, image.is_cropped_to_bounds) == ((), True)
    (record,) = bridge.ask("images", project=str(tmp_path / "p" / "project.qpproj"))
    assert (record["width"], record["height"]) == BOUNDS[2:]


PLANES = """
import numpy as np
REQUEST = JClass("qupath.lib.regions.RegionRequest")
uri = JClass("java.io.File")(arguments["image"]).toURI().toString()
plain = JClass("qupath.lib.images.servers.ImageServers").buildServer(uri)
def seen(z, t):
    image = plain.readRegion(REQUEST.createInstance(plain.getPath(), 1.0, 3, 5, 40, 30, z, t))
    rgb = np.array(image.getRGB(0, 0, 40, 30, None, 0, 40)).reshape(30, 40)
    return np.stack([rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255], -1).tolist()
sizes = [int(plain.nZSlices()), int(plain.nTimepoints())]
return sizes, [[z, t, seen(z, t)] for z in range(sizes[0]) for t in range(sizes[1])]
"""


@pytest.mark.parametrize(("axes", "shape"), [("TZYXS", (2, 3)), ("ZYXS", (1, 3)), ("TYXS", (4, 1))])
def test_planes_are_those_of_qupath(axes: str, shape: tuple[int, int], tmp_path: Path, in_qupath: Any) -> None:
    path = tmp_path / "stack.tif"
    planes = np.stack([picture(seed, 60, 50) for seed in range(shape[0] * shape[1])]).reshape(*shape, 50, 60, 3)
    squeezed = planes.reshape(*(n for n in shape if n > 1), 50, 60, 3)
    tifffile.imwrite(path, squeezed, imagej=True, metadata={"axes": axes})
    (depth, frames), found = in_qupath(PLANES, image=str(path))
    assert (frames, depth) == shape
    for z, t, pixels in found:
        np.testing.assert_array_equal(planes[t, z, 5:35, 3:43], pixels)
        with open_view(path, (f"plane {z},{t}",)) as view:
            np.testing.assert_array_equal(view.read_region(3, 5, width=40, height=30), pixels)


def test_a_plain_stack_is_a_direction_of_qupath_too(tmp_path: Path, in_qupath: Any) -> None:
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as writer:
        for seed in range(3):
            writer.write(picture(seed, 60, 50), photometric="rgb", metadata=None)
    sizes, found = in_qupath(PLANES, image=str(path))
    assert sorted(sizes) == [1, 3]
    for z, t, pixels in found:
        with open_view(path, (f"plane {z},{t}",)) as view:
            np.testing.assert_array_equal(view.read_region(3, 5, width=40, height=30), pixels)


ON_PLANE = """
with QuPathProject(arguments["project"], mode="r+") as project:
    entry = project.images[0].java_object
    data = entry.readImageData()
    plane = JClass("qupath.lib.regions.ImagePlane").getPlane(2, 1)
    roi = JClass("qupath.lib.roi.ROIs").createRectangleROI(10, 10, 340, 340, plane)
    data.getHierarchy().addObject(JClass("qupath.lib.objects.PathObjects").createAnnotationObject(roi))
    entry.saveImageData(data)
return None
"""
PLACES = """
h = QuPathProject(arguments["project"], mode="r").images[0].java_object.readHierarchy()
rois = [(o.getROI(), o.getParent().getROI()) for o in h.getDetectionObjects()]
return [[int(roi.getZ()), int(roi.getT()), str(parent.getZ())] for roi, parent in rois]
"""
IMPORTED = """
found = JClass("qupath.lib.io.PathIO").readObjects(JClass("java.io.File")(arguments["file"]))
return [[int(o.getROI().getZ()), int(o.getROI().getT())] for o in found]
"""


def test_nuclei_come_back_on_the_plane_of_their_annotation(
    tissue_slide: Any, tmp_path: Path, bridge: BridgeClient, in_qupath: Any
) -> None:
    from stimage_qupath.config import ProjectSettings
    from stimage_qupath.pipeline import project as flow

    tissue = tifffile.imread(tissue_slide.path)[:360, :360]
    planes = np.full((2, 3, *tissue.shape), 245, np.uint8)
    planes[1, 2] = tissue
    image = tmp_path / "stack.tif"
    tifffile.imwrite(image, planes, imagej=True, resolution=(2, 2), metadata={"axes": "TZYXS", "unit": "um"})
    project = str(tmp_path / "p" / "project.qpproj")
    bridge.ask("create", project=str(tmp_path / "p"), images=[str(image)])
    in_qupath(ON_PLANE, project=project)
    output = tmp_path / "out"
    record = flow.run(
        ProjectSettings(image=Path(project), output=output, write_back=True, overview=False, device="cpu")
    )
    (row,) = record["images"]
    assert row["written"]["added"] == row["cells"] > 5
    assert in_qupath(PLACES, project=project) == [[2, 1, "2"]] * row["cells"]
    geojson = output / row["run"] / "cells.geojson.gz"
    assert in_qupath(IMPORTED, file=str(geojson)) == [[2, 1]] * row["cells"]
    assert json.loads((output / row["run"] / "run.json").read_text(encoding="utf-8"))["regions"][0]["z"] == 2
