"""QuPath's entry: a request in, JSON lines out.

Protocol, version 1
-------------------
Started as ``python -u -X utf8 -m stimage_qupath worker --request FILE``. ``FILE`` is a request as
:mod:`stimage_qupath.request` and ``schema/request.schema.json`` describe it; its folder is the *job folder*.

Standard output carries one JSON object a line, ASCII, finite numbers only, each line prefixed ``@@STIMAGE ``. Anything
else that Python or a library prints goes to standard error, which is for the log. ``event`` tells the objects apart:

``started``    ``api``, ``run_id``, ``package`` (version), ``device`` (as asked for), ``images`` (how many). First,
               before anything heavy is loaded; absent when the request is no good.
``progress``   ``image`` (id, or null), ``stage``, ``done``, ``total`` (0: unknown), ``message``. At least every 5 s in
               every stage, importing and loading included.
``done``, ``failed``, ``cancelled``
               The terminal answer, exactly one, last line; its fields are those of ``response.json``.

Each image becomes a run folder ``<output>/image-<id>``. An image that fails does not stop the others.

``response.json`` appears in the job folder, whole or not at all, before the terminal line: ``api``, ``run_id``,
``status`` (``done``, ``failed``, ``cancelled``), ``exit_code``, ``error`` (null, or ``type``, ``message``, ``hint``),
``images``, ``seconds``, ``versions``, ``peak_memory_mib``. Each of ``images`` has ``id``, ``name`` and ``status``
(``done``, ``failed``, ``not started``); unless not started, ``exit_code`` and ``error``; and when done, ``folder``,
``cells``, ``device``, ``genes``, ``warnings``, ``research_use``, ``seconds``, ``stages`` and ``regions``: ``id``,
``first``, ``count`` and ``first_id`` (of the nucleus at ``first``) of each region in the order of ``cells.geojson.gz``.
A response that is there from before is removed first, so that a missing one means that the worker was killed.

To cancel, create the empty file ``cancel`` in the job folder, or terminate the process politely. The worker looks every
quarter of a second, and stops likewise when the process that started it is gone (``STIMAGE_PARENT_PID``, or its parent
as the system knows it). Work that has not stopped by itself a second later is abandoned: what it had half written is
removed and the process ends.

The process ends with the exit code of :mod:`stimage_qupath.errors`: 0, that of the only image or of all failed images
alike, 10 when some images failed or in different ways, 7 cancelled, 2 for a request that is no good.

``worker --check`` in place of ``--request FILE`` proves the way there and back: it loads the bundled model, without an
image, and answers in the same words; the job folder is the current one, and ``run_id`` null.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final, NoReturn

from stimage_qupath import __version__, names
from stimage_qupath.errors import CancelledError, DeviceMemoryError, PartialFailureError, StimageError, UsageError
from stimage_qupath.request import API, ImageRequest, Request, read_request
from stimage_qupath.results import ProgressCallback

PREFIX: Final = "@@STIMAGE "
CANCEL_FILE: Final = "cancel"
RESPONSE_FILE: Final = "response.json"
PARENT_VARIABLE: Final = "STIMAGE_PARENT_PID"
POLL_SECONDS: Final = 0.25
HEARTBEAT_SECONDS: Final = 2.0
"""Well under the 5 s of the protocol, as a library that is being imported can hold the interpreter for a while."""
SHORTEST_GAP_SECONDS: Final = 0.1
GRACE_SECONDS: Final = 1.0
"""From a cancel until work that does not stop by itself is abandoned."""
HINTS: Final = {
    2: "Check what was asked for, and start again.",
    3: "Run `stimage-qupath doctor`; it says what is missing and how to install it.",
    4: "Check that the image opens in QuPath and is a brightfield RGB image; copy it again if it is damaged.",
    5: "Set the pixel size in QuPath's Image tab (double-click on Pixel width), and start again.",
    6: "Close other programs, select a smaller annotation, or lower the batch size.",
    7: "Nothing was changed.",
    8: "Please report this with the end of the log.",
    9: "Free some disk space or choose a folder that can be written to.",
    10: "The other images are done; see the table for those that failed.",
}


class Channel:
    """The line to QuPath: thread-safe, silent after the terminal answer and when nobody listens."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._ended = False
        self._image: str | None = None
        self._last: dict[str, Any] = {"stage": "starting", "done": 0, "total": 0, "message": ""}
        self._sent_at = time.monotonic()

    def started(self, *, run_id: str | None = None, device: str, images: int) -> None:
        """Say that work begins."""
        about = {"api": API, "run_id": run_id, "package": __version__, "device": device, "images": images}
        self._send({"event": "started", **about})

    def progress(self, image: str | None, stage: str, done: int, total: int, message: str = "") -> None:
        """Say where the work stands, unless that was said a moment ago."""
        with self._lock:
            new = image != self._image or stage != self._last["stage"] or (total and done >= total)
            self._image = image
            self._last = {"stage": stage, "done": done, "total": total, "message": message}
            due = new or time.monotonic() - self._sent_at >= SHORTEST_GAP_SECONDS
        if due:
            self._send({"event": "progress", "image": image, **self._last})

    def heartbeat(self) -> None:
        """Repeat the last progress if nothing has been said for a while."""
        with self._lock:
            due = time.monotonic() - self._sent_at >= HEARTBEAT_SECONDS
            line = {"event": "progress", "image": self._image, **self._last}
        if due:
            self._send(line)

    def end(self, answer: dict[str, Any]) -> None:
        """Send the terminal answer; nothing follows it."""
        self._send({"event": answer["status"], **answer}, last=True)

    def _send(self, line: dict[str, Any], *, last: bool = False) -> None:
        text = PREFIX + json.dumps(line, allow_nan=False) + "\n"
        with self._lock:
            if self._ended:
                return
            self._ended = last
            self._sent_at = time.monotonic()
            with contextlib.suppress(
                OSError, ValueError
            ):  # nobody reads any more: the watch on the parent ends the run
                self._stream.write(text.encode("ascii"))
                self._stream.flush()


class Job:
    """One request being worked on: what came of each image so far, and its one terminal answer.

    Parameters
    ----------
    folder
        Job folder.
    channel
        To QuPath.
    """

    def __init__(self, folder: Path, channel: Channel) -> None:
        self.folder = folder
        self.channel = channel
        self.request: Request | None = None
        self.images: list[dict[str, Any]] = []
        self.stop_reason = ""
        self._start = time.monotonic()
        self._answered = threading.Lock()

    def cancelled(self) -> bool:
        """Return whether somebody asked to stop."""
        return bool(self.stop_reason)

    def stop(self, reason: str) -> None:
        """Ask the work to stop."""
        self.stop_reason = self.stop_reason or reason

    def answer(self, error: StimageError | None) -> int:
        """Write ``response.json``, send the terminal line, return the exit code; waits for ever if another thread did.

        The lock is never released: whoever answers first also ends the process.
        """
        self._answered.acquire()
        code = 0 if error is None else error.exit_code
        status = "done" if error is None else "cancelled" if isinstance(error, CancelledError) else "failed"
        run_id = None if self.request is None else self.request.run_id
        answer: dict[str, Any] = {
            "api": API,
            "run_id": run_id,
            "status": status,
            "exit_code": code,
            "error": described(error),
        }
        answer |= {"images": self.images, "seconds": round(time.monotonic() - self._start, 3)}
        answer |= _versions_and_memory()
        with contextlib.suppress(OSError):  # a folder that is full or gone: the line on standard output is left
            _write_whole(self.folder / RESPONSE_FILE, json.dumps(answer, allow_nan=False, indent=1))
        self.channel.end(answer)
        return code

    def abandon(self) -> NoReturn:
        """End the process although the work goes on, and remove what it had half written."""
        for number, image in enumerate(self.images):
            if image["status"] == "running":
                self.images[number] = {**image, "status": "not started"}
        self._remove_partial_folders()
        os._exit(self.answer(CancelledError(f"cancelled: {self.stop_reason}")))

    def _remove_partial_folders(self) -> None:
        """Remove the unfinished run folders of this request; renamed first, so that none is published half removed."""
        if self.request is None:
            return
        for image in self.request.images:
            for folder in self.request.output.glob(f"{image.folder_name}.*{names.PARTIAL_SUFFIX}"):
                with contextlib.suppress(OSError):  # published meanwhile; or Windows keeps it: the next run removes it
                    shutil.rmtree(folder.rename(folder.with_name(f"abandoned.{folder.name}")), ignore_errors=True)


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
    what.add_argument(
        "--check", action="store_true", help="load the model and answer; the job folder is the current one"
    )
    chosen = parser.parse_args(sys.argv[2:] if arguments is None else arguments)
    folder = Path.cwd() if chosen.check else chosen.request.absolute().parent
    job = Job(folder, Channel(_take_stdout()))
    signal.signal(signal.SIGTERM, partial(_on_signal, job))
    signal.signal(signal.SIGINT, partial(_on_signal, job))
    threading.Thread(target=_watch, args=(job,), name="watch", daemon=True).start()
    error = _attempt(partial(_check, job) if chosen.check else partial(_work, job, chosen.request))
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


def _watch(job: Job) -> None:
    """Keep QuPath informed, notice that it wants to stop or is gone, and end work that does not stop by itself."""
    parents = _Parents()
    stopped_at = 0.0
    while True:
        time.sleep(POLL_SECONDS)
        job.channel.heartbeat()
        if (job.folder / CANCEL_FILE).exists():
            job.stop("asked for in QuPath")
        elif parents.gone():
            job.stop("the program that started the worker is gone")
        if job.cancelled():
            stopped_at = stopped_at or time.monotonic()
            if time.monotonic() - stopped_at > GRACE_SECONDS:
                job.abandon()


class _Parents:
    """The process that started this one, as the system knows it and as the scripts say."""

    def __init__(self) -> None:
        from stimage_qupath.export.partial_folder import is_alive

        self._is_alive = is_alive
        self._parent = os.getppid()
        said = os.environ.get(PARENT_VARIABLE, "")
        self._said = int(said) if said.isdigit() and is_alive(int(said)) else None

    def gone(self) -> bool:
        """Return whether one of them is gone; on Windows the number of a dead parent stays, so both are asked."""
        if os.getppid() != self._parent or not self._is_alive(self._parent):
            return True
        return self._said is not None and not self._is_alive(self._said)


def _check(job: Job) -> None:
    """Load everything a prediction needs, without an image."""
    job.channel.started(device="auto", images=0)
    with _stage(job, "loading the package"):
        from stimage_qupath.config import STARTER
        from stimage_qupath.models.checkpoint import load_model
        from stimage_qupath.pipeline import record  # noqa: F401 - the answer states its versions
    with _stage(job, "loading the model"):
        load_model(STARTER)


def _work(job: Job, path: Path) -> None:
    """Read the request and predict its images one after the other."""
    request = job.request = read_request(path)
    (job.folder / RESPONSE_FILE).unlink(missing_ok=True)
    job.channel.started(run_id=request.run_id, device=request.device, images=len(request.images))
    job.images = [{"id": i.id, "name": i.name, "status": "not started"} for i in request.images]
    with _stage(job, "loading the package"):
        from stimage_qupath.pipeline import predict  # torch and all: seconds, so after `started`
    job.channel.progress(None, "loading the package", 1, 1)
    if request.model.sha256 is not None:
        _check_model(request)
    errors: list[StimageError] = []
    for number, image in enumerate(request.images):
        about = job.images[number] = {**job.images[number], "status": "running"}
        error = _attempt(partial(_predict, job, image, about, predict.run))
        if isinstance(error, CancelledError):
            about |= {"status": "not started"}
            raise error
        about |= {"status": "done" if error is None else "failed", "error": described(error)}
        about |= {"exit_code": 0 if error is None else error.exit_code}
        errors += [] if error is None else [error]
    _raise_for(errors, of=len(request.images))


@contextlib.contextmanager
def _stage(job: Job, name: str) -> Iterator[None]:
    """Announce a stage that cannot say how far it is, and leave it at once after a cancel."""
    job.channel.progress(None, name, 0, 0)
    yield
    if job.cancelled():
        msg = f"cancelled: {job.stop_reason}"
        raise CancelledError(msg)


def _check_model(request: Request) -> None:
    """Refuse a model that is not the one QuPath meant."""
    from stimage_qupath.errors import UnknownModelError
    from stimage_qupath.models.checkpoint import load_model

    found = load_model(request.model.id).sha256
    if found != request.model.sha256:
        msg = f"expected model {request.model.id} with sha256 {request.model.sha256}, found {found}; choose it again"
        raise UnknownModelError(msg)


def _predict(job: Job, image: ImageRequest, about: dict[str, Any], run: Any) -> None:
    """Predict one image and note in ``about`` what came of it."""
    if job.request is None:
        msg = "expected a request before its images, found none"
        raise StimageError(msg)
    _check_view(image)
    report: ProgressCallback = partial(job.channel.progress, image.id)
    report("opening the image", 0, 0, image.name)
    record = run(_settings(job.request, image), report, job.cancelled)
    keys = ("folder", "cells", "device", "genes", "warnings", "research_use", "seconds", "stages", "regions")
    found = {**record, "folder": record["output"], **_index(Path(record["output"]))}
    about |= {key: found[key] for key in keys}


def _check_view(image: ImageRequest) -> None:
    """Refuse an image that QuPath shows otherwise than we read it: every coordinate would be off.

    Raises
    ------
    UsageError
        Another plane or series, or of another size.
    """
    from stimage_qupath.slide.calibration import require_square
    from stimage_qupath.slide.view import open_view

    if image.z or image.t or image.series:
        msg = f"expected the first plane and series, found z {image.z}, t {image.t}, series {image.series} of "
        msg += f"{image.name}; save that plane as an image of its own"
        raise UsageError(msg)
    if image.pixel_um is not None:
        require_square(*image.pixel_um, what=image.name)
    with open_view(image.path, image.view) as slide:
        size = slide.width, slide.height
    if size != (image.width, image.height):
        msg = f"expected {image.name} of {image.width} x {image.height} px as QuPath shows it, found "
        msg += f"{size[0]} x {size[1]} px in {image.path.name}; open the whole image in QuPath, not a part of it"
        raise UsageError(msg)


def _settings(request: Request, image: ImageRequest) -> Any:
    from stimage_qupath.config import PredictSettings

    return PredictSettings(
        image=image.path,
        output=request.output / image.folder_name,
        annotations=image.regions,
        mpp=None if image.pixel_um is None else sum(image.pixel_um) / 2,
        view=image.view,
        model=request.model.id,
        genes=request.genes,
        unit=request.unit,
        stride_um=request.stride_um,
        segmenter=request.segmenter,
        measurements=request.measurements,
        device=request.device,
        batch_size=request.batch_size,
        seed=request.seed or 0,
    )


def _index(folder: Path) -> dict[str, Any]:
    """Return genes and regions of a run, each region with the id of its first nucleus."""
    from stimage_qupath.export.run_reader import read_run

    run = read_run(folder)
    ids = run.table(["cell_id"])["cell_id"]
    regions = [
        {"id": s.region.id, "first": s.first, "count": s.count, "first_id": ids[s.first] if s.count else None}
        for s in run.spans
    ]
    return {"genes": run.record["genes"], "regions": regions}


def _raise_for(errors: list[StimageError], *, of: int) -> None:
    """Raise what the request as a whole came to, if an image failed."""
    if not errors:
        return
    if of == 1:
        raise errors[0]
    msg = f"{len(errors)} of {of} images failed; the first: {errors[0]}"
    alike = len(errors) == of and len({error.exit_code for error in errors}) == 1
    raise type(errors[0])(msg) if alike else PartialFailureError(msg)


def _attempt(task: Any) -> StimageError | None:
    """Do ``task`` and return what it failed with, if it did; the trace of a fault of ours goes to the log."""
    try:
        task()
    except StimageError as error:
        return error
    except MemoryError:
        return DeviceMemoryError("memory ran out; select a smaller annotation or a smaller batch size")
    except Exception as error:  # noqa: BLE001 - the last resort: every task must still end in an answer
        traceback.print_exc()
        return StimageError(f"internal error: {error!r}")
    return None


def described(error: StimageError | None) -> dict[str, str] | None:
    """Return an error as the protocol writes it."""
    if error is None:
        return None
    return {"type": type(error).__name__, "message": str(error), "hint": HINTS.get(error.exit_code, "")}


def _versions_and_memory() -> dict[str, Any]:
    """Return both if the package is loaded by now; a bad request must not wait for that."""
    record = sys.modules.get("stimage_qupath.pipeline.record")
    if record is None or not hasattr(record, "versions"):
        return {"versions": {"stimage-qupath": __version__}, "peak_memory_mib": None}
    return {"versions": record.versions(), "peak_memory_mib": record.peak_memory_mib()}


def _write_whole(path: Path, text: str) -> None:
    """Write a file that appears only when it is whole."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
