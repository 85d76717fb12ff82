"""Attempts on the processes of a dask cluster, on this machine or many.

An attempt whose worker dies is made again by another one, and attempts that were lost with the scheduler are handed in
again once there is one; since a run folder appears only when it is whole, an attempt that went through unheard is found
and not repeated.
"""

from __future__ import annotations

import functools
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from stimage_qupath import errors, process
from stimage_qupath.config import PredictSettings, SeveralSettings
from stimage_qupath.errors import DeviceMemoryError, MissingPartError, StimageError, UsageError
from stimage_qupath.models.checkpoint import Model, load_model
from stimage_qupath.pipeline.tasks import Outcome, Task, attempt, here
from stimage_qupath.results import CancelCheck, ProgressCallback, no_progress, stop_if

POLL_S: Final = 0.2
WORKER_POLL_S: Final = 2.0
"""How often an attempt on a cluster asks whether it is still wanted."""
FIRST_PATIENCE_S = 10.0
"""How long a scheduler is looked for at the start."""
PATIENCE_S: Final = 60.0
"""How long a lost scheduler is waited for."""
ATTEMPTS: Final = 3
"""Of one image, where workers die under it, and of the whole, where the scheduler does."""


def run_on_cluster(
    tasks: Iterable[Task], settings: SeveralSettings, on_progress: ProgressCallback, cancelled: CancelCheck
) -> Iterator[Outcome]:
    """Yield outcomes as they come from the processes of a cluster."""
    distributed = _distributed()
    waiting = {task.number: task for task in tasks}
    total = len(waiting)
    for number_of_tries in range(ATTEMPTS):
        if not waiting:
            return
        patience_s = PATIENCE_S if number_of_tries else FIRST_PATIENCE_S
        workers = min(settings.workers, total)
        with _client(distributed, settings, workers, patience_s=patience_s) as client:
            for outcome in _round(distributed, client, waiting, cancelled):
                del waiting[outcome.number]
                on_progress("images", total - len(waiting), total, f"{len(client.scheduler_info()['workers'])} workers")
                yield outcome
    for number in sorted(waiting):
        lost = StimageError(
            f"expected a result from the cluster, found the scheduler lost {ATTEMPTS} times; use --resume"
        )
        yield Outcome(number, None, lost, "", 0.0)


def _round(distributed: Any, client: Any, waiting: dict[int, Task], cancelled: CancelCheck) -> Iterator[Outcome]:
    """Hand in what waits and yield what comes back, until all is done or the scheduler is lost."""
    word = secrets.token_hex(8)
    stop = distributed.Event(f"stimage-stop-{word}", client=client)
    futures = {
        number: client.submit(
            _attempt_remotely, number, task.name, task.settings.to_dict(), word, key=f"stimage-{word}-{number}"
        )
        for number, task in waiting.items()
    }
    while futures:
        if cancelled():
            _stop(client, stop, futures)
            stop_if(cancelled)
        if client.status != "running":
            return
        for number in [number for number, future in futures.items() if future.status != "pending"]:
            future = futures.pop(number)
            if future.status in ("cancelled", "lost"):
                return
            yield _outcome(number, future)
        time.sleep(POLL_S)


def _stop(client: Any, stop: Any, futures: dict[int, Any]) -> None:
    """Tell attempts to end, and wait for those that run: each cleans up after itself."""
    try:
        stop.set()
        until = time.monotonic() + 5 * WORKER_POLL_S
        running = {key for keys in client.processing().values() for key in keys}
        client.cancel([future for future in futures.values() if future.key not in running])
        while time.monotonic() < until and any(f.status == "pending" for f in futures.values() if f.key in running):
            time.sleep(POLL_S)
    except (OSError, TimeoutError):
        return  # the scheduler is gone; attempts see that too and end


def _outcome(number: int, future: Any) -> Outcome:
    """Return what a future holds: an outcome, or the end of its worker."""
    if future.status == "error":
        fault = future.exception()
        if type(fault).__name__ == "KilledWorker":
            said = f"expected a result, found that the image ended {ATTEMPTS} workers; give them more memory"
            return Outcome(number, None, DeviceMemoryError(said), "", 0.0)
        said = f"expected a result from the cluster, found {fault!r}; see the worker's log"
        return Outcome(number, None, StimageError(said), "", 0.0)
    found = future.result()
    failure = None
    if found["error"] is not None:
        kind = getattr(errors, found["error"]["type"], StimageError)
        failure = kind(found["error"]["message"])
    return Outcome(number, found["record"], failure, found["where"], found["seconds"])


def _attempt_remotely(number: int, name: str, values: dict[str, Any], word: str) -> dict[str, Any]:
    """Predict for one image in a worker; returns plain values, so that both sides may differ in version."""
    task = Task(number, name, PredictSettings.from_dict(values))
    _choose_gpu()
    try:
        model = _model(task.settings.model)
        found = attempt(task, model, no_progress, _unwanted(word))
    except StimageError as error:
        found = Outcome(number, None, error, here(), 0.0)
    fault = None
    if found.failure is not None:
        fault = {"type": type(found.failure).__name__, "message": str(found.failure)}
    return {"record": found.record, "error": fault, "where": found.where, "seconds": found.seconds}


@functools.lru_cache(maxsize=1)
def _model(name: str) -> Model:
    return load_model(name)


def _choose_gpu() -> None:
    """Give each worker of a machine with several GPUs one of them."""
    import torch

    if torch.cuda.device_count() > 1:
        from distributed import get_worker

        name = get_worker().name
        torch.cuda.set_device((name if isinstance(name, int) else os.getpid()) % torch.cuda.device_count())


def _unwanted(word: str) -> Callable[[], bool]:
    """Return a check that asks the scheduler, now and then, whether the attempt is still wanted."""
    from distributed import Event, get_worker

    stop = Event(f"stimage-stop-{word}")
    worker = get_worker()
    asked, answer = time.monotonic(), False

    def check() -> bool:
        nonlocal asked, answer
        if not answer and time.monotonic() - asked > WORKER_POLL_S:
            try:
                answer = worker.status.name not in ("running", "paused") or bool(stop.is_set())
            except (OSError, RuntimeError, TimeoutError):
                answer = True  # no scheduler, nobody to hand the result to
            asked = time.monotonic()
        return answer

    return check


@contextmanager
def _client(distributed: Any, settings: SeveralSettings, workers: int, *, patience_s: float) -> Iterator[Any]:
    """Lend a client of the cluster; it ends with the processes that were started for it."""
    if settings.scheduler is not None:
        try:
            client = distributed.Client(settings.scheduler, timeout=patience_s, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            msg = f"expected a dask scheduler at {settings.scheduler}, found none ({error}); start it, or leave it out"
            raise UsageError(msg) from error
        with client:
            yield client
        return
    import dask

    before = dict(os.environ)
    try:
        chosen = {
            "distributed.nanny.pre-spawn-environ": _environment(workers),
            "distributed.worker.profile.enabled": False,  # its hundred looks a second cost a tenth of the time
            "distributed.worker.preload": [process.__name__],
        }
        with dask.config.set(chosen):
            client = distributed.Client(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                memory_limit=0,  # blocks bound it; to be killed at a guess would cost the run
                set_as_default=False,
            )
        with client:
            yield client
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]  # dask sets them here too


def _environment(workers: int) -> dict[str, str]:
    """Return the environment in which the processes on this machine start; what the user has set wins.

    The cores are shared out, and waiting is passive as in the command. dask's own settings would also give memory back
    to the system at once and fetch it again for the next block, which took a quarter of the time.
    """
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}


def _distributed() -> Any:
    try:
        import dask
        import distributed
    except ImportError as error:
        msg = 'expected dask.distributed, found none; python -m pip install "stimage-qupath[dask]"'
        raise MissingPartError(msg) from error
    dask.config.set({"distributed.scheduler.allowed-failures": ATTEMPTS - 1})
    return distributed
