"""Names that want to be paths, devices or lines of their own: nothing is written outside the output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stimage_qupath import names
from stimage_qupath.config import SlidesSettings
from stimage_qupath.errors import UnknownModelError, UsageError
from stimage_qupath.models.checkpoint import load_model, model_folder
from stimage_qupath.pipeline.slides import read_slides
from stimage_qupath.qupath.qpproj import read_project
from stimage_qupath.regions.annotations import clip_to_image, read_regions, select_regions
from stimage_qupath.report.overview import overview_name

TRICKS = {
    "up": "../../outside",
    "absolute": "/outside",
    "windows": "C:\\outside",
    "dots": "..",
    "dot": ".",
    "NUL": "a\0b",
    "new lines": "a\nb\r\nc",
    "long": "x" * 300,
    "long in bytes": "\N{CJK UNIFIED IDEOGRAPH-7D30}" * 100,
    "four bytes each": "\U00020000" * 100,
    "device": "CON",
    "device with a suffix": "nul.txt",
    "stream": "a:b",
    "table": "run.json",
    "ours": "a.partial",
    "surrogate": "\ud800",
}
tricky = pytest.mark.parametrize("name", TRICKS.values(), ids=TRICKS)
DEVICES = {"con", "nul", "aux", "prn"}


def is_a_plain_name(name: str, inside: Path) -> None:
    """Make a file of that name and look whether it is where it should be."""
    assert Path(name).name == name
    assert name.isprintable()
    assert name.partition(".")[0].casefold() not in DEVICES
    assert not set(name) & set('<>:"/\\|?*')
    (inside / f"{name}.12345678.partial").write_text("made")
    assert (inside / f"{name}.12345678.partial").resolve().parent == inside.resolve()


@tricky
def test_gene_in_the_name_of_a_picture(fault: Any, tmp_path: Path, name: str) -> None:
    fault.states("names of genes: paths, devices, long, ...", expected="a picture in the run folder")
    is_a_plain_name(overview_name(name), tmp_path)
    fault.saw(f"{overview_name(name)[:40]!r}")


@tricky
def test_slide_in_a_table(fault: Any, tmp_path: Path, name: str) -> None:
    fault.states("such names of slides in a table", expected="a run folder in the output")
    table = tmp_path / "slides.csv"
    quoted = name.encode("utf-8", "replace").decode().replace('"', '""')
    table.write_text(f'image,name\ns.tif,"{quoted}"\n', encoding="utf-8", newline="")
    (task,) = read_slides(SlidesSettings(image=table, output=tmp_path / "out"))
    assert task.settings.output.parent == tmp_path / "out"
    is_a_plain_name(task.settings.output.name, tmp_path)
    assert task.settings.output.name.casefold() != names.RUN_JSON
    fault.saw(f"{task.settings.output.name[:40]!r}")


def test_slides_that_are_one_folder_on_windows(fault: Any, tmp_path: Path) -> None:
    fault.states("slides 'A' and 'a' in a table", expected="exit 2, one sentence")
    table = tmp_path / "slides.csv"
    table.write_text("image,name\ns.tif,A\nt.tif,a\n", encoding="utf-8")
    with pytest.raises(UsageError, match="found A, a twice") as caught:
        read_slides(SlidesSettings(image=table, output=tmp_path / "out"))
    fault.saw(f"exit 2: {caught.value}".replace(f"{tmp_path}/", ""))


@tricky
def test_region(fault: Any, tmp_path: Path, name: str) -> None:
    fault.states("such names of regions and classes", expected="read; warnings and errors on one line")
    ring = [[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]
    properties = {"objectType": "annotation", "name": name, "classification": {"name": name}}
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(feature, ensure_ascii=False), encoding="utf-8", errors="replace")
    regions = read_regions(path).regions
    (_, (warning,)) = clip_to_image(regions, 50, 50)
    with pytest.raises(UsageError) as outside:
        clip_to_image([*regions, *regions], 0, 0)
    with pytest.raises(UsageError) as unknown:
        select_regions(regions, names=("none",))
    for text in (warning, str(outside.value), str(unknown.value)):
        assert text.isprintable()
        assert len(text) < 500
    assert "\0" not in str(regions[0].name)
    fault.saw(warning[:80])


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\ud800"])
def test_gene_of_a_model(fault: Any, tmp_path: Path, name: str) -> None:
    fault.states("genes of a model that no table can hold", expected="exit 2, one sentence")
    folder = Path(shutil.copytree(model_folder("starter"), tmp_path / "model"))
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    card["panel"][0] = name
    card["default_genes"] = [name]
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(UnknownModelError, match="found panel that is none") as caught:
        load_model(str(folder))
    assert str(caught.value).isprintable()
    fault.saw(f"exit 2: {str(caught.value).replace(str(tmp_path), '')[:100]}")


@pytest.mark.parametrize("identity", ["../../outside", "/outside", "", ".", "a\0b", "x" * 300])
def test_image_of_a_project(fault: Any, tmp_path: Path, identity: str) -> None:
    fault.states("such ids of images in a project", expected="exit 2, one sentence")
    entry = {"serverBuilder": {"uri": "file:/s.tif"}, "entryID": identity, "imageName": "s"}
    path = tmp_path / "project.qpproj"
    path.write_text(json.dumps({"version": "0.6.0", "images": [entry]}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"expected a QuPath project in .*entryID") as caught:
        read_project(path)
    assert str(caught.value).isprintable()
    fault.saw("exit 2: expected a QuPath project ..., found an entryID ...")


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_output_that_is_a_link(
    fault: Any, tmp_path: Path, command: Callable[..., Any], force: tuple[str, ...], tissue_slide: Any, square: Path
) -> None:
    fault.states(f"output is a link to a user's folder {' '.join(force)}", expected="exit 2; the folder as it was")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine")
    (tmp_path / "run").symlink_to(theirs)
    words = ("segment", tissue_slide.path, "--output", tmp_path / "run", "--annotations", square, *force)
    ended = command(*words)
    fault.saw(ended.said)
    assert ended.code == 2
    assert ended.sentence
    assert (tmp_path / "run").is_symlink()
    assert [path.name for path in theirs.iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "theirs"]
