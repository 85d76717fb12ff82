"""What ``segment`` and ``predict`` are asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.config.choices import DEVICES, MOST_EXPANSION_UM, SEGMENTERS, STARDIST, STARTER, Measurements, Unit
from stimage_qupath.errors import UsageError

Classify: TypeAlias = Literal["auto", "always", "never"]
Executor: TypeAlias = Literal["local", "dask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings(Settings):
    """Find nuclei in the regions of one image.

    Attributes
    ----------
    image
        Slide.
    output
        Run folder to make.
    annotations
        QuPath GeoJSON; None finds tissue automatically.
    classes, region_names, region_ids
        Which annotations; empty means all.
    mpp
        um per level-0 pixel; None takes what the image states.
    view
        What of the file is read and how QuPath shows it, see :func:`stimage_qupath.slide.view.open_view`; empty: the
        first image, as the file holds it, on the plane of the annotations.
    segmenter
        Backend that outlines nuclei: ``classical``, ``he`` (ships with the package), ``stardist`` or
        ``stardist:FOLDER`` (a StarDist 2D model, or one of ``train-nuclei``).
    nuclei_precision
        Of a network that outlines nuclei: ``float32``, or ``bfloat16``, which is faster and not the same to the last
        digit.
    download
        Fetch StarDist's public H&E model from its release where it is asked for and missing.
    cell_expansion_um
        How far a cell reaches beyond its nucleus; 0 makes nuclei alone.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    threads
        Blocks read ahead.
    max_bad_tiles
        Share of unreadable tiles up to which a run goes on.
    force
        Replace an existing run folder.
    resume
        Go on where a run into ``output`` was interrupted, and keep what is finished if this one is.
    clear_dead_locks
        Take over locks of other machines that were not renewed for minutes.
    """

    image: Path
    output: Path
    annotations: Path | None = None
    classes: tuple[str, ...] = ()
    region_names: tuple[str, ...] = ()
    region_ids: tuple[str, ...] = ()
    mpp: float | None = None
    view: tuple[str, ...] = ()
    segmenter: str = "classical"
    nuclei_precision: Literal["float32", "bfloat16"] = "float32"
    download: bool = False
    cell_expansion_um: float = 0.0
    device: str = "auto"
    threads: int = 2
    max_bad_tiles: float = 0.01
    force: bool = False
    resume: bool = False
    clear_dead_locks: bool = False

    flow: ClassVar[str] = "segment"

    def _check(self) -> None:
        one_of("device", self.device, DEVICES)
        if not self.segmenter.startswith(f"{STARDIST}:"):
            one_of("segmenter", self.segmenter, SEGMENTERS)
        at_least("threads", self.threads, 1)
        if not 0 <= self.max_bad_tiles <= 1:
            msg = f"expected max_bad_tiles between 0 and 1, found {self.max_bad_tiles}"
            raise UsageError(msg)
        if not 0 <= self.cell_expansion_um <= MOST_EXPANSION_UM:
            msg = f"expected cells to grow by 0 to {MOST_EXPANSION_UM:g} um, found {self.cell_expansion_um}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSettings(SegmentSettings):
    """Find nuclei and predict the gene panel for each.

    Attributes
    ----------
    model
        ``starter`` or the path of a model folder.
    genes
        Genes written to QuPath and the table; empty means the model's default list. The whole panel is in
        ``cells.h5ad``.
    nuclei
        File of nuclei that are there already (see :func:`stimage_qupath.nuclei.foreign_reader.read_nuclei`); they are
        taken as they are, with id and class. None outlines them with ``segmenter``.
    unit
        ``cells``: a window on each nucleus; ``grid``: windows on a grid, between which nuclei interpolate.
    stride_um
        Spacing of the grid.
    measurements
        ``short``, or ``all`` to add the 5th and 95th percentile.
    intervals
        Percentiles of the whole panel in ``cells.h5ad``.
    batch_size
        Tiles a forward pass; None chooses.
    seed
        Recorded with the run.
    overview
        Draw ``overview_<GENE>.png``.
    report
        Make ``report.html`` in the finished run.
    explain
        Genes whose prediction is explained nucleus by nucleus once the run is finished.
    cell_types
        Folders of cell-type models, each of another level.
    classify
        Whether nuclei that this package outlines get the most probable class: ``auto`` from a model of nuclei alone,
        ``always`` from the first model where there is none, or ``never``.
    signatures
        Gene signatures scored for each nucleus: words of :data:`stimage_qupath.signatures.library.LINEAR` or GMT files.
    """

    model: str = STARTER
    genes: tuple[str, ...] = ()
    explain: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    cell_types: tuple[str, ...] = ()
    classify: Classify = "auto"
    nuclei: Path | None = None
    unit: Unit = "cells"
    stride_um: float | None = None
    measurements: Measurements = "short"
    intervals: bool = False
    batch_size: int | None = None
    seed: int = 0
    overview: bool = True
    report: bool = False

    flow: ClassVar[str] = "predict"

    def _check(self) -> None:
        SegmentSettings._check(self)
        if self.batch_size is not None:
            at_least("batch_size", self.batch_size, 1)
        if self.classify == "always" and not self.cell_types:
            msg = "expected a cell-type model to classify nuclei by, found none; pass --cell-types"
            raise UsageError(msg)
        if self.stride_um is not None and self.unit != "grid":
            msg = "expected a stride only with a grid, found one with cells; pass --unit grid, or leave --stride-um out"
            raise UsageError(msg)
        if self.stride_um is not None and not 1 <= self.stride_um <= 1000:
            msg = f"expected a stride between 1 and 1000 um, found {self.stride_um}"
            raise UsageError(msg)
        if self.nuclei is not None and self.segmenter != type(self).__dataclass_fields__["segmenter"].default:
            msg = f"expected a file of nuclei or a segmenter, found both ({self.segmenter}); leave --segmenter out"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeveralSettings(PredictSettings):
    """Predict for several images; ``image`` says which.

    Attributes
    ----------
    executor
        ``local`` takes one image after the other, ``dask`` several at once.
    scheduler
        Address of a dask scheduler, such as ``tcp://host:8786``; None starts processes on this machine.
    workers
        Processes of this machine.
    """

    executor: Executor = "local"
    scheduler: str | None = None
    workers: int = 2

    def _check(self) -> None:
        PredictSettings._check(self)
        at_least("workers", self.workers, 1)
        if self.scheduler is not None and self.executor != "dask":
            msg = "expected a scheduler only with dask, found one with local; pass --executor dask"
            raise UsageError(msg)

    def of_image(self, **changes: Any) -> PredictSettings:
        """Return the settings of one image's prediction."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(PredictSettings)}
        return PredictSettings(**(shared | changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSettings(SeveralSettings):
    """Predict for the images of a QuPath project; ``image`` is the project.

    Attributes
    ----------
    images
        Which images, by name with ``*`` and ``?``; for a new project the files that it shall hold: a folder, a file or
        a pattern.
    write_back
        Put the nuclei into the project.
    path_maps
        ``OLD=NEW`` beginnings of image paths, for a project that came from another machine.
    create_project
        Make the project, out of ``images``, and put the nuclei into it where there is a QuPath.
    java
        ``auto`` reads annotations through QuPath where there is one, ``never`` without.
    """

    images: str = "*"
    write_back: bool = False
    path_maps: tuple[str, ...] = ()
    create_project: bool = False
    java: Literal["auto", "never"] = "auto"

    flow: ClassVar[str] = "predict project"

    def _check(self) -> None:
        SeveralSettings._check(self)
        given = [name for name in ("annotations", "view") if getattr(self, name)]
        if given:
            msg = f"expected a project, which brings its own annotations and views, found {' and '.join(given)} too"
            raise UsageError(msg)
        if self.create_project and self.images == "*":
            msg = "expected the images of a new project, found none; pass --images with a folder, a file or a pattern"
            raise UsageError(msg)
        if self.write_back and self.java == "never":
            msg = "expected QuPath for a write-back, found java 'never'; leave one of the two out"
            raise UsageError(msg)
