"""Installing the scripts: what is written, what is kept, what is removed. No QuPath needed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from stimage_qupath import cli
from stimage_qupath.errors import MissingPartError, OutputError, UsageError
from stimage_qupath.qupath.launcher import launcher_of
from stimage_qupath.qupath.scripts import FOLDER, MANIFEST, SETTINGS, install, script_folders, uninstall

GROOVY = Path(__file__).parents[2] / "groovy"
SCRIPTS = {path.name for path in GROOVY.glob("*.groovy")}
EDITED = "Predict selected annotations.groovy"


def test_all_scripts_and_the_running_python_are_installed(tmp_path):
    changes = install(tmp_path / "a")
    there = {path.name for path in (tmp_path / "a").iterdir()}
    assert there == {*SCRIPTS, SETTINGS, MANIFEST}
    assert set(changes.written) == {*SCRIPTS, SETTINGS}
    assert json.loads((tmp_path / "a" / SETTINGS).read_text(encoding="ascii"))["interpreter"] == sys.executable
    for name in SCRIPTS:
        assert (tmp_path / "a" / name).read_bytes() == (GROOVY / name).read_bytes()


def test_an_update_changes_what_is_ours_and_keeps_what_was_edited(tmp_path):
    install(tmp_path)
    (tmp_path / "mine.groovy").write_text("mine", encoding="utf-8")
    (tmp_path / EDITED).write_text("edited", encoding="utf-8")
    changes = install(tmp_path, interpreter=Path("/other/python"))
    assert changes.kept == (EDITED,)
    assert (tmp_path / "Predict selected annotations (edited).groovy").read_text(encoding="utf-8") == "edited"
    assert (tmp_path / EDITED).read_bytes() == (GROOVY / EDITED).read_bytes()
    assert (tmp_path / "mine.groovy").read_text(encoding="utf-8") == "mine"
    assert Path(json.loads((tmp_path / SETTINGS).read_text(encoding="ascii"))["interpreter"]) == Path("/other/python")
    (tmp_path / EDITED).write_text("again", encoding="utf-8")
    install(tmp_path)
    assert (tmp_path / "Predict selected annotations (edited 2).groovy").read_text(encoding="utf-8") == "again"
    assert install(tmp_path).kept == ()


def test_a_script_that_is_no_longer_ours_to_install_goes_unless_edited(tmp_path):
    install(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    digest = manifest["files"][EDITED]
    for name in ("Old.groovy", "Old but edited.groovy"):
        (tmp_path / name).write_bytes((tmp_path / EDITED).read_bytes() + name.encode() * ("edited" in name))
        manifest["files"][name] = digest
    (tmp_path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert install(tmp_path).removed == ("Old.groovy",)
    assert (tmp_path / "Old but edited.groovy").exists()


def test_removal_takes_exactly_what_was_written(tmp_path):
    folder = tmp_path / "STimage"
    install(folder)
    (folder / "mine.groovy").write_text("mine", encoding="utf-8")
    (folder / EDITED).write_text("edited", encoding="utf-8")
    changes = uninstall(folder)
    assert changes.kept == (EDITED,)
    assert {path.name for path in folder.iterdir()} == {"mine.groovy", EDITED}
    with pytest.raises(UsageError, match=r"expected installed scripts in .*, found none"):
        uninstall(folder)
    install(tmp_path / "whole")
    uninstall(tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_a_manifest_that_points_elsewhere_removes_nothing(tmp_path):
    folder = tmp_path / "STimage"
    install(folder)
    victim = tmp_path / "victim.txt"
    victim.write_text("", encoding="utf-8")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (folder / MANIFEST).write_text(json.dumps({"files": {"../victim.txt": empty}}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"found none"):
        uninstall(folder)
    assert victim.exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"expected to write the scripts into"):
        install(tmp_path / "file" / "STimage")


def test_the_folders_are_those_of_user_project_or_home(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(MissingPartError, match=r"start QuPath once, or pass --user-dir"):
        script_folders()
    for version in ("v0.5", "v0.6"):
        (tmp_path / "QuPath" / version).mkdir(parents=True)
    assert script_folders() == [tmp_path / "QuPath" / version / FOLDER for version in ("v0.5", "v0.6")]
    assert script_folders(user_dir=tmp_path) == [tmp_path.resolve() / FOLDER]
    project = tmp_path / "proj_1.0" / "project.qpproj"
    project.parent.mkdir()
    with pytest.raises(UsageError, match=r"expected a QuPath project"):
        script_folders(project=project)
    project.write_text("{}", encoding="utf-8")
    assert script_folders(project=project) == script_folders(project=project.parent)
    assert script_folders(project=project) == [project.parent.resolve() / FOLDER]
    with pytest.raises(UsageError, match=r"found both"):
        script_folders(user_dir=tmp_path, project=project)


def test_the_command_says_what_it_did(tmp_path, capsys):
    assert cli.run(["install-scripts", "--user-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{len(SCRIPTS) + 1} files written to {tmp_path / FOLDER}" in said
    assert "Automate > User scripts > STimage > Check setup" in said
    assert str(tmp_path / FOLDER / "STimage menu.groovy") in said
    assert cli.run(["install-scripts", "--user-dir", str(tmp_path), "--uninstall"]) == 0
    assert "files removed from" in capsys.readouterr().out
    assert cli.run(["install-scripts", "--user-dir", str(tmp_path), "--uninstall"]) == 2


def test_the_launcher_of_each_system_is_found(tmp_path):
    for name in ("lin/bin/QuPath", "mac/Contents/MacOS/QuPath", "win/QuPath-0.6.0 (console).exe"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("", encoding="utf-8")
        assert launcher_of(tmp_path / name.split("/")[0]) == tmp_path / name
    with pytest.raises(MissingPartError, match=r"expected QuPath's launcher"):
        launcher_of(tmp_path)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_need_no_package_no_default_imports_and_no_encoding(name):
    text = (GROOVY / name).read_bytes().decode("ascii")
    assert not re.search(r"^package ", text, re.MULTILINE)
    assert not re.search(r"^import .*\*", text, re.MULTILINE)
    assert not re.search(r"putMeasurement|addPathObject|getMeasurementValue|resolveHierarchy", text)
    assert name == "StimageWindow.groovy" or not re.search(r"^import javafx", text, re.MULTILINE)
