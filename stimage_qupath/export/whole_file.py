"""A file that appears under its name only when it is whole."""

from __future__ import annotations

import os
import platform
import re
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stimage_qupath.errors import OutputExistsError
from stimage_qupath.export.partial_folder import is_alive
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.names import PARTIAL_SUFFIX

DRAFT: Final = re.compile(rf"\.([0-9a-f]{{8}})-([0-9]+)-[0-9a-f]{{8}}{re.escape(PARTIAL_SUFFIX)}")
"""Host, process and a random number, after the name of the file."""


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
    draft = path.with_name(f"{path.name}.{_this_host()}-{os.getpid()}-{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_drafts_of_the_dead(path)
        try:
            yield draft
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _this_host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _remove_drafts_of_the_dead(path: Path) -> None:
    for other in path.parent.iterdir():
        owner = DRAFT.fullmatch(other.name.removeprefix(path.name)) if other.name.startswith(path.name) else None
        if owner is not None and owner[1] == _this_host() and not is_alive(int(owner[2])):
            other.unlink(missing_ok=True)
