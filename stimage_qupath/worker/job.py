"""One request being worked on, and its one terminal answer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from stimage_qupath import __version__, names
from stimage_qupath.errors import CancelledError, StimageError, of_the_machine
from stimage_qupath.request import API, Request
from stimage_qupath.worker.channel import Channel

RESPONSE_FILE: Final = "response.json"
HINTS: Final = {
    2: "Check what was asked for, and start again.",
    3: "Run `stimage-qupath doctor`; it says what is missing and how to install it.",
    4: "Check that the image opens in QuPath and is a brightfield RGB image; copy it again if it is damaged.",
    5: "Set the pixel size in QuPath's Image tab (double-click on Pixel width), and start again.",
    6: "Close other programs, select a smaller annotation, or lower the batch size.",
    7: "Nothing was changed.",
    8: "Please report this with the end of the log.",
    9: "Free some disk space or choose a folder that can be written to.",
    10: "The other images are done; see the table for those that failed.",
}


class Job:
    """What came of each image so far, and the one terminal answer.

    Parameters
    ----------
    folder
        Job folder.
    channel
        To QuPath.
    """

    def __init__(self, folder: Path, channel: Channel) -> None:
        self.folder = folder
        self.channel = channel
        self.request: Request | None = None
        self.images: list[dict[str, Any]] = []
        self.stop_reason = ""
        self._start = time.monotonic()
        self._answered = threading.Lock()

    def cancelled(self) -> bool:
        """Return whether somebody asked to stop."""
        return bool(self.stop_reason)

    def stop(self, reason: str) -> None:
        """Ask the work to stop."""
        self.stop_reason = self.stop_reason or reason

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage that cannot say how far it is, and leave it at once after a cancel."""
        self.channel.progress(None, name, 0, 0)
        yield
        if self.cancelled():
            msg = f"cancelled: {self.stop_reason}"
            raise CancelledError(msg)

    def answer(self, error: StimageError | None) -> int:
        """Write ``response.json``, send the terminal line, return the exit code; waits for ever if another thread did.

        The lock is never released: whoever answers first also ends the process.
        """
        self._answered.acquire()
        code = 0 if error is None else error.exit_code
        status = "done" if error is None else "cancelled" if isinstance(error, CancelledError) else "failed"
        run_id = None if self.request is None else self.request.run_id
        answer: dict[str, Any] = {
            "api": API,
            "run_id": run_id,
            "status": status,
            "exit_code": code,
            "error": described(error),
        }
        answer |= {"images": self.images, "seconds": round(time.monotonic() - self._start, 3)}
        answer |= _versions_and_memory()
        with contextlib.suppress(OSError):  # a folder that is full or gone: the line on standard output is left
            _write_whole(self.folder / RESPONSE_FILE, json.dumps(answer, allow_nan=False, indent=1))
        self.channel.end(answer)
        return code

    def abandon(self) -> NoReturn:
        """End the process although the work goes on, and remove what it had half written."""
        for number, image in enumerate(self.images):
            if image["status"] == "running":
                self.images[number] = {**image, "status": "not started"}
        self._remove_unfinished()
        os._exit(self.answer(CancelledError(f"cancelled: {self.stop_reason}")))

    def _remove_unfinished(self) -> None:
        """Remove unfinished run folders, renamed first, so that none is published half removed, and their locks."""
        if self.request is None:
            return
        from stimage_qupath.export.lock import Owner, lock_of

        for image in self.request.images:
            for folder in self.request.output.glob(f"{image.folder_name}.*{names.PARTIAL_SUFFIX}"):
                with contextlib.suppress(OSError):  # published meanwhile; or Windows keeps it: the next run removes it
                    shutil.rmtree(folder.rename(folder.with_name(f"abandoned.{folder.name}")), ignore_errors=True)
            lock = lock_of(self.request.output / image.folder_name)
            owner = Owner.read(lock)
            if owner is not None and owner.pid == os.getpid():
                with contextlib.suppress(OSError):
                    lock.unlink()


def attempt(task: Callable[[], None]) -> StimageError | None:
    """Do ``task`` and return what it failed with, if it did; the trace of a fault of ours goes to the log."""
    try:
        task()
    except StimageError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the last resort: every task must still end in an answer
        known = of_the_machine(error)
        if known is not None:
            return known
        traceback.print_exc()
        return StimageError(f"internal error: {error!r}")
    return None


def described(error: StimageError | None) -> dict[str, str] | None:
    """Return an error as the protocol writes it."""
    if error is None:
        return None
    return {"type": type(error).__name__, "message": str(error), "hint": HINTS.get(error.exit_code, "")}


def _versions_and_memory() -> dict[str, Any]:
    """Return both if the package is loaded by now; a bad request must not wait for that."""
    record = sys.modules.get("stimage_qupath.pipeline.record")
    if record is None or not hasattr(record, "versions"):
        return {"versions": {"stimage-qupath": __version__}, "peak_memory_mib": None}
    return {"versions": record.versions(), "peak_memory_mib": record.peak_memory_mib()}


def _write_whole(path: Path, text: str) -> None:
    """Write a file that appears only when it is whole."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
