"""A file that says which process works on something, on which machine and since when, and whose date says it lives.

The lock of a process that is known to be gone is taken over. One of another machine cannot be asked about: while it is
held its date is renewed, and only a person can say that one without a sign of life is dead (``--clear-dead-locks``).
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from stimage_qupath import names
from stimage_qupath.errors import UsageError
from stimage_qupath.geojson_dialect.disk import output_errors

BEAT_S: Final = 20.0
"""How often a held lock is renewed."""
SILENCE_S: Final = 300.0
"""From here on a lock that was not renewed counts as one without a sign of life."""

State = Literal["lives", "silent", "gone"]


@dataclass(frozen=True, slots=True)
class Owner:
    """A process.

    Attributes
    ----------
    pid, host
        Its number, and the name of its machine.
    since
        When it began to hold what it holds, UTC.
    """

    pid: int
    host: str
    since: str

    @classmethod
    def here(cls) -> Owner:
        """Return this process."""
        return cls(os.getpid(), platform.node(), datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """Return who wrote ``path``; None where it cannot be told."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(int(found["pid"]), str(found["host"]), str(found.get("since", "an unknown time")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, path: Path, *, new: bool = False) -> None:
        """Write who this is; FileExistsError if it must be ``new`` and is not."""
        with path.open("x" if new else "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self)))

    @property
    def is_gone(self) -> bool:
        """Whether the process ran on this machine and runs no more."""
        return self.host == platform.node() and not is_alive(self.pid)

    def __str__(self) -> str:
        """Return process, machine and time."""
        return f"process {self.pid} on {self.host} since {self.since}"


def lock_of(output: Path) -> Path:
    """Return the lock of what is written to ``output``: beside it, since a run folder appears only when it is whole."""
    resolved = output.resolve()
    return resolved.with_name(f"{resolved.name}{names.LOCK_SUFFIX}")


@contextmanager
def locked(path: Path, *, what: str, clear_dead: bool = False) -> Iterator[Path]:
    """Hold the lock ``path`` while the block runs.

    Parameters
    ----------
    path
        File to make; gone afterwards.
    what
        What is held, for the message.
    clear_dead
        Take over a lock without a sign of life too.

    Raises
    ------
    UsageError
        Another process holds it.
    OutputError
        Its folder is not writable.
    """
    owner = Owner.here()
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            owner.write(path, new=True)
        except FileExistsError:
            _take_over(path, what=what, clear_dead=clear_dead)
            try:
                owner.write(path, new=True)
            except FileExistsError as error:
                raise _held(path, Owner.read(path), "lives", what) from error
    done = threading.Event()
    beat = threading.Thread(target=_renew, args=(path, done), name="lock", daemon=True)
    beat.start()
    try:
        yield path
    finally:
        done.set()
        if Owner.read(path) == owner:
            with suppress(OSError):
                path.unlink()


def _renew(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)


def _take_over(path: Path, *, what: str, clear_dead: bool) -> None:
    """Remove the lock of a dead process, and no other: somebody else may be taking it over at the same moment."""
    owner = Owner.read(path)
    state = _state(path, owner)
    if state == "lives" or (state == "silent" and not clear_dead):
        raise _held(path, owner, state, what)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.dead")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if Owner.read(aside) != owner:  # a living one, made meanwhile
            aside.rename(path)
            raise _held(path, Owner.read(path), "lives", what)
        aside.unlink()


def _state(path: Path, owner: Owner | None) -> State:
    if owner is not None and owner.is_gone:
        return "gone"
    return "silent" if _silence_s(path) > SILENCE_S else "lives"


def _silence_s(path: Path) -> float:
    """Return how long a lock was not renewed, by the clock of the disk it lies on; 0 where it is gone meanwhile."""
    probe = path.with_name(f"{path.name}.{secrets.token_hex(4)}.now")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _held(path: Path, owner: Owner | None, state: State, what: str) -> UsageError:
    who = "an unknown process" if owner is None else str(owner)
    if state == "silent":
        who += f", without a sign of life for over {SILENCE_S / 60:.0f} min"
        advice = "if it is dead, go on with --clear-dead-locks"
    else:
        advice = "wait for it to end"
    return UsageError(f"expected {what} to be free, found it locked by {who} ({path}); {advice}")


def sibling_of_ours(path: Path, suffix: str) -> Path:
    """Return a new name beside ``path`` that says which process it is of."""
    return path.with_name(f"{path.name}.{_this_host()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}")


def siblings_of_the_dead(path: Path, suffix: str) -> list[Path]:
    """Return what :func:`sibling_of_ours` named in processes of this machine that run no more."""
    form = re.compile(rf"{re.escape(path.name)}\.([0-9a-f]{{8}})-([0-9]+)-[0-9a-f]{{8}}{re.escape(suffix)}")
    found = []
    for other in path.parent.iterdir():
        owner = form.fullmatch(other.name)
        if owner is not None and owner[1] == _this_host() and not is_alive(int(owner[2])):
            found.append(other)
    return sorted(found)


def _this_host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine runs under ``pid``; in doubt it does."""
    if sys.platform == "win32":  # os.kill would end it there
        import ctypes

        query, still_active = 0x1000, 259  # PROCESS_QUERY_LIMITED_INFORMATION, STILL_ACTIVE (Win32 API)
        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(query, False, pid)
        if not handle:
            return bool(kernel.GetLastError() == 5)  # ERROR_ACCESS_DENIED: somebody else's
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == still_active
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
