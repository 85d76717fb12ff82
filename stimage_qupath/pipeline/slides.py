"""A table of slides in, a run folder for each out, one after the other or on the processes of a dask cluster.

``OUTPUT/run.json`` holds the table; it is written anew after each slide, so that an interrupted run still tells what
was done. A slide that fails does not stop the others, and ``resume`` leaves out those that are done.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stimage_qupath import names
from stimage_qupath.config import SlidesSettings
from stimage_qupath.errors import PartialFailureError, StimageError, UsageError
from stimage_qupath.export.partial_folder import remove_leftovers
from stimage_qupath.models.checkpoint import Model, load_model
from stimage_qupath.pipeline.executor import run_all
from stimage_qupath.pipeline.several import claim, whole_run_lock, write_table
from stimage_qupath.pipeline.tasks import Outcome, Task, absolute
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress
from stimage_qupath.word_table import read_words

KIND: Final = "slides"
COLUMNS: Final = ("image", "name", "annotations", "nuclei", "mpp")


@dataclass(slots=True)
class Row:
    """One slide in the table of ``run.json``."""

    name: str
    image: str
    status: str = "waiting"
    run: str | None = None
    cells: int | None = None
    seconds: float | None = None
    where: str | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)
    error: dict[str, Any] | None = None

    def take(self, outcome: Outcome) -> None:
        """Note what came of the slide."""
        self.seconds, self.where = round(outcome.seconds, 3), outcome.where
        if outcome.failure is not None:
            kind, code = type(outcome.failure).__name__, outcome.failure.exit_code
            self.status, self.error = "failed", {"type": kind, "message": str(outcome.failure), "exit_code": code}
        elif outcome.record is not None:
            self.status, self.cells = "done", outcome.record["cells"]
            self.run, self.warnings = Path(outcome.record["output"]).name, list(outcome.record["warnings"])


def run(
    settings: SlidesSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Predict for each slide of a table.

    Parameters
    ----------
    settings
        What to do.
    on_progress, cancelled
        Progress and cancellation; what is finished stays, and can be resumed.

    Returns
    -------
    dict
        The record as in ``OUTPUT/run.json``.

    Raises
    ------
    PartialFailureError
        Some slides failed; the others are done, the table says which.
    StimageError
        Of the kind that fits, where nothing could be done, or the only slide failed.
    """
    tasks = read_slides(settings)
    model = load_model(settings.model)
    model.choose_genes(settings.genes)  # a wrong name is one error, not one a slide
    claim(settings, KIND)
    with whole_run_lock(settings):
        return _run(settings, tasks, model, on_progress, cancelled)


def _run(
    settings: SlidesSettings, tasks: list[Task], model: Model, on_progress: ProgressCallback, cancelled: CancelCheck
) -> dict[str, Any]:
    """Do the tasks and return the record; errors as :func:`run`."""
    rows = [Row(task.name, str(task.settings.image)) for task in tasks]
    outcomes = run_all(tasks, settings, model, on_progress, cancelled)
    record = write_table(settings, KIND, [dataclasses.asdict(row) for row in rows])
    failures: list[StimageError] = []
    for done, outcome in enumerate(outcomes, start=1):
        rows[outcome.number].take(outcome)
        failures += [outcome.failure] if outcome.failure else []
        record = write_table(settings, KIND, [dataclasses.asdict(row) for row in rows])
        on_progress("slides", done, len(rows), rows[outcome.number].name)
    remove_leftovers(settings.output)  # of workers that died
    if failures and len(rows) == 1:
        raise failures[0]
    if failures:
        named = "; ".join(f"{row.name}: {row.error['message']}" for row in rows if row.error)
        msg = f"expected {len(rows)} slides to pass, found {len(failures)} failed ({named}); see {record['output']}"
        raise PartialFailureError(msg)
    return record


def read_slides(settings: SlidesSettings) -> list[Task]:
    """Return one task a row of the table ``settings.image``; paths in it are relative to it.

    Raises
    ------
    UsageError
        The table cannot be read, lacks ``image``, has other columns, or names two slides alike.
    """
    path = settings.image
    table = read_words(path, what="a table of slides")
    unknown = sorted(set(table.columns) - set(COLUMNS))
    if "image" not in table.columns or unknown or table.empty:
        found = f"{len(table)} rows with {', '.join(table.columns)}"
        msg = f"expected rows with image and any of {', '.join(COLUMNS[1:])} in {path}, found {found}"
        raise UsageError(msg)
    rows = table.to_dict("records")
    named = [names.folder_name(row.get("name") or Path(row["image"]).stem) for row in rows]
    keys = [name.casefold() for name in named]  # one folder on Windows and macOS
    twice = sorted({name for name, key in zip(named, keys, strict=True) if keys.count(key) > 1})
    if twice:
        msg = f"expected another name for each slide in {path}, found {', '.join(twice)} twice; add a column name"
        raise UsageError(msg)
    return [_task(settings, number, name, row) for number, (name, row) in enumerate(zip(named, rows, strict=True))]


def _task(settings: SlidesSettings, number: int, name: str, row: dict[str, str]) -> Task:
    here = settings.image.resolve().parent

    def path(column: str) -> Path | None:
        return here / row[column] if row.get(column) else None

    try:
        mpp = float(row["mpp"]) if row.get("mpp") else None
    except ValueError as error:
        msg = f"expected um per pixel as mpp of slide {name}, found '{row['mpp']}'"
        raise UsageError(msg) from error
    changed = {"image": here / row["image"], "output": settings.output / name, "mpp": mpp}
    changed |= {"annotations": path("annotations"), "nuclei": path("nuclei")}
    return Task(number, name, absolute(settings.of_image(**changed)))
