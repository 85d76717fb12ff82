"""A folder appears whole or not at all, and what was there is never lost."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from stimage_qupath.errors import OutputError, OutputExistsError
from stimage_qupath.export.lock import is_alive
from stimage_qupath.export.partial_folder import OWNER_FILE, PartialFolder, remove_leftovers


def fill(output: Path, text: str = "new", *, force: bool = False) -> Path:
    with PartialFolder(output, force=force, why_keep=lambda _: None) as folder:
        (folder.path / "a.txt").write_text(text)
        return folder.publish()


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_published_folder_holds_the_files_and_nothing_else(tmp_path: Path) -> None:
    assert fill(tmp_path / "deep" / "run") == (tmp_path / "deep" / "run").resolve()
    assert tree(tmp_path) == ["deep", "deep/run", "deep/run/a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    with (  # noqa: PT012
        pytest.raises(error),
        PartialFolder(tmp_path / "run", force=False, why_keep=lambda _: None) as folder,
    ):
        (folder.path / "a.txt").write_text("new")
        assert not folder.output.exists()
        raise error
    assert tree(tmp_path) == []


def test_leaving_without_publishing_leaves_nothing(tmp_path: Path) -> None:
    with PartialFolder(tmp_path / "run", force=False, why_keep=lambda _: None):
        pass
    assert tree(tmp_path) == []


def test_existing_output_is_refused_at_once(tmp_path: Path) -> None:
    fill(tmp_path / "run", "old")
    with pytest.raises(OutputExistsError, match=r"expected no .*run yet, found one; choose another output or force"):
        PartialFolder(tmp_path / "run", force=False, why_keep=lambda _: None)
    (tmp_path / "file").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputExistsError, match=r"expected a folder as output, found the file"):
            PartialFolder(tmp_path / "file", force=force, why_keep=lambda _: None)
    with pytest.raises(OutputExistsError, match=r"expected an earlier run in .*, found my thesis; choose another"):
        PartialFolder(tmp_path / "run", force=True, why_keep=lambda _: "my thesis")
    assert (tmp_path / "run" / "a.txt").read_text() == "old"


def test_force_replaces_only_at_the_end(tmp_path: Path) -> None:
    output = fill(tmp_path / "run", "old")
    with PartialFolder(output, force=True, why_keep=lambda _: None) as folder:
        (folder.path / "a.txt").write_text("new")
        assert (output / "a.txt").read_text() == "old"
        folder.publish()
    assert (output / "a.txt").read_text() == "new"
    assert tree(tmp_path) == ["run", "run/a.txt"]


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(OSError(errno.EACCES, "Permission denied"), OutputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_old_output_survives_a_failed_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, raised: type[BaseException]
) -> None:
    output = fill(tmp_path / "run", "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise fault
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(raised, match=r"found: Permission denied; check that you may write there|^$"):
        fill(output, force=True)
    assert (output / "a.txt").read_text() == "old"
    assert tree(tmp_path) == ["run", "run/a.txt"]


def test_output_that_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with PartialFolder(tmp_path / "run", force=False, why_keep=lambda _: None) as folder:
        fill(tmp_path / "run", "faster")
        with pytest.raises(OutputExistsError, match=r"expected no .*run yet"):
            folder.publish()
    assert (tmp_path / "run" / "a.txt").read_text() == "faster"


def test_parent_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(OutputError, match=r"expected to write .*run, found: .*; check that you may write there"),
        PartialFolder(tmp_path / "file" / "run", force=False, why_keep=lambda _: None),
    ):
        pass


def leave(parent: Path, name: str, owner: object) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "cells.h5ad").write_text("half")
    (folder / OWNER_FILE).write_text(owner if isinstance(owner, str) else json.dumps(owner))
    return folder


def test_only_folders_of_dead_processes_of_this_machine_are_removed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    here = platform.node()
    leave(tmp_path, "dead.1234.partial", {"pid": process.pid, "host": here})
    leave(tmp_path, "not-partial", {"pid": process.pid, "host": here})
    leave(tmp_path, "alive.1234.partial", {"pid": os.getpid(), "host": here})
    leave(tmp_path, "elsewhere.1234.partial", {"pid": process.pid, "host": f"not-{here}"})
    leave(tmp_path, "odd.1234.partial", "[1")
    leave(tmp_path, "odder.1234.partial", [])
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "file.partial").write_text("mine")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "alive.1234.partial",
        "elsewhere.1234.partial",
        "file.partial",
        "mine.partial",
        "not-partial",
        "odd.1234.partial",
        "odder.1234.partial",
    ]


def test_killed_run_leaves_no_final_name_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\n"
        "from stimage_qupath.export.partial_folder import PartialFolder\n"
        "folder = PartialFolder(pathlib.Path(sys.argv[1]), force=False, why_keep=lambda _: None).__enter__()\n"
        "(folder.path / 'a.txt').write_text('half')\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("run.")
    assert left.suffix == ".partial"
    fill(tmp_path / "run")
    assert tree(tmp_path) == ["run", "run/a.txt"]


def test_is_alive() -> None:
    assert is_alive(os.getpid())
    assert is_alive(os.getppid())
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not is_alive(process.pid)
