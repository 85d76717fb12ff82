"""A QuPath project in, a run folder for each of its images out, and on request the nuclei back into the project.

``OUTPUT/run.json`` holds the table of images; it is written anew after each, so that an interrupted run still tells
what was done. An image that fails does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from stimage_qupath import names
from stimage_qupath.config import PredictSettings, ProjectSettings
from stimage_qupath.errors import (
    AnnotationError,
    CancelledError,
    ImageError,
    MissingPartError,
    PartialFailureError,
    StimageError,
    UsageError,
)
from stimage_qupath.geojson_dialect import write_annotations
from stimage_qupath.models.checkpoint import Model, load_model
from stimage_qupath.pipeline.executor import run_all
from stimage_qupath.pipeline.new_project import create_project
from stimage_qupath.pipeline.several import claim, whole_run_lock, write_table
from stimage_qupath.pipeline.signature_scores import SignatureScores
from stimage_qupath.pipeline.tasks import Task, absolute
from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.guards import fingerprint, undo
from stimage_qupath.qupath.qpproj import Project, ProjectImage, read_project
from stimage_qupath.qupath.relocate import find_image, parse_path_maps
from stimage_qupath.qupath.source import ObjectSource, choose_source
from stimage_qupath.qupath.stored import area_regions
from stimage_qupath.regions.annotations import select_regions
from stimage_qupath.results import (
    CancelCheck,
    ProgressCallback,
    Region,
    never_cancelled,
    no_progress,
    stop_if,
)
from stimage_qupath.slide.calibration import pixel_size, require_square
from stimage_qupath.slide.view import open_view

P = ParamSpec("P")
R = TypeVar("R")

KIND: Final = "project"
MANY_CELLS: Final = 200_000
"""Objects of one image from which QuPath's window becomes slow."""


@dataclass(slots=True)
class _Row:
    """One image in the table of ``run.json``."""

    id: str
    name: str
    status: str = "waiting"
    run: str | None = None
    cells: int | None = None
    regions: int | None = None
    read: str | None = None
    warnings: list[str] = field(default_factory=list)
    written: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    def fail(self, failure: StimageError) -> None:
        """Note why the image failed."""
        self.status = "failed"
        self.error = {"type": type(failure).__name__, "message": str(failure), "exit_code": failure.exit_code}

    def record(self) -> dict[str, Any]:
        """Return the row as JSON can hold it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def run(
    settings: ProjectSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Predict for each chosen image of a project.

    Parameters
    ----------
    settings
        What to do.
    on_progress, cancelled
        Progress and cancellation.

    Returns
    -------
    dict
        The record as in ``OUTPUT/run.json``.

    Raises
    ------
    PartialFailureError
        Some images failed; the others are done, the table says which.
    StimageError
        Of the kind that fits, where nothing could be done, or the only image failed.
    """
    path_maps = parse_path_maps(settings.path_maps)
    with ExitStack() as stack:
        client = None if settings.java == "never" else stack.enter_context(BridgeClient())
        if settings.write_back and (client is None or not client.has_qupath()):
            msg = "expected QuPath to write the project, found none; install it or set PAQUO_QUPATH_DIR to its folder"
            raise MissingPartError(msg)
        images: Sequence[ProjectImage] = ()
        if not settings.create_project:
            images = _choose(read_project(settings.image), settings.images)
        if settings.nuclei is not None and len(images) != 1:
            msg = f"expected one image of a project with a file of nuclei, found {len(images)}; choose it with --images"
            raise UsageError(msg)
        model = load_model(settings.model)
        model.choose_genes(settings.genes)  # a wrong name is one error, not one an image
        SignatureScores.of(settings.signatures, model.ensemble)
        claim(settings, KIND)
        stack.enter_context(whole_run_lock(settings))
        if settings.create_project:
            settings = replace(settings, write_back=create_project(settings, client))
        project = read_project(settings.image)
        images = images or project.images
        table = [_Row(image.id, image.name) for image in images]
        flow = _Flow(settings, model, project, path_maps, choose_source(project, client), client)
        failures: list[StimageError] = []
        record = write_table(settings, KIND, [row.record() for row in table], project=_said_of(project))
        for row, failure in _all(flow, table, images, on_progress, cancelled):
            if failure is not None:
                row.fail(failure)
                failures.append(failure)
            record = write_table(settings, KIND, [row.record() for row in table], project=_said_of(project))
        on_progress("images", len(images), len(images), "")
    return _finish(record, table, failures)


def _all(
    flow: _Flow,
    table: Sequence[_Row],
    images: Sequence[ProjectImage],
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> Iterator[tuple[_Row, StimageError | None]]:
    """Yield each row once its image is done, with the failure if it failed."""
    prepared: dict[int, _Prepared] = {}
    unfit: list[tuple[_Row, StimageError | None]] = []

    def tasks() -> Iterator[Task]:
        for number, (row, image) in enumerate(zip(table, images, strict=True)):
            stop_if(cancelled)
            on_progress("images", number, len(images), image.name)
            found, failure = _try(flow.prepare, row, image)
            if found is None:
                unfit.append((row, failure))
            else:
                prepared[number] = found
                yield Task(number, image.name, found.settings)

    for outcome in run_all(tasks(), flow.settings, flow.model, on_progress, cancelled):
        yield from unfit
        unfit.clear()
        row, failure = table[outcome.number], outcome.failure
        if outcome.record is not None:
            _, failure = _try(flow.take, row, prepared[outcome.number], outcome.record, on_progress, cancelled)
        yield row, failure
    yield from unfit


def _try(step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R | None, StimageError | None]:
    """Return what a step returns, or why it failed; cancelling is no failure."""
    try:
        return step(*args, **kwargs), None
    except CancelledError:
        raise
    except StimageError as error:
        return None, error


def _finish(record: dict[str, Any], table: list[_Row], failures: list[StimageError]) -> dict[str, Any]:
    """Return the record, or raise what the table adds up to."""
    if failures and len(table) == 1:
        raise failures[0]
    if failures:
        named = "; ".join(f"{row.name}: {row.error['message']}" for row in table if row.error)
        msg = f"expected {len(table)} images to pass, found {len(failures)} failed ({named}); see {record['output']}"
        raise PartialFailureError(msg)
    if all(row.status == "skipped" for row in table):
        msg = f"expected annotations of the classes, names or ids given, found none in {len(table)} images; check them"
        raise AnnotationError(msg)
    return record


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An image that is ready to be predicted.

    Attributes
    ----------
    image
        As the project has it.
    settings
        Of its prediction.
    before
        Fingerprint of its data when they were read.
    regions
        How many were chosen.
    """

    image: ProjectImage
    settings: PredictSettings
    before: str | None
    regions: int


@dataclass(frozen=True, slots=True)
class _Flow:
    """What all images of a run share."""

    settings: ProjectSettings
    model: Model
    project: Project
    path_maps: dict[str, str]
    source: ObjectSource
    client: BridgeClient | None

    def prepare(self, row: _Row, image: ProjectImage) -> _Prepared | None:
        """Read what the project says of an image; None where it has none of the chosen annotations."""
        path = find_image(self.project, image, self.path_maps)
        self._check_view(image)
        before = fingerprint(image.data_path)
        regions = self._regions(row, image)
        if regions is None:
            row.status = "skipped"
            return None
        folder = self.settings.output / names.folder_name(f"{image.id}-{image.name}")
        annotations = self._save_regions(folder, regions)
        _check_size(path, image)
        one = self.settings.of_image(
            image=path,
            output=folder,
            annotations=annotations,
            mpp=self._mpp(image),
            view=image.view,
            classes=(),  # the file holds the chosen regions alone
            region_names=(),
            region_ids=(),
        )
        return _Prepared(image, absolute(one), before, len(regions))

    def take(
        self,
        row: _Row,
        prepared: _Prepared,
        record: dict[str, Any],
        on_progress: ProgressCallback,
        cancelled: CancelCheck,
    ) -> None:
        """Note a finished prediction and, on request, write it back."""
        folder = Path(record["output"])
        row.run, row.cells, row.regions = folder.name, record["cells"], prepared.regions
        row.warnings += record["warnings"]
        if row.cells is not None and row.cells > MANY_CELLS:
            row.warnings.append(f"{row.cells:,} objects make QuPath's window slow; annotate smaller regions to browse")
        if self.settings.write_back and self.client is not None:
            stop_if(cancelled)
            row.written = self._write_back(prepared.image, folder, prepared.before, on_progress)
        row.status = "done"

    def _check_view(self, image: ProjectImage) -> None:
        """Refuse what QuPath shows and we do not read."""
        if image.unsupported:
            kind = image.unsupported
            msg = f"expected an image as in its file, turned or cropped, found {image.name}: '{kind}'; add the original"
            raise ImageError(msg)

    def _regions(self, row: _Row, image: ProjectImage) -> tuple[Region, ...] | None:
        """Return the chosen annotations, () where tissue is to be found, None where the image has none of those."""
        row.read = self.source.route
        found = area_regions(self.source.objects(image, kinds=("annotation",)))
        wanted = self.settings
        if wanted.classes or wanted.region_names or wanted.region_ids:
            try:
                selection = {"classes": wanted.classes, "names": wanted.region_names, "ids": wanted.region_ids}
                found = tuple(select_regions(found, **selection))
            except AnnotationError as error:
                row.warnings.append(str(error))
                return None
        return _of_one_plane(found, row)

    def _save_regions(self, folder: Path, regions: tuple[Region, ...]) -> Path | None:
        """Write the regions beside the run, so that it can be repeated without the project."""
        if not regions:
            return None
        path = folder.with_name(f"{folder.name}.regions.geojson")
        write_annotations(path, regions, force=True)
        return path

    def _mpp(self, image: ProjectImage) -> float | None:
        """Return the pixel size: the user's, else QuPath's, else None for the file's own."""
        if self.settings.mpp is not None or image.pixel_um is None:
            return self.settings.mpp
        require_square(*image.pixel_um, what=image.name)
        return pixel_size(sum(image.pixel_um) / 2, None, what=image.name)

    def _write_back(
        self, image: ProjectImage, folder: Path, before: str | None, on_progress: ProgressCallback
    ) -> dict[str, Any]:
        if self.client is None:
            msg = "expected QuPath's process, found none"
            raise StimageError(msg)
        on_progress("write back", 0, 0, image.name)
        try:
            written: dict[str, Any] = self.client.ask(
                "write",
                on_progress=lambda done, total: on_progress("write back", done, total, image.name),
                project=str(self.project.path),
                image=image.id,
                run=str(folder.resolve()),
                expected=before,
                path_map=self.path_maps,
                clear_dead_locks=self.settings.clear_dead_locks,
            )
        except (KeyboardInterrupt, CancelledError):
            self.client.kill()
            undo(image.data_path, before)
            raise
        return written


def _of_one_plane(regions: tuple[Region, ...], row: _Row) -> tuple[Region, ...]:
    """Return the regions of the first plane that has some; a run is of one plane."""
    planes = sorted({(region.z, region.t) for region in regions})
    if len(planes) < 2:
        return regions
    z, t = planes[0]
    kept = tuple(region for region in regions if (region.z, region.t) == (z, t))
    row.warnings.append(f"{len(regions) - len(kept)} annotations on another plane than z {z}, t {t} were left out")
    return kept


def _choose(project: Project, pattern: str) -> Sequence[ProjectImage]:
    images = [image for image in project.images if fnmatchcase(image.name, pattern)]
    if not images:
        listed = ", ".join(image.name for image in project.images[:5]) or "none"
        msg = f"expected images that match '{pattern}' in {project.path}, found none; the project has {listed}"
        raise UsageError(msg)
    return images


def _check_size(path: Path, image: ProjectImage) -> None:
    """Refuse an image of another size than QuPath shows: every coordinate would be off."""
    if image.width is None or image.height is None:
        return
    with open_view(path, image.view) as slide:
        found = slide.width, slide.height
    if found != (image.width, image.height):
        how = "" if image.is_cropped_to_bounds else " (it was added with --no-crop)"
        msg = (
            f"expected {image.width} x {image.height} px as in QuPath, found {found[0]} x {found[1]} in {path.name}"
            f"{how}; it is another image, or QuPath reads it in another way: add it to the project again"
        )
        raise ImageError(msg)


def _said_of(project: Project) -> dict[str, Any]:
    return {"path": str(project.path), "qupath_version": project.qupath_version, "images": len(project.images)}
