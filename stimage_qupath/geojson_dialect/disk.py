"""What the operating system refuses while we write, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stimage_qupath.errors import FULL, OutputError


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes ``path`` and does nothing else, into an OutputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "free some space" if error.errno in FULL else "check that you may write there"
        msg = f"expected to write {path}, found: {reason}; {advice} or choose another output"
        raise OutputError(msg) from error
