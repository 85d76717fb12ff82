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
STARTER = "starter"
DEVICES = ("auto", "cpu", "cuda", "mps")
STARDIST = "stardist"
SEGMENTERS = ("classical", STARDIST, f"{STARDIST}:FOLDER")


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
        How QuPath shows the image, see :func:`stimage_qupath.slide.view.open_view`; empty: as the file holds it.
    segmenter
        Backend that outlines nuclei: ``classical``, ``stardist`` or ``stardist:FOLDER`` (a StarDist 2D model).
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
    """

    model: str = STARTER
    genes: tuple[str, ...] = ()
    unit: Unit = "cells"
    stride_um: float | None = None
    measurements: Measurements = "short"
    intervals: bool = False
    batch_size: int | None = None
    seed: int = 0
    overview: bool = True

    flow: ClassVar[str] = "predict"

    def of_project(self, *, images: str, write_back: bool, path_maps: tuple[str, ...]) -> ProjectSettings:
        """Return the same settings for the images of a project; see :class:`ProjectSettings`."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return ProjectSettings(**shared, images=images, write_back=write_back, path_maps=path_maps)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSettings(PredictSettings):
    """Predict for the images of a QuPath project; ``image`` is the project.

    Attributes
    ----------
    images
        Which images, by name with ``*`` and ``?``.
    write_back
        Put the nuclei into the project.
    path_maps
        ``OLD=NEW`` beginnings of image paths, for a project that came from another machine.
    java
        ``auto`` reads annotations through QuPath where there is one, ``never`` without.
    """

    images: str = "*"
    write_back: bool = False
    path_maps: tuple[str, ...] = ()
    java: Literal["auto", "never"] = "auto"

    flow: ClassVar[str] = "predict project"

    def _check(self) -> None:
        PredictSettings._check(self)
        given = [name for name in ("annotations", "view") if getattr(self, name)]
        if given:
            msg = f"expected a project, which brings its own annotations and views, found {' and '.join(given)} too"
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
        File with one symbol a line; None chooses the most variable genes of the training sections.
    panel_size
        Genes to choose where no file is given.
    encoder
        ``colour`` or ``timm:<model>``.
    encoder_weights
        Local checkpoint of the encoder.
    members
        Members of the ensemble.
    hold_out
        Sections kept out of training and scored once.
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
    encoder: str = "colour"
    encoder_weights: Path | None = None
    members: int = 10
    hold_out: tuple[str, ...] = ()
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
    genes, panel_size, encoder, encoder_weights, members
        As in training; for ``leave_one_out`` only. Without ``genes`` the panel is chosen in each fold.
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
    encoder: str = "colour"
    encoder_weights: Path | None = None
    members: int = 10
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
        if (self.model is None) == (self.leave_one_out is None):
            msg = "expected either a model or a way to leave sections out, found both or neither; pass one of the two"
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
