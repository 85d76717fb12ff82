"""The folder of a run over several images, and its table in ``run.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from stimage_qupath import names
from stimage_qupath.config import SeveralSettings
from stimage_qupath.errors import OutputExistsError
from stimage_qupath.export.lock import lock_of, locked
from stimage_qupath.export.run_record import to_json
from stimage_qupath.export.whole_file import whole_file
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.pipeline.record import versions


def claim(settings: SeveralSettings, kind: str) -> None:
    """Make the output folder; one of an earlier run of this ``kind`` is taken up, or replaced image by image.

    Raises
    ------
    OutputExistsError
        It is there and neither to be resumed nor replaced, or holds something else.
    """
    output = settings.output
    with output_errors(output):
        there = output.exists() and (not output.is_dir() or any(output.iterdir()))
        if there and not (settings.force or settings.resume):
            msg = f"expected no {output} yet, found one; go on (--resume), replace it (--force), or choose another"
            raise OutputExistsError(msg)
        if there and not _is_run(output, kind):
            wanted = f"an earlier {kind} run in {output} to replace or go on with"
            msg = f"expected {wanted}, found something else; choose another output"
            raise OutputExistsError(msg)
        output.mkdir(parents=True, exist_ok=True)


def whole_run_lock(settings: SeveralSettings) -> AbstractContextManager[Path]:
    """Hold the output folder, so that no second run takes part in it."""
    return locked(lock_of(settings.output), what=str(settings.output), clear_dead=settings.clear_dead_locks)


def _is_run(output: Path, kind: str) -> bool:
    try:
        return bool(json.loads((output / names.RUN_JSON).read_text(encoding="utf-8")).get("kind") == kind)
    except (OSError, ValueError, AttributeError):
        return False


def write_table(settings: SeveralSettings, kind: str, rows: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Write ``run.json`` and return what is in it.

    Parameters
    ----------
    settings
        Of the run.
    kind
        What the images are of.
    rows
        One an image.
    more
        What else is said.
    """
    record = {
        "kind": kind,
        "command": settings.flow,
        "settings": settings.to_dict(),
        **more,
        "images": list(rows),
        "cells": sum(row["cells"] or 0 for row in rows),
        "versions": versions(),
        "output": str(settings.output),
    }
    path = settings.output / names.RUN_JSON
    with whole_file(path) as draft:
        draft.write_bytes(to_json(record))
    return record
