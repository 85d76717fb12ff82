"""One process at a time, and what becomes of the locks of dead ones."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.export import lock as module
from stimage_qupath.export.lock import SILENCE_S, Owner, lock_of, locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.lock"


def write(path: Path, owner: object, *, silent_s: float = 0.0) -> str:
    text = json.dumps(owner)
    path.write_text(text, encoding="utf-8")
    then = time.time() - silent_s
    os.utime(path, (then, then))
    return text


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_says_who_holds_it_where_and_since_when(path: Path) -> None:
    with locked(path, what="run") as held:
        owner = json.loads(held.read_text(encoding="utf-8"))
        assert (owner["pid"], owner["host"]) == (os.getpid(), platform.node())
        assert owner["since"].startswith("20")
        assert owner["since"].endswith("+00:00")
        message = rf"expected run to be free, found it locked by process {os.getpid()} on .* since 20.*; wait for it"
        with pytest.raises(UsageError, match=message), locked(path, what="run"):
            pass
        assert held.is_file()
    assert not path.parent.joinpath("run.lock").exists()
    assert not list(path.parent.iterdir())


def test_it_is_gone_after_an_error_too(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(path, what="run"):
        raise ZeroDivisionError
    assert not list(path.parent.iterdir())


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over(path: Path) -> None:
    write(path, {"pid": dead_pid(), "host": platform.node(), "since": "2020"})
    with locked(path, what="run"):
        assert Owner.read(path).pid == os.getpid()
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    "owner",
    [{"pid": 1, "host": "elsewhere", "since": "2020"}, {"pid": os.getpid(), "host": platform.node()}, [], {"pid": "x"}],
)
def test_others_are_asked_about_only_by_their_silence(path: Path, owner: object) -> None:
    text = write(path, owner)
    for clear in (False, True):
        with pytest.raises(UsageError, match="wait for it to end"), locked(path, what="run", clear_dead=clear):
            pass
    write(path, owner, silent_s=SILENCE_S + 5)
    with (
        pytest.raises(UsageError, match=r"without a sign of life for over 5 min .*--clear-dead-locks"),
        locked(path, what="run"),
    ):
        pass
    assert path.read_text(encoding="utf-8") == text
    with locked(path, what="run", clear_dead=True):
        assert Owner.read(path).pid == os.getpid()
    assert not list(path.parent.iterdir())


def test_a_held_lock_is_renewed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    with locked(path, what="run"):
        os.utime(path, (1, 1))
        until = time.monotonic() + 10
        while path.stat().st_mtime < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > time.time() - 60


def test_who_lost_the_lock_does_not_remove_the_other_ones(path: Path) -> None:
    with locked(path, what="run"):
        write(path, {"pid": 1, "host": "elsewhere", "since": "2020"})
    assert Owner.read(path).host == "elsewhere"


def test_of_many_that_take_over_at_once_one_wins(tmp_path: Path, path: Path) -> None:
    write(path, {"pid": dead_pid(), "host": platform.node(), "since": "2020"})
    code = (
        "import sys, time; from pathlib import Path; from stimage_qupath.export.lock import locked\n"
        "from stimage_qupath.errors import UsageError\n"
        "go, path = Path(sys.argv[2]), Path(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "while not go.exists(): pass\n"
        "try:\n"
        "    with locked(path, what='x'): print('held', flush=True); time.sleep(2)\n"
        "except UsageError: print('refused')\n"
    )
    go = tmp_path / "go"
    many = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(go)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in many:
        process.stdout.readline()
    go.touch()
    said = sorted(process.communicate()[0].strip() for process in many)
    assert said == ["held", "refused", "refused", "refused"]


def test_the_lock_of_an_output_lies_beside_it(tmp_path: Path) -> None:
    assert lock_of(tmp_path / "a" / ".." / "run") == tmp_path / "run.lock"
