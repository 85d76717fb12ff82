"""How a person sees a run: a progress bar on a terminal, plain lines elsewhere, one sentence for an error."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stimage_qupath.errors import CancelledError
from stimage_qupath.results import ProgressCallback, no_progress

PLAIN_LINE_SECONDS = 5.0
"""How often a run that is not on a terminal says where it stands."""


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[ProgressCallback]:
    """Yield an ``on_progress`` that draws on stderr: bars on a terminal, else a line every five seconds.

    Raises
    ------
    CancelledError
        In place of the KeyboardInterrupt of Ctrl-C, once everything in the block has been cleaned up.
    """
    console = Console(stderr=True)
    try:
        if quiet:
            yield no_progress
        elif console.is_terminal:
            with _bars(console) as bars:
                yield _Bars(bars)
        else:
            yield _PlainLines()
    except KeyboardInterrupt:
        msg = "cancelled; nothing was written under the final name"
        raise CancelledError(msg) from None


def _bars(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[message]}"), console=console)


class _Bars:
    """One bar a stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, tuple[TaskID, float]] = {}

    def __call__(self, stage: str, done: int, total: int, message: str) -> None:
        if stage not in self._tasks:
            task = self._bars.add_task(stage, total=total or None, rate="", message="")
            self._tasks[stage] = task, time.monotonic()
        task, start = self._tasks[stage]
        rate = _rate(done, start)
        self._bars.update(task, completed=done, total=total or None, rate=rate, message=message)


class _PlainLines:
    """A line when a stage begins, when it ends, and every five seconds between."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._start: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        self._start.setdefault(stage, now)
        finished = total > 0 and done >= total
        if not finished and now - self._last.get(stage, -PLAIN_LINE_SECONDS) < PLAIN_LINE_SECONDS:
            return
        self._last[stage] = now
        parts = [
            f"{stage}: {done} of {total or '?'}",
            _rate(done, self._start[stage]),
            _eta(done, total, now - self._start[stage]),
        ]
        print(", ".join([*filter(None, parts), *filter(None, [message])]), file=sys.stderr, flush=True)  # noqa: T201


def _rate(done: int, start: float) -> str:
    seconds = time.monotonic() - start
    return f"{done / seconds:.1f}/s" if done and seconds > 0.5 else ""


def _eta(done: int, total: int, seconds: float) -> str:
    """Return the time that is left at the rate so far."""
    if not 0 < done < total or seconds < 1:
        return ""
    left = round(seconds / done * (total - done))
    return f"{left // 60}:{left % 60:02d} left"


def say(text: str = "") -> None:
    """Print a line of the result."""
    print(text, flush=True)  # noqa: T201


def say_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of the same length in columns as wide as their longest word; the first row names them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def say_error(text: str) -> None:
    """Print a line about what went wrong."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def stop_on_terminate() -> None:
    """Let a polite kill end a run as Ctrl-C does: everything half-written is removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
