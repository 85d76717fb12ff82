"""Many predictions, one after the other here, or at once on the processes of a dask cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stimage_qupath.config import SeveralSettings
from stimage_qupath.models.checkpoint import Model
from stimage_qupath.pipeline.cluster import run_on_cluster
from stimage_qupath.pipeline.tasks import Outcome, Task, attempt, resumable
from stimage_qupath.results import CancelCheck, ProgressCallback, stop_if


def run_all(
    tasks: Iterable[Task],
    settings: SeveralSettings,
    model: Model,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> Iterator[Outcome]:
    """Yield the outcome of each task, in any order.

    Parameters
    ----------
    tasks
        Read as they are needed, or all at once for a cluster.
    settings
        Where they are done.
    model
        The model of all of them, loaded.
    on_progress, cancelled
        Progress and cancellation.

    Raises
    ------
    MissingPartError
        dask.distributed is not installed.
    UsageError
        There is no scheduler at the address.
    CancelledError
        ``cancelled`` said so; running attempts are told and leave nothing behind.
    """
    if settings.executor == "local":
        yield from run_here(tasks, model, on_progress, cancelled)
    else:
        yield from run_on_cluster(map(resumable, tasks), settings, on_progress, cancelled)


def run_here(
    tasks: Iterable[Task], model: Model, on_progress: ProgressCallback, cancelled: CancelCheck
) -> Iterator[Outcome]:
    """Yield the outcome of one task after the other; the model is loaded once."""
    for task in tasks:
        stop_if(cancelled)
        yield attempt(task, model, on_progress, cancelled)
