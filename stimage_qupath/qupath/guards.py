"""What has to hold before a project is written: the file is whole, unchanged and ours alone, and there is a copy."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.export.lock import locked
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.qupath.qpdata import is_complete

LOCK_FILE: Final = "stimage.lock"
BACKUP_SUFFIX: Final = ".stimage-backup"
SAVING_SUFFIX: Final = ".bkp"
"""QuPath's own, there while it writes."""


def fingerprint(data_path: Path) -> str | None:
    """Return the SHA-256 of a data file, hex; None where the image has none yet."""
    if not data_path.is_file():
        return None
    with data_path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_whole(data_path: Path) -> None:
    """Refuse a data file that was cut short, or that QuPath is writing.

    Raises
    ------
    AnnotationError
        It was cut short.
    UsageError
        QuPath is saving it, or was stopped while it did.
    """
    saving = data_path.with_name(data_path.name + SAVING_SUFFIX)
    if saving.exists():
        msg = (
            f"expected no save under way, found {saving}; close QuPath, and if it stays restore it as {data_path.name}"
        )
        raise UsageError(msg)
    if data_path.is_file() and not is_complete(data_path):
        msg = f"expected a whole data file, found {data_path} cut short; restore it from a backup, nothing was written"
        raise AnnotationError(msg)


def check_count(data_path: Path, found: int) -> None:
    """Refuse a hierarchy that lost objects on the way: QuPath opens a damaged file as an empty one, without an error.

    Parameters
    ----------
    data_path
        Data file, beside which QuPath keeps ``summary.json``.
    found
        Objects that QuPath read, the root included, as its summary counts.

    Raises
    ------
    AnnotationError
        The summary counts another number.
    """
    summary = data_path.with_name("summary.json")
    if not (data_path.is_file() and summary.is_file()):
        return
    try:
        stated = int(json.loads(summary.read_text(encoding="utf-8"))["hierarchy"]["nObjects"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # versions before 0.2.0 wrote none like it
    if stated != found:
        msg = f"expected {stated} objects in {data_path} as its summary says, found {found}; restore it from a backup"
        raise AnnotationError(msg)


def check_unchanged(data_path: Path, expected: str | None) -> None:
    """Refuse a data file that is not the one the run began with.

    Raises
    ------
    UsageError
        It changed, appeared or vanished.
    """
    if fingerprint(data_path) != expected:
        msg = f"expected {data_path} as it was when the run began, found it changed; close QuPath and run again"
        raise UsageError(msg)


def back_up(data_path: Path) -> Path | None:
    """Copy a data file beside itself and return the copy; None where there is no file yet.

    Raises
    ------
    OutputError
        The disk is full or not writable.
    """
    if not data_path.is_file():
        return None
    backup = data_path.with_name(data_path.name + BACKUP_SUFFIX)
    with output_errors(backup):
        partial = backup.with_name(backup.name + ".partial")
        shutil.copy2(data_path, partial)
        partial.replace(backup)
    return backup


def restore(data_path: Path, backup: Path | None) -> None:
    """Put the copy back, or remove the file where there was none."""
    if backup is None:
        data_path.unlink(missing_ok=True)
    else:
        shutil.copy2(backup, data_path)


def undo(data_path: Path, before: str | None) -> None:
    """Bring a data file back to what it was, after the process that was to replace it was killed.

    Parameters
    ----------
    data_path
        Data file, beside which its copy may stand, and QuPath's own of a save that was cut short.
    before
        :func:`fingerprint` of what it was.

    Raises
    ------
    AnnotationError
        Neither the file nor its copy is what it was.
    """
    backup = data_path.with_name(data_path.name + BACKUP_SUFFIX)
    if fingerprint(data_path) != before:
        if before is not None and fingerprint(backup) != before:
            msg = f"expected {backup} to hold {data_path} as it was, found another; restore it from your own backup"
            raise AnnotationError(msg)
        restore(data_path, None if before is None else backup)
    data_path.with_name(data_path.name + SAVING_SUFFIX).unlink(missing_ok=True)


def project_lock(folder: Path, *, clear_dead: bool = False) -> AbstractContextManager[Path]:
    """Hold ``stimage.lock`` in a project's folder; see :func:`stimage_qupath.export.lock.locked`."""
    return locked(folder / LOCK_FILE, what="the project", clear_dead=clear_dead)
