"""The line to QuPath: one JSON object a line, from any thread."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import IO, Any, Final

from stimage_qupath import __version__
from stimage_qupath.request import API

PREFIX: Final = "@@STIMAGE "
HEARTBEAT_SECONDS: Final = 2.0
"""Well under the 5 s of the protocol, as a library that is being imported can hold the interpreter for a while."""
SHORTEST_GAP_SECONDS: Final = 0.1


class Channel:
    """The line to QuPath: thread-safe, silent after the terminal answer and when nobody listens."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._ended = False
        self._image: str | None = None
        self._last: dict[str, Any] = {"stage": "starting", "done": 0, "total": 0, "message": ""}
        self._sent_at = time.monotonic()

    def started(self, *, run_id: str | None = None, device: str, images: int) -> None:
        """Say that work begins."""
        about = {"api": API, "run_id": run_id, "package": __version__, "device": device, "images": images}
        self._send({"event": "started", **about})

    def progress(self, image: str | None, stage: str, done: int, total: int, message: str = "") -> None:
        """Say where the work stands, unless that was said a moment ago."""
        with self._lock:
            new = image != self._image or stage != self._last["stage"] or (total and done >= total)
            self._image = image
            self._last = {"stage": stage, "done": done, "total": total, "message": message}
            due = new or time.monotonic() - self._sent_at >= SHORTEST_GAP_SECONDS
        if due:
            self._send({"event": "progress", "image": image, **self._last})

    def heartbeat(self) -> None:
        """Repeat the last progress if nothing has been said for a while."""
        with self._lock:
            due = time.monotonic() - self._sent_at >= HEARTBEAT_SECONDS
            line = {"event": "progress", "image": self._image, **self._last}
        if due:
            self._send(line)

    def end(self, answer: dict[str, Any]) -> None:
        """Send the terminal answer; nothing follows it."""
        self._send({"event": answer["status"], **answer}, last=True)

    def _send(self, line: dict[str, Any], *, last: bool = False) -> None:
        text = PREFIX + json.dumps(line, allow_nan=False) + "\n"
        with self._lock:
            if self._ended:
                return
            self._ended = last
            self._sent_at = time.monotonic()
            with contextlib.suppress(
                OSError, ValueError
            ):  # nobody reads any more: the watch on the parent ends the run
                self._stream.write(text.encode("ascii"))
                self._stream.flush()
