"""What the worker does with a request: its images, one after the other, with one model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimage_qupath.errors import CancelledError, PartialFailureError, StimageError, UnknownModelError, UsageError
from stimage_qupath.request import ImageRequest, Request, read_request
from stimage_qupath.results import ProgressCallback
from stimage_qupath.worker.job import RESPONSE_FILE, Job, attempt, described

if TYPE_CHECKING:  # torch and all: seconds, so only after `started`
    from stimage_qupath.config import PredictSettings
    from stimage_qupath.models.checkpoint import Model

ANSWERED = ("folder", "cells", "device", "genes", "warnings", "research_use", "seconds", "stages", "regions")
"""What the answer says of an image that is done."""


def check(job: Job) -> None:
    """Load everything a prediction needs, without an image."""
    job.channel.started(device="auto", images=0)
    with job.stage("loading the package"):
        from stimage_qupath.config import STARTER
        from stimage_qupath.models.checkpoint import load_model
        from stimage_qupath.pipeline import record  # noqa: F401 - the answer states its versions
    with job.stage("loading the model"):
        load_model(STARTER)


def predict(job: Job, path: Path) -> None:
    """Read the request and predict its images one after the other."""
    request = job.request = read_request(path)
    (job.folder / RESPONSE_FILE).unlink(missing_ok=True)
    job.channel.started(run_id=request.run_id, device=request.device, images=len(request.images))
    job.images = [{"id": i.id, "name": i.name, "status": "not started"} for i in request.images]
    with job.stage("loading the package"):
        from stimage_qupath.pipeline import predict as flow  # noqa: F401 - long, so it has a stage of its own
    with job.stage("loading the model"):
        model = _model(request)
    errors: list[StimageError] = []
    for number, image in enumerate(request.images):
        about = job.images[number] = {**job.images[number], "status": "running"}
        error = attempt(partial(_predict_image, job, request, image, model, about))
        if isinstance(error, CancelledError):
            about |= {"status": "not started"}
            raise error
        about |= {"status": "done" if error is None else "failed", "error": described(error)}
        about |= {"exit_code": 0 if error is None else error.exit_code}
        errors += [] if error is None else [error]
    _raise_for(errors, of=len(request.images))


def _model(request: Request) -> Model:
    """Load the model, once for all images; refuse one that is not the one QuPath meant, or lacks a gene."""
    from stimage_qupath.models.checkpoint import load_model

    model = load_model(request.model.id)
    if request.model.sha256 not in (None, model.sha256):
        msg = f"expected model {request.model.id} with sha256 {request.model.sha256}, found {model.sha256}; "
        msg += "choose it again"
        raise UnknownModelError(msg)
    model.choose_genes(request.genes)
    return model


def _predict_image(job: Job, request: Request, image: ImageRequest, model: Model, about: dict[str, Any]) -> None:
    """Predict one image and note in ``about`` what came of it."""
    from stimage_qupath.pipeline import predict as flow

    _check_view(image)
    report: ProgressCallback = partial(job.channel.progress, image.id)
    report("opening the image", 0, 0, image.name)
    record = flow.run(_settings(request, image), report, job.cancelled, model=model, keep_blocks=False)
    found = {**record, "folder": record["output"], **_index(Path(record["output"]))}
    about |= {key: found[key] for key in ANSWERED}


def _check_view(image: ImageRequest) -> None:
    """Refuse an image that QuPath shows otherwise than we read it: every coordinate would be off.

    Raises
    ------
    UsageError
        It has another size, or pixels that are not square.
    """
    from stimage_qupath.slide.calibration import require_square
    from stimage_qupath.slide.view import open_view

    if image.pixel_um is not None:
        require_square(*image.pixel_um, what=image.name)
    with open_view(image.path, image.view) as slide:
        size = slide.width, slide.height
    if size != (image.width, image.height):
        msg = f"expected {image.name} of {image.width} x {image.height} px as QuPath shows it, found "
        msg += f"{size[0]} x {size[1]} px in {image.path.name}; open the whole image in QuPath, not a part of it"
        raise UsageError(msg)


def _settings(request: Request, image: ImageRequest) -> PredictSettings:
    from stimage_qupath.config import PredictSettings

    return PredictSettings(
        image=image.path,
        output=request.output / image.folder_name,
        annotations=image.regions,
        mpp=None if image.pixel_um is None else sum(image.pixel_um) / 2,
        view=image.view,
        model=request.model.id,
        genes=request.genes,
        explain=request.explain,
        unit=request.unit,
        stride_um=request.stride_um,
        segmenter=request.segmenter,
        nuclei=request.nuclei,
        cell_expansion_um=request.cell_expansion_um,
        measurements=request.measurements,
        device=request.device,
        batch_size=request.batch_size,
        seed=request.seed or 0,
    )


def _index(folder: Path) -> dict[str, Any]:
    """Return genes and regions of a run, as its ``run.json`` has them."""
    from stimage_qupath.export.run_reader import read_run

    run = read_run(folder)
    regions = [{"id": s.region.id, "first": s.first, "count": s.count, "first_id": s.first_id} for s in run.spans]
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
