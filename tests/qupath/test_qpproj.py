"""Project files: read, written, and their images found again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stimage_qupath.errors import OutputExistsError, UsageError
from stimage_qupath.qupath.qpproj import (
    Project,
    ProjectImage,
    file_uri,
    is_project,
    project_file,
    read_project,
    write_project,
)
from stimage_qupath.qupath.relocate import find_image, parse_path_maps, plain_path


@pytest.mark.parametrize(
    ("place", "version", "images", "pixel"),
    [
        ("nedaghohabi__Histopathology-Image-Til", "0.3.2", 434, 0.252),
        ("orion-cirb__QuPath_Foci", "0.4.0", 44, None),
        ("avyan-k__btc_lab_image_analysis/qupath", "0.5.1", 4, 0.22974245870379303),
        ("sbalci__metadata-qupath", "0.6.0-rc3", 107, 0.263312),
        ("smith6jt-cop__SpleenFollicleCounterQP", "0.7.0", 14, 0.5077663810243286),
    ],
)
def test_real_projects(real_data: Path, place: str, version: str, images: int, pixel: float | None) -> None:
    project = read_project(real_data / "qupath" / place)
    assert (project.qupath_version, len(project.images)) == (version, images)
    assert (project.images[0].pixel_um or (None,))[0] == pixel
    assert len({image.id for image in project.images}) == images
    assert all(image.width and image.uri.startswith("file:") for image in project.images)


def test_a_minimal_project_is_read_back(tmp_path: Path) -> None:
    files = [tmp_path / "slide 1,é%α&'.svs", tmp_path / "flat.PNG"]
    for file in files:
        file.touch()
    written = write_project(tmp_path / "new_1.0", files)
    project = read_project(tmp_path / "new_1.0")
    assert project.path == written
    assert [plain_path(image.uri) for image in project.images] == [file.as_posix() for file in files]
    assert [find_image(project, image, {}) for image in project.images] == files
    entries = json.loads(written.read_text(encoding="utf-8"))["images"]
    assert [e["serverBuilder"]["providerClassName"].split(".")[-1] for e in entries] == [
        "OpenslideServerBuilder",
        "ImageJServerBuilder",
    ]
    with pytest.raises(OutputExistsError, match=r"expected a new or empty folder"):
        write_project(tmp_path / "new_1.0", files)
    with pytest.raises(UsageError, match=r"expected image files, found nothing at .*gone"):
        write_project(tmp_path / "other", [tmp_path / "gone.svs"])


def test_a_dot_in_a_folders_name_means_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "proj_1.0"
    file = write_project(folder, [])
    assert is_project(folder)
    assert is_project(file)
    assert not is_project(tmp_path)
    assert project_file(folder) == project_file(file) == file
    with pytest.raises(UsageError, match=r"expected a QuPath project at .*, found no project.qpproj"):
        project_file(tmp_path)


def test_what_is_no_project_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "project.qpproj"
    for content in ["", "[]", "{}", '{"images": [{}]}', '{"images": 1}']:
        file.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=r"expected a QuPath project in .*; open it in QuPath and save it again"):
            read_project(file)


def uri_builder() -> dict[str, Any]:
    arguments = ["--series", "2", "--no-crop"]
    return {"builderType": "uri", "providerClassName": "x", "uri": "file:/a.svs", "args": arguments}


def test_views_are_listed_innermost_first(tmp_path: Path) -> None:
    turned = {"builderType": "rotated", "builder": uri_builder(), "rotation": "ROTATE_90"}
    region = {"x": 10, "y": 20, "width": 30, "height": 40, "z": 0, "t": 0}
    cropped = {"builderType": "cropped", "builder": turned, "region": region, "metadata": {"width": 30, "height": 40}}
    still = {"builderType": "rotated", "builder": uri_builder(), "rotation": "ROTATE_NONE"}
    colour = {"builderType": "color_deconvolved", "builder": uri_builder()}
    joined = {"builderType": "channels", "builders": [uri_builder()]}
    builders = [cropped, still, colour, joined]
    images = [{"serverBuilder": b, "entryID": i, "imageName": f"n{i}"} for i, b in enumerate(builders)]
    (tmp_path / "project.qpproj").write_text(json.dumps({"images": images}), encoding="utf-8")
    first, second, third, fourth = read_project(tmp_path).images
    assert first.view == ("series 2", "rotate 90", "crop 10,20,30,40")
    assert (first.width, first.height, first.is_cropped_to_bounds) == (30, 40, False)
    assert (second.view, second.unsupported) == (("series 2",), None)
    assert (third.unsupported, fourth.unsupported) == ("color_deconvolved", "channels")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:/D:/a%20b/%C5%9Eubat.svs", "D:/a b/Şubat.svs"),
        ("file:///D:/x.svs", "D:/x.svs"),
        ("D:\\a b\\x.svs", "D:/a b/x.svs"),
        ("\\\\server\\share\\x.svs", "//server/share/x.svs"),
        ("file://server/share/x.svs", "//server/share/x.svs"),
        ("file:/Volumes/RD/x%25.svs", "/Volumes/RD/x%.svs"),
        ("file:///home/u/x.svs", "/home/u/x.svs"),
        ("/home/back\\slash.svs", "/home/back\\slash.svs"),
    ],
)
def test_plain_paths(uri: str, path: str) -> None:
    assert plain_path(uri) == path


def test_a_uri_is_percent_encoded() -> None:
    assert file_uri(Path("/a b/é%.svs")) == "file:/a%20b/%C3%A9%25.svs"


def project(folder: Path, uri: str, saved: str | None = None) -> tuple[Project, ProjectImage]:
    image = ProjectImage(id="1", name="shown name", uri=uri, data_path=folder / "data/1/data.qpdata")
    return Project(folder / "project.qpproj", "0.6.0", saved, (image,)), image


def test_images_are_found_again(tmp_path: Path) -> None:
    slides, folder = tmp_path / "slides" / "HE", tmp_path / "study" / "proj"
    slides.mkdir(parents=True)
    folder.mkdir(parents=True)
    slide = slides / "a b.svs"
    slide.touch()
    windows = project(folder, "file:/D:/Slides/HE/a%20b.svs")
    for old in ["D:/slides", "d:\\Slides\\", "file:/D:/Slides"]:
        assert find_image(*windows, parse_path_maps((f"{old}={tmp_path / 'slides'}",))) == slide
    mac = project(folder, "file:/Volumes/X/HE/a%20b.svs", saved="file:/Volumes/X/P/proj/project.qpproj")
    assert find_image(*mac, parse_path_maps((f"/Volumes/X={tmp_path / 'slides'}",))) == slide
    with pytest.raises(UsageError, match=r"expected the image shown name at D:/Slides/HE/a b.svs, found") as error:
        find_image(*windows, {})
    assert "\n" not in str(error.value)

    beside = folder / "images" / "a b.svs"
    beside.parent.mkdir()
    beside.touch()
    assert find_image(*windows, {}) == beside
    (tmp_path / "study" / "a b.svs").touch()
    with pytest.raises(UsageError, match=r"expected one file a b.svs near the project, found 2"):
        find_image(*windows, {})


def test_images_that_moved_with_the_project(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "proj"
    folder.mkdir(parents=True)
    for where in ["new/slides/1/x.svs", "new/slides/2/x.svs"]:
        (tmp_path / where).parent.mkdir(parents=True)
        (tmp_path / where).touch()
    moved = project(folder, "file:/E:/old/slides/2/x.svs", saved="file:/E:/old/proj/project.qpproj")
    assert find_image(*moved, {}) == tmp_path / "new/slides/2/x.svs"


@pytest.mark.skipif(os.name == "nt", reason="case matters on other systems")
def test_case_matters_without_a_drive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"found nothing there"):
        find_image(*project(tmp_path, "file:/Data/x.svs"), {"/data": str(tmp_path)})


@pytest.mark.parametrize("text", ["", "D:/x", "=y", "x="])
def test_path_maps_have_two_sides(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected --path-map OLD=NEW, found"):
        parse_path_maps((text,))
