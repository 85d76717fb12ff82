"""A file that appears under its name only when it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stimage_qupath.errors import OutputExistsError
from stimage_qupath.export.lock import sibling_of_ours, siblings_of_the_dead
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.names import PARTIAL_SUFFIX


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse a file that is there already, unless it may be replaced, and a folder in its place in any case.

    Raises
    ------
    OutputExistsError
        There is something.
    """
    if path.is_dir():
        msg = f"expected a file as output, found the folder {path}; choose another output"
        raise OutputExistsError(msg)
    if path.exists() and not force:
        msg = f"expected no {path} yet, found one; choose another output or force its replacement (--force)"
        raise OutputExistsError(msg)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a draft beside ``path`` that takes its place when the block ends well, and is removed when it does not.

    A process that is killed leaves its draft behind; the next one that writes ``path`` on this machine removes it.

    Raises
    ------
    OutputError
        The disk is full or not writable.
    """
    draft = sibling_of_ours(path, PARTIAL_SUFFIX)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in siblings_of_the_dead(path, PARTIAL_SUFFIX):
            left.unlink(missing_ok=True)
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
