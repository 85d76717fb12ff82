"""One image of many: what is asked, what came of it, and the attempt between."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stimage_qupath import names
from stimage_qupath.config import PredictSettings
from stimage_qupath.errors import CancelledError, OutputExistsError, StimageError, of_the_machine
from stimage_qupath.models.checkpoint import Model
from stimage_qupath.pipeline import predict
from stimage_qupath.results import CancelCheck, ProgressCallback


@dataclass(frozen=True, slots=True)
class Task:
    """One image to predict.

    Attributes
    ----------
    number
        Its place in the table.
    name
        What a person calls it.
    settings
        Of its prediction; paths are absolute.
    """

    number: int
    name: str
    settings: PredictSettings


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task.

    Attributes
    ----------
    number
        Of the task.
    record
        As :func:`stimage_qupath.pipeline.predict.run` returns it; None where it failed.
    failure
        Why it failed, or None.
    where
        Host and process that did it.
    seconds
        It took there.
    """

    number: int
    record: dict[str, Any] | None
    failure: StimageError | None
    where: str
    seconds: float


def attempt(task: Task, model: Model, on_progress: ProgressCallback, cancelled: CancelCheck) -> Outcome:
    """Predict for one image; a failure is part of the outcome, cancelling is not."""
    start = time.monotonic()

    def outcome(record: dict[str, Any] | None, failure: StimageError | None) -> Outcome:
        return Outcome(task.number, record, failure, here(), time.monotonic() - start)

    try:
        found = finished_record(task.settings) if task.settings.resume else None
        # The run over all of them holds the lock; another attempt's may be one of a machine that died.
        found = found or predict.run(task.settings, on_progress, cancelled, model=model, lock=False)
        return outcome(found, None)
    except CancelledError:
        raise
    except OutputExistsError as error:
        found = finished_record(task.settings)  # an attempt that was thought lost went through
        return outcome(found, None if found else error)
    except StimageError as error:
        return outcome(None, error)
    except (MemoryError, OSError, RuntimeError) as error:
        known = of_the_machine(error)
        if known is None:
            raise
        return outcome(None, known)


def here() -> str:
    """Return host and process."""
    return f"{platform.node()}:{os.getpid()}"


def finished_record(settings: PredictSettings) -> dict[str, Any] | None:
    """Return the record of a finished run with these settings, or None."""
    try:
        record = json.loads((settings.output / names.RUN_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # They say nothing of what is in the tables.
    free = ("resume", "clear_dead_locks", "force", "threads", "device", "batch_size")
    wanted = {name: value for name, value in settings.to_dict().items() if name not in free}
    kept = {name: value for name, value in record.get("settings", {}).items() if name not in free}
    if kept != wanted:
        return None
    cells = sum(region["count"] for region in record["regions"])
    return {**record, "output": str(settings.output), "cells": cells}


def absolute(settings: PredictSettings) -> PredictSettings:
    """Return settings whose paths mean the same in another working folder."""
    changed: dict[str, Any] = {
        name: value.resolve()
        for name in ("image", "output", "annotations", "nuclei")
        if isinstance(value := getattr(settings, name), Path)
    }
    return replace(
        settings,
        **changed,
        model=_absolute_word(settings.model),
        segmenter=_absolute_segmenter(settings.segmenter),
        cell_types=tuple(map(_absolute_word, settings.cell_types)),
        signatures=tuple(map(_absolute_word, settings.signatures)),
    )


def resumable(task: Task) -> Task:
    """Return the task so that an attempt that follows one whose worker died goes on where that one was."""
    return task if task.settings.force else replace(task, settings=replace(task.settings, resume=True))


def _absolute_word(word: str) -> str:
    """Return the absolute path where a word names something on the disk."""
    return str(Path(word).resolve()) if Path(word).exists() else word


def _absolute_segmenter(segmenter: str) -> str:
    backend, colon, folder = segmenter.partition(":")
    return f"{backend}:{_absolute_word(folder)}" if colon else segmenter
