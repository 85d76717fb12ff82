"""What the worker does with the settings of a validation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from stimage_qupath.errors import UsageError
from stimage_qupath.worker.job import RESPONSE_FILE, Job

IMAGE: Final = "image"
"""Id of the one image that a validation is of."""


def validate(job: Job, path: Path) -> None:
    """Hold a run against annotations, as the JSON file of :class:`stimage_qupath.config.ValidateSettings` asks.

    Raises
    ------
    UsageError
        The file cannot be read, or asks for nonsense.
    StimageError
        Of the validation itself.
    """
    (job.folder / RESPONSE_FILE).unlink(missing_ok=True)
    job.channel.started(device="cpu", images=1)
    about: dict[str, Any] = {"id": IMAGE, "name": path.name, "status": "not started"}
    job.images = [about]
    with job.stage("loading the package"):
        from stimage_qupath.config import ValidateSettings
        from stimage_qupath.pipeline import validate as flow
    try:
        settings = ValidateSettings.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"expected the settings of a validation at {path}, found: {error}; start it from QuPath again"
        raise UsageError(msg) from error
    found = flow.run(settings, partial(job.channel.progress, IMAGE), job.cancelled)
    about |= {"name": found["run"]["image"], "status": "done", "exit_code": 0, "error": None}
    about |= {"folder": found["output"], "cells": found["run"]["nuclei"], "warnings": found["warnings"]}
    about |= {"research_use": f"{found['research_use']} {found['note']}"}
