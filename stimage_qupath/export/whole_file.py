"""A file that appears under its name only when it is whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stimage_qupath.errors import OutputExistsError
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

    Raises
    ------
    OutputError
        The disk is full or not writable.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
