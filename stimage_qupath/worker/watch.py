"""Keep QuPath informed, notice that it wants to stop or is gone, and end work that does not stop by itself."""

from __future__ import annotations

import os
import time
from typing import Final

from stimage_qupath.worker.job import Job

CANCEL_FILE: Final = "cancel"
PARENT_VARIABLE: Final = "STIMAGE_PARENT_PID"
POLL_SECONDS: Final = 0.25
GRACE_SECONDS: Final = 0.75
"""From a cancel until work that does not stop by itself is abandoned."""


def watch(job: Job) -> None:
    """Look after ``job`` for ever, from a thread of its own."""
    parents = _Parents()
    stopped_at = 0.0
    while True:
        time.sleep(POLL_SECONDS)
        job.channel.heartbeat()
        if (job.folder / CANCEL_FILE).exists():
            job.stop("asked for in QuPath")
        elif parents.gone():
            job.stop("the program that started the worker is gone")
        if job.cancelled():
            stopped_at = stopped_at or time.monotonic()
            if time.monotonic() - stopped_at > GRACE_SECONDS:
                job.abandon()


class _Parents:
    """The process that started this one, as the system knows it and as the scripts say."""

    def __init__(self) -> None:
        from stimage_qupath.export.lock import is_alive

        self._is_alive = is_alive
        self._parent = os.getppid()
        said = os.environ.get(PARENT_VARIABLE, "")
        self._said = int(said) if said.isdigit() and is_alive(int(said)) else None

    def gone(self) -> bool:
        """Return whether one of them is gone; on Windows the number of a dead parent stays, so both are asked."""
        if os.getppid() != self._parent or not self._is_alive(self._parent):
            return True
        return self._said is not None and not self._is_alive(self._said)
