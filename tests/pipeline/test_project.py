"""Whole projects, without any Java: what passes, what fails alone, what is refused before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stimage_qupath import cli
from stimage_qupath.config import PredictSettings, ProjectSettings
from stimage_qupath.errors import (
    AnnotationError,
    ImageError,
    MissingPartError,
    OutputExistsError,
    PartialFailureError,
    UsageError,
)
from stimage_qupath.export.run_reader import read_run
from stimage_qupath.pipeline import project as flow
from stimage_qupath.qupath.qpdata import END
from stimage_qupath.qupath.qpproj import write_project


@pytest.fixture
def small(tmp_path: Path, tissue_slide: Any) -> Path:
    """Return a small part of the tissue as a TIFF of its own."""
    path = tmp_path / "slides" / "a, é%α.tif"
    path.parent.mkdir()
    pixels = tifffile.imread(tissue_slide.path)[:400, :420]
    options: Any = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.ascontiguousarray(pixels), photometric="rgb", tile=(128, 128), **options)
    return path


def settings(project: Path, output: Path, **changes: Any) -> ProjectSettings:
    fixed = {"java": "never", "overview": False, "device": "cpu"}
    return ProjectSettings(**({"image": project, "output": output} | fixed | changes))


def change(project: Path, **changes: Any) -> None:
    """Edit the first image's entry of a project file."""
    raw = json.loads(project.read_text(encoding="utf-8"))
    raw["images"][0] |= changes
    project.write_text(json.dumps(raw), encoding="utf-8")


def test_each_image_gets_a_run_and_a_failed_one_stops_nobody(tmp_path: Path, small: Path) -> None:
    gone = small.with_name("gone.tif")
    shutil.copy(small, gone)
    project = write_project(tmp_path / "proj_1.0", [gone, small])
    gone.unlink()
    with pytest.raises(
        PartialFailureError, match=r"expected 2 images to pass, found 1 failed \(gone.tif: expected"
    ) as e:
        flow.run(settings(project.parent, tmp_path / "out"))
    assert e.value.exit_code == 10
    table = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    first, second = table["images"]
    assert (first["status"], first["error"]["exit_code"], first["run"]) == ("failed", 2, None)
    assert second["status"] == "done"
    assert second["read"] == "without Java"
    run = read_run(tmp_path / "out" / second["run"])
    assert len(run) == second["cells"] == table["cells"] > 3
    assert "\n" not in first["error"]["message"]


def test_mapped_images_and_a_choice_by_name(tmp_path: Path, small: Path) -> None:
    project = write_project(tmp_path / "proj", [small, small])
    text = project.read_text(encoding="utf-8").replace(f"file:{small.parent.as_posix()}", "file:/D:/old%20place")
    project.write_text(text, encoding="utf-8")
    change(project, imageName="first")
    maps = (f"D:\\Old place={small.parent}",)
    record = flow.run(settings(project, tmp_path / "out", images="fir*", path_maps=maps))
    (row,) = record["images"]
    assert (row["name"], row["status"], row["run"]) == ("first", "done", "1-first")
    with pytest.raises(UsageError, match=r"expected images that match 'x\*' in .*, found none; the project has first"):
        flow.run(settings(project, tmp_path / "other", images="x*"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("truncated", AnnotationError, "expected a whole data file, found .* cut short"),
        ("saving", UsageError, "expected no save under way"),
        ("size", ImageError, "expected 421 x 400 px as in QuPath, found 420 x 400"),
        ("series", ImageError, "expected series 1, z 0, t 0 in a, é%α.tif, found no OME metadata"),
        ("kind", ImageError, "expected an image as in its file, turned or cropped, found n: 'color'"),
        ("class", AnnotationError, "expected annotations of the classes, names or ids given, found none in 1 images"),
    ],
)
def test_an_only_image_fails_with_its_own_error(
    what: str, kind: type[Exception], message: str, tmp_path: Path, small: Path
) -> None:
    project = write_project(tmp_path / "proj", [small])
    builder = json.loads(project.read_text(encoding="utf-8"))["images"][0]["serverBuilder"]
    data = project.parent / "data" / "1" / "data.qpdata"
    data.parent.mkdir(parents=True)
    if what == "truncated":
        data.write_bytes(b"\xac\xed\x00\x05" + END[:-1])
    elif what == "saving":
        data.with_name("data.qpdata.bkp").touch()
    elif what == "size":
        change(project, serverBuilder=builder | {"metadata": {"width": 421, "height": 400}})
    elif what == "series":
        change(project, serverBuilder=builder | {"args": ["--series", "1"]})
    elif what == "kind":
        change(project, serverBuilder={"builderType": "color", "builder": builder}, imageName="n")
    classes = ("Tumor",) if what == "class" else ()
    with pytest.raises(kind, match=message):
        flow.run(settings(project, tmp_path / "out", classes=classes))
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["images"][0]["status"] != "done"


def test_a_turned_image_is_predicted_as_it_is_shown(tmp_path: Path, small: Path) -> None:
    project = write_project(tmp_path / "proj", [small])
    builder = json.loads(project.read_text(encoding="utf-8"))["images"][0]["serverBuilder"]
    straight = flow.run(settings(project, tmp_path / "straight"))["images"][0]
    turned = {"builderType": "rotated", "builder": builder, "rotation": "ROTATE_180"}
    change(project, serverBuilder=turned | {"metadata": {"width": 420, "height": 400}})
    row = flow.run(settings(project, tmp_path / "out"))["images"][0]
    seen = read_run(tmp_path / "out" / row["run"]).table(["x_px", "y_px"]).to_numpy()
    plain = read_run(tmp_path / "straight" / straight["run"]).table(["x_px", "y_px"]).to_numpy()
    back = np.array([420, 400]) - seen
    nearest = np.linalg.norm(back[:, None] - plain[None], axis=2).min(axis=1)
    assert np.median(nearest) < 1
    assert len(seen) == pytest.approx(len(plain), abs=2)


def test_what_is_refused_before_any_work(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_project(tmp_path / "proj", [small])
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path / "nothing"))
    with pytest.raises(MissingPartError, match="expected QuPath to write the project, found none"):
        flow.run(settings(project, tmp_path / "out", write_back=True, java="auto"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OutputExistsError, match=r"expected no .*full yet, found one"):
        flow.run(settings(project, tmp_path / "full"))
    with pytest.raises(
        OutputExistsError, match=r"expected an earlier project run in .* to replace or go on with, found something else"
    ):
        flow.run(settings(project, tmp_path / "full", force=True))
    with pytest.raises(UsageError, match="expected QuPath for a write-back, found java 'never'"):
        settings(project, tmp_path / "out", write_back=True)
    with pytest.raises(UsageError, match="expected a project, which brings its own annotations and views"):
        settings(project, tmp_path / "out", annotations=tmp_path / "a.geojson")


def test_settings_of_one_image_are_those_of_the_project(tmp_path: Path) -> None:
    of_project = settings(tmp_path, tmp_path / "out", genes=("ERBB2",), seed=3)
    one = of_project.of_image(image=tmp_path / "x.svs", view=("rotate 90",))
    assert isinstance(one, PredictSettings)
    assert not isinstance(one, ProjectSettings)
    assert (one.genes, one.seed, one.view, one.image) == (("ERBB2",), 3, ("rotate 90",), tmp_path / "x.svs")
    assert ProjectSettings.from_json(of_project.to_json()) == of_project


def test_the_command_knows_a_project_by_its_folder(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAQUO_QUPATH_DIR", str(tmp_path / "nothing"))
    project = write_project(tmp_path / "proj.1.0", [small])
    arguments = ["predict", str(project.parent), "--output", str(tmp_path / "out"), "--no-overview", "--device", "cpu"]
    assert cli.run(arguments) == 0
    assert f"{small.name}: done, " in capsys.readouterr().out
    assert cli.run(["predict", str(small), "--output", str(tmp_path / "o"), "--write-back"]) == 2
    assert "expected a QuPath project with --images, --write-back or --path-map" in capsys.readouterr().err
