"""A project out of plain images, on a machine without QuPath."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stimage_qupath import cli
from stimage_qupath.errors import ImageError, OutputExistsError, UsageError
from stimage_qupath.pipeline import new_project
from stimage_qupath.pipeline.new_project import create_project, find_images, project_folder
from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.qpproj import read_project


@pytest.fixture
def slides(tmp_path: Path, tissue_slide: Any) -> Path:
    """Return a folder of two images and a text."""
    folder = tmp_path / "slides, é α%"
    folder.mkdir()
    pixels = np.ascontiguousarray(tifffile.imread(tissue_slide.path)[:360, :360])
    for name in ("b.tif", "a.TIF"):
        options: Any = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(folder / name, pixels, photometric="rgb", tile=(128, 128), **options)
    (folder / "notes.txt").touch()
    return folder


def test_a_folder_becomes_a_project_and_its_runs(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path / "nothing"))
    study, runs = tmp_path / "study_1.0", tmp_path / "runs"
    words = ["predict", str(study), "--create-project", "--images", str(slides), "--output", str(runs)]
    assert cli.run([*words, "--no-overview", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"project: {study / 'project.qpproj'}" in said
    assert "run STimage > Import results" in said
    project = read_project(study)
    assert [image.name for image in project.images] == ["a.TIF", "b.tif"]
    table = json.loads((runs / "run.json").read_text(encoding="utf-8"))
    assert [(row["id"], row["status"]) for row in table["images"]] == [("1", "done"), ("2", "done")]
    assert table["cells"] > 10
    note = json.loads((study / "stimage" / "results.json").read_text(encoding="utf-8"))
    assert (study / note["output"]).resolve() == runs

    assert cli.run([*words, "--force"]) == 2
    assert "expected a new or empty folder for the project, found something at" in capsys.readouterr().err
    assert cli.run(["predict", str(tmp_path / "x"), "--create-project", "--output", str(tmp_path / "o")]) == 2
    assert "expected the images of a new project, found none; pass --images" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--create-project" in said
    assert "a new project: stimage-qupath predict study --create-project --images slides --output runs" in said


def test_images_are_a_folder_a_file_or_a_pattern(slides: Path, tmp_path: Path) -> None:
    assert [path.name for path in find_images(str(slides))] == ["a.TIF", "b.tif"]
    assert find_images(str(slides / "notes.txt")) == [(slides / "notes.txt").resolve()]
    assert [path.name for path in find_images(str(tmp_path / "**" / "*.tif"))] == ["b.tif"]
    with pytest.raises(
        UsageError, match=r"expected images for the new project, found none that --images .*\*\.svs means"
    ):
        find_images(str(slides / "*.svs"))


def test_a_project_has_the_name_that_qupath_gives(tmp_path: Path) -> None:
    assert project_folder(tmp_path / "study_1.0") == tmp_path / "study_1.0"
    assert project_folder(tmp_path / "p" / "project.qpproj") == tmp_path / "p"
    with pytest.raises(UsageError, match=r"expected a new project called project.qpproj, found mine.qpproj"):
        project_folder(tmp_path / "mine.qpproj")


class BrokenQuPath(BridgeClient):
    """Has begun the project when it meets an image that it cannot open."""

    def has_qupath(self) -> bool:
        return True

    def ask(self, op: str, **arguments: Any) -> Any:
        assert op == "create"
        Path(arguments["project"]).mkdir()
        (Path(arguments["project"]) / "project.qpproj").touch()
        msg = "expected an image QuPath opens"
        raise ImageError(msg)


def test_a_project_that_cannot_be_finished_leaves_nothing(slides: Path, tmp_path: Path) -> None:
    from stimage_qupath.config import ProjectSettings

    settings = ProjectSettings(
        image=tmp_path / "study", output=tmp_path / "runs", images=str(slides), create_project=True
    )
    with pytest.raises(ImageError):
        create_project(settings, BrokenQuPath())
    assert not (tmp_path / "study").exists()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine").touch()
    with pytest.raises(OutputExistsError):
        create_project(settings, BrokenQuPath())
    assert (tmp_path / "study" / "mine").exists()


def test_on_another_drive_the_place_is_absolute(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_drive(path: Path, start: Path) -> str:
        raise ValueError

    monkeypatch.setattr(new_project.os.path, "relpath", other_drive)
    from stimage_qupath.config import ProjectSettings

    settings = ProjectSettings(
        image=tmp_path / "study", output=tmp_path / "runs", images=str(slides), create_project=True, java="never"
    )
    assert not create_project(settings, None)
    note = json.loads((tmp_path / "study" / "stimage" / "results.json").read_text(encoding="utf-8"))
    assert note == {"output": (tmp_path / "runs").as_posix()}
