"""What keeps a project from being written, without any Java."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.qupath import guards
from stimage_qupath.qupath.qpdata import END


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.qpdata"
    path.write_bytes(b"content" + END)
    return path


def test_a_file_cut_short_is_refused(data: Path) -> None:
    guards.check_whole(data)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(AnnotationError, match=r"expected a whole data file, found .* cut short"):
        guards.check_whole(data)


def test_a_save_under_way_is_refused(data: Path) -> None:
    data.with_name("data.qpdata.bkp").touch()
    with pytest.raises(UsageError, match=r"expected no save under way, found .*bkp; close QuPath"):
        guards.check_whole(data)


def test_a_changed_file_is_refused(data: Path) -> None:
    before = guards.fingerprint(data)
    assert before == hashlib.sha256(data.read_bytes()).hexdigest()
    guards.check_unchanged(data, before)
    data.write_bytes(b"other" + END)
    for expected in [before, None]:
        with pytest.raises(UsageError, match=r"expected .* as it was when the run began, found it changed"):
            guards.check_unchanged(data, expected)
    data.unlink()
    guards.check_unchanged(data, None)
    with pytest.raises(UsageError, match=r"found it changed"):
        guards.check_unchanged(data, before)


def test_lost_objects_are_noticed(data: Path) -> None:
    guards.check_count(data, 7)  # no summary, nothing to compare
    summary = data.with_name("summary.json")
    summary.write_text(json.dumps({"hierarchy": {"nObjects": 12}}), encoding="utf-8")
    guards.check_count(data, 12)
    with pytest.raises(AnnotationError, match=r"expected 12 objects in .*, found 1; restore"):
        guards.check_count(data, 1)


def test_the_copy_brings_the_file_back(data: Path) -> None:
    content = data.read_bytes()
    backup = guards.back_up(data)
    assert backup == data.with_name("data.qpdata.stimage-backup")
    data.write_bytes(b"broken")
    guards.restore(data, backup)
    assert data.read_bytes() == content
    data.unlink()
    assert guards.back_up(data) is None
    data.write_bytes(b"first ever")
    guards.restore(data, None)
    assert not data.exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with guards.project_lock(tmp_path) as lock:
        assert lock == tmp_path / "stimage.lock"
        with pytest.raises(UsageError, match="expected the project to be free"), guards.project_lock(tmp_path):
            pass
    assert not lock.exists()


def test_a_killed_write_is_undone(data: Path) -> None:
    content, before = data.read_bytes(), guards.fingerprint(data)
    guards.back_up(data)
    data.write_bytes(b"half")
    data.with_name("data.qpdata.bkp").write_bytes(content)
    guards.undo(data, before)
    assert data.read_bytes() == content
    guards.check_whole(data)
    guards.undo(data, before)  # nothing to do
    data.write_bytes(b"half")
    data.with_name("data.qpdata.stimage-backup").write_bytes(b"older")
    with pytest.raises(AnnotationError, match=r"expected .*stimage-backup to hold .* as it was, found another"):
        guards.undo(data, before)
    guards.undo(data, None)
    assert not data.exists()
