"""What a flow is asked to do: frozen settings that refuse nonsense at birth, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from stimage_qupath.errors import UsageError

Unit = Literal["cells", "grid"]
Measurements = Literal["short", "all"]
Precision = Literal["float32", "bfloat16", "float16"]
Likelihood = Literal["nb", "poisson"]
Recalibrate = Literal["none", "temperature", "conformal", "both"]
STARTER = "starter"
BUNDLED = "bundled"
DEVICES = ("auto", "cpu", "cuda", "mps")
STAIN_NORMALISATIONS = ("none", "macenko", "reinhard", "vahadane", "auto")
MOST_AGGREGATE_UM = 500.0
PERTURBATIONS = ("stain", "blur", "jpeg", "scale")
STARDIST = "stardist"
MOST_EXPANSION_UM = 50.0
"""Half the largest cell of any tissue; more is a slip of the pen."""
HE = "he"
"""The nucleus network for H&E that ships with the package."""
SEGMENTERS = ("classical", HE, STARDIST, f"{STARDIST}:FOLDER")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Base of all settings: round trip through JSON, unknown keys refused."""

    def __post_init__(self) -> None:
        """Check the values; subclasses add their own rules in ``_check``."""
        for field in dataclasses.fields(self):
            _check_choice(field.name, getattr(self, field.name), typing.get_type_hints(type(self))[field.name])
        self._check()

    def _check(self) -> None:
        """Raise :class:`UsageError` where values contradict each other."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; paths as text with forward slashes."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_json(self) -> str:
        """Return the settings as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from plain values, for example from TOML or JSON.

        Raises
        ------
        UsageError
            A key is unknown or missing, or a value is not allowed.
        """
        hints = typing.get_type_hints(cls)
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            msg = f"expected settings out of {', '.join(sorted(known))}, found {', '.join(unknown)}"
            raise UsageError(msg)
        try:
            return cls(**{name: _typed(value, hints[name]) for name, value in values.items()})
        except TypeError as error:
            msg = f"settings are incomplete: {error}"
            raise UsageError(msg) from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from a JSON object; errors as in :meth:`from_dict`."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            msg = f"expected settings as a JSON object, found text that is not JSON: {error}"
            raise UsageError(msg) from error
        if not isinstance(values, dict):
            msg = f"expected settings as a JSON object, found {type(values).__name__}"
            raise UsageError(msg)
        return cls.from_dict(values)


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
    download: bool = False
    cell_expansion_um: float = 0.0
    device: str = "auto"
    threads: int = 2
    max_bad_tiles: float = 0.01
    force: bool = False

    flow: ClassVar[str] = "segment"

    def _check(self) -> None:
        _one_of("device", self.device, DEVICES)
        if not self.segmenter.startswith(f"{STARDIST}:"):
            _one_of("segmenter", self.segmenter, SEGMENTERS)
        _at_least("threads", self.threads, 1)
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
    explain
        Genes whose prediction is explained nucleus by nucleus once the run is finished.
    """

    model: str = STARTER
    genes: tuple[str, ...] = ()
    explain: tuple[str, ...] = ()
    nuclei: Path | None = None
    unit: Unit = "cells"
    stride_um: float | None = None
    measurements: Measurements = "short"
    intervals: bool = False
    batch_size: int | None = None
    seed: int = 0
    overview: bool = True

    flow: ClassVar[str] = "predict"

    def of_project(
        self, *, images: str, write_back: bool, path_maps: tuple[str, ...], create_project: bool = False
    ) -> ProjectSettings:
        """Return the same settings for the images of a project; see :class:`ProjectSettings`."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return ProjectSettings(
            **shared, images=images, write_back=write_back, path_maps=path_maps, create_project=create_project
        )

    def _check(self) -> None:
        SegmentSettings._check(self)
        if self.batch_size is not None:
            _at_least("batch_size", self.batch_size, 1)
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
class ProjectSettings(PredictSettings):
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
        PredictSettings._check(self)
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

    def of_image(self, **changes: Any) -> PredictSettings:
        """Return the settings of one image's prediction."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(PredictSettings)}
        return PredictSettings(**(shared | changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(Settings):
    """Train an ensemble on measured sections.

    Attributes
    ----------
    dataset
        CSV table of sections.
    output
        Model folder to make.
    name
        Name on the card.
    genes
        File with one symbol or accession a line, or a word that :func:`stimage_qupath.spots.panel_choice.choose_panel`
        knows, such as ``pam50`` or ``svg:500``; None chooses the most variable genes of the training sections.
    panel_size
        Genes to choose where no file is given.
    min_detection
        Expression floor of chosen genes: share of the spots with a count, in the section where it is highest.
    gene_table
        CSV with the columns ``gene_id, symbol``, for counts that name accessions alone.
    aggregate_um
        Add small bins and single cells up to discs of this diameter; None leaves them.
    stain_normalisation
        ``none``, ``macenko``, ``reinhard``, ``vahadane``, or ``auto``: what the inner split says is best.
    encoder
        A name that ``stimage-qupath encoders`` lists, or ``timm:<model>``; several joined by ``+`` share the members.
    encoder_weights
        Local checkpoint of the encoder, or a folder laid out as the hub's snapshot.
    precision
        What networks compute features in.
    cache
        Folder where features are kept; None takes the user's.
    no_cache
        Compute features anew and keep none.
    members
        Members of the ensemble.
    likelihood
        ``nb``, or ``poisson`` for comparison.
    recalibrate
        How intervals are corrected on out-of-fold predictions: ``conformal``, ``temperature``, ``both`` or ``none``.
    hold_out
        Sections kept out of training and scored once.
    fine_tune
        Learn the encoder further on the training sections, end to end.
    fine_tune_epochs
        Rounds of that at most; None: 20.
    learning_rate
        Of the encoder's last layer; None: 1e-4.
    licence
        Of the training data, for the card.
    seed, device, batch_size, threads, force
        As for a prediction.
    """

    dataset: Path
    output: Path
    name: str | None = None
    genes: Path | None = None
    panel_size: int = 1000
    min_detection: float = 0.2
    gene_table: Path | None = None
    aggregate_um: float | None = None
    stain_normalisation: str = "none"
    encoder: str = "context"
    encoder_weights: Path | None = None
    precision: Precision = "float32"
    cache: Path | None = None
    no_cache: bool = False
    members: int = 10
    likelihood: Likelihood = "nb"
    recalibrate: Recalibrate = "conformal"
    hold_out: tuple[str, ...] = ()
    fine_tune: bool = False
    fine_tune_epochs: int | None = None
    learning_rate: float | None = None
    licence: str = "not stated"
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    threads: int = 2
    force: bool = False

    flow: ClassVar[str] = "train"

    def _check(self) -> None:
        _one_of("device", self.device, DEVICES)
        _at_least("members", self.members, 2)
        _at_least("panel_size", self.panel_size, 1)
        _at_least("threads", self.threads, 1)
        _one_of("stain_normalisation", self.stain_normalisation, STAIN_NORMALISATIONS)
        self._check_fine_tuning()
        if not 0 <= self.min_detection <= 1:
            msg = f"expected min_detection between 0 and 1, found {self.min_detection}"
            raise UsageError(msg)
        if self.aggregate_um is not None and not 0 < self.aggregate_um <= MOST_AGGREGATE_UM:
            msg = f"expected aggregate_um above 0 and up to {MOST_AGGREGATE_UM:g}, found {self.aggregate_um}"
            raise UsageError(msg)

    def _check_fine_tuning(self) -> None:
        given = [name for name in ("fine_tune_epochs", "learning_rate") if getattr(self, name) is not None]
        if given and not self.fine_tune:
            msg = f"expected {' and '.join(given)} only with fine tuning, found it without; add --fine-tune"
            raise UsageError(msg)
        if self.fine_tune_epochs is not None:
            _at_least("fine_tune_epochs", self.fine_tune_epochs, 1)
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            msg = f"expected a learning rate above 0 and up to 1, found {self.learning_rate}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainNucleiSettings(Settings):
    """Train a nucleus network on annotated images.

    Attributes
    ----------
    dataset
        CSV table of images and their labels.
    output
        Model folder to make.
    name
        Name on the card.
    start_from
        ``bundled``, or a model folder whose weights training begins with; None: random weights.
    epochs
        Rounds through the images.
    validation_fraction
        Share of the images that epoch and thresholds are chosen on, where the table does not say which.
    seed, device, batch_size, threads, force
        As for a prediction.
    """

    dataset: Path
    output: Path
    name: str | None = None
    start_from: str | None = None
    epochs: int = 60
    validation_fraction: float = 0.2
    seed: int = 0
    device: str = "auto"
    batch_size: int = 8
    threads: int = 2
    force: bool = False

    flow: ClassVar[str] = "train-nuclei"

    def _check(self) -> None:
        _one_of("device", self.device, DEVICES)
        for name in ("epochs", "batch_size", "threads"):
            _at_least(name, getattr(self, name), 1)
        _at_least("seed", self.seed, 0)
        if not 0 < self.validation_fraction < 1:
            msg = f"expected validation_fraction between 0 and 1, both excluded, found {self.validation_fraction}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings(Settings):
    """Score predictions on measured sections.

    Attributes
    ----------
    dataset
        CSV table of sections.
    output
        Folder to make.
    model
        Model to score; None with ``leave_one_out``.
    leave_one_out
        Train on all but one ``section`` or ``patient`` in turn, and score what was left out.
    genes
        File with one symbol a line, or ``fold`` (chosen in each fold for variability; as None), or ``detected`` (seen
        in 5 % of the training spots). With a model: a file that restricts its panel.
    panel_size, encoder, encoder_weights, precision, members, likelihood, recalibrate
        As in training; for ``leave_one_out`` only.
    protocol
        ``stimage``, the protocol of this package, or ``hest``, that of HEST-Benchmark (encoder and sections only).
    perturb
        Kinds of change to the images under which the model is scored again: ``stain``, ``blur``, ``jpeg``, ``scale``.
    other_tissue
        Images of other tissue that the OOD score should find, ``PATH`` or ``PATH=MPP``.
    cache, no_cache
        As in training.
    replicates
        Of the bootstrap over spatial blocks.
    seed, device, batch_size, threads, force
        As for a prediction.
    """

    dataset: Path
    output: Path
    model: str | None = None
    leave_one_out: Literal["section", "patient"] | None = None
    genes: Path | None = None
    panel_size: int = 1000
    encoder: str = "context"
    encoder_weights: Path | None = None
    precision: Precision = "float32"
    cache: Path | None = None
    no_cache: bool = False
    members: int = 10
    likelihood: Likelihood = "nb"
    recalibrate: Recalibrate = "conformal"
    protocol: Literal["stimage", "hest"] = "stimage"
    perturb: tuple[str, ...] = ()
    other_tissue: tuple[str, ...] = ()
    replicates: int = 1000
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    threads: int = 2
    force: bool = False

    flow: ClassVar[str] = "evaluate"

    def _check(self) -> None:
        _one_of("device", self.device, DEVICES)
        _at_least("members", self.members, 2)
        _at_least("replicates", self.replicates, 20)
        if self.leave_one_out is not None:
            _one_of("leave_one_out", self.leave_one_out, ("section", "patient"))
        for kind in self.perturb:
            _one_of("perturb", kind, PERTURBATIONS)
        if self.other_tissue and not self.perturb:
            msg = "expected other_tissue only with perturb, found it alone; add --perturb stain,blur,jpeg,scale"
            raise UsageError(msg)
        if self.protocol == "hest" and (self.model or self.perturb):
            msg = "expected an encoder alone with protocol hest, found a model or perturbations; leave those out"
            raise UsageError(msg)
        if self.protocol == "stimage" and (self.model is None) == (self.leave_one_out is None):
            msg = "expected either a model or a way to leave sections out, found both or neither; pass one of the two"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainSettings(Settings):
    """Say of each nucleus of a finished run how much it drove the prediction of some genes.

    Attributes
    ----------
    run
        Run folder; gets the attributions.
    genes
        Genes to explain.
    method, fill
        How (see :mod:`stimage_qupath.attribution.methods`), and what stands where something is removed (see
        :mod:`stimage_qupath.attribution.fills`).
    target
        ``log mean``, ``member K`` or ``epistemic``.
    difference
        Two of the genes, of which the second's map is taken from the first's; empty: none.
    image
        The slide, where it is no longer at the place that the run noted.
    stride_um
        Spacing of the places whose predictions are explained; None chooses by the encoder.
    samples
        Perturbations a window, of LIME and KernelSHAP.
    resume
        Go on with an explanation that was interrupted.
    device, batch_size, seed
        As for a prediction.
    """

    run: Path
    genes: tuple[str, ...]
    method: str = "ablation"
    fill: str = "inpainted"
    target: str = "log mean"
    difference: tuple[str, ...] = ()
    image: Path | None = None
    stride_um: float | None = None
    samples: int = 500
    resume: bool = False
    device: str = "auto"
    batch_size: int | None = None
    seed: int = 0

    flow: ClassVar[str] = "explain"

    def _check(self) -> None:
        _one_of("device", self.device, DEVICES)
        _at_least("samples", self.samples, 2)
        if self.batch_size is not None:
            _at_least("batch_size", self.batch_size, 1)
        if not self.genes:
            msg = "expected a gene to explain, found none; pass --gene"
            raise UsageError(msg)
        if self.difference and not (len(set(self.difference)) == 2 and set(self.difference) <= set(self.genes)):
            msg = f"expected a difference of two of {', '.join(self.genes)}, found {', '.join(self.difference)}"
            raise UsageError(msg)
        if self.stride_um is not None and not 1 <= self.stride_um <= 1000:
            msg = f"expected a stride between 1 and 1000 um, found {self.stride_um}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateSettings(Settings):
    """Hold the predictions of a finished run against a person's annotations.

    Attributes
    ----------
    run
        Run folder; it is only read.
    annotations
        GeoJSON exported from QuPath: annotations with classes, or classified cells, detections and points.
    output
        Folder to make; None: ``NAME-validation`` beside the run.
    by
        What tells annotations apart: their ``class`` or their ``name``.
    rest
        What a class is compared with: ``annotated`` nuclei of other classes, or ``all`` other nuclei of the run.
    second
        Annotations of the same slide by another person, or None.
    genes
        Genes of the run's panel; empty: those it wrote for QuPath.
    block_um
        Side of a spatial block.
    replicates, permutations
        Of the bootstrap and of the permutation test.
    seed
        Of both.
    force
        Replace an earlier validation.
    """

    run: Path
    annotations: Path
    output: Path | None = None
    by: Literal["class", "name"] = "class"
    rest: Literal["annotated", "all"] = "annotated"
    second: Path | None = None
    genes: tuple[str, ...] = ()
    block_um: float = 600.0
    replicates: int = 1000
    permutations: int = 999
    seed: int = 0
    force: bool = False

    flow: ClassVar[str] = "validate"

    def _check(self) -> None:
        _at_least("replicates", self.replicates, 100)
        _at_least("permutations", self.permutations, 99)
        _at_least("seed", self.seed, 0)
        if not 20 <= self.block_um <= 10_000:
            msg = f"expected spatial blocks between 20 and 10000 um, found {self.block_um}"
            raise UsageError(msg)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"expected {name} out of {', '.join(allowed)}, found '{value}'"
        raise UsageError(msg)


def _at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        msg = f"expected {name} of at least {minimum}, found {value}"
        raise UsageError(msg)


def _check_choice(name: str, value: object, hint: object) -> None:
    """Hold literal types to their words; type checkers do the rest."""
    if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
        _one_of(name, str(value), tuple(str(word) for word in typing.get_args(hint)))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    return list(value) if isinstance(value, tuple) else value


def _typed(value: Any, hint: Any) -> Any:
    """Turn a JSON value into what the field holds: paths from text, tuples from lists."""
    if value is not None and typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is Path and isinstance(value, str):
        return Path(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    base = typing.get_origin(hint) or hint
    if value is not None and isinstance(base, type) and not isinstance(value, base):
        msg = f"expected a value of type {base.__name__}, found {value!r}"
        raise UsageError(msg)
    return value
