"""The process: arguments, standard output, signals, and its end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from stimage_qupath.errors import CancelledError
from stimage_qupath.worker.channel import Channel
from stimage_qupath.worker.job import Job, attempt
from stimage_qupath.worker.predicting import check, predict
from stimage_qupath.worker.validating import validate
from stimage_qupath.worker.watch import watch


def main(arguments: list[str] | None = None) -> NoReturn:
    """Do the request named in ``arguments`` and end the process.

    Parameters
    ----------
    arguments
        As after the word ``worker``; None takes them from the command line.
    """
    parser = argparse.ArgumentParser(prog="stimage-qupath worker", description="Started by QuPath's scripts.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--request", type=Path, help="request.json")
    what.add_argument("--validate", type=Path, help="settings of a validation, JSON; the job folder is its own")
    what.add_argument(
        "--check", action="store_true", help="load the model and answer; the job folder is the current one"
    )
    chosen = parser.parse_args(sys.argv[2:] if arguments is None else arguments)
    folder = Path.cwd() if chosen.check else (chosen.request or chosen.validate).absolute().parent
    job = Job(folder, Channel(_take_stdout()))
    signal.signal(signal.SIGTERM, partial(_on_signal, job))
    signal.signal(signal.SIGINT, partial(_on_signal, job))
    threading.Thread(target=watch, args=(job,), name="watch", daemon=True).start()
    task = partial(validate, job, chosen.validate) if chosen.validate else partial(predict, job, chosen.request)
    error = attempt(partial(check, job) if chosen.check else task)
    if isinstance(error, CancelledError):
        error = CancelledError(f"cancelled: {job.stop_reason}")
    code = job.answer(error)
    sys.stderr.flush()
    os._exit(code)  # threads of a reader that still waits for a disk must not keep a finished process


def _take_stdout() -> IO[bytes]:
    """Return standard output for the protocol alone; whatever else is printed, from C too, goes to standard error."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return ours


def _on_signal(job: Job, number: int, frame: FrameType | None) -> None:
    job.stop(f"signal {number}")
