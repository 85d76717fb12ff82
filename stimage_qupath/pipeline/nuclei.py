"""Where the nuclei of a run come from: a segmenter, or a file of the user."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from stimage_qupath.config import PredictSettings, SegmentSettings
from stimage_qupath.geojson_dialect import Color
from stimage_qupath.nuclei.foreign import PlacedNuclei
from stimage_qupath.nuclei.foreign_reader import read_nuclei
from stimage_qupath.nuclei.kept import KeptNuclei
from stimage_qupath.nuclei.registry import choose_segmenter
from stimage_qupath.nuclei.segment import CellChunk, segment_regions
from stimage_qupath.pipeline.inputs import Input
from stimage_qupath.prediction.device import choose_device
from stimage_qupath.results import CancelCheck, ProgressCallback, Timer

SIMPLIFY_UM = 0.25
"""How far simplification may move an outline."""


class ChunksOfNuclei(Protocol):
    """A way to go through the nuclei of a run."""

    def __call__(
        self,
        *,
        threads: int,
        kept: KeptNuclei | None,
        timed: Timer,
        on_progress: ProgressCallback,
        cancelled: CancelCheck,
    ) -> Iterator[CellChunk]:
        """Yield regions in order, each region block by block."""
        ...


@dataclass(frozen=True, slots=True)
class NucleiSource:
    """The nuclei of a run.

    Attributes
    ----------
    chunks
        Goes through them.
    identity
        Equal where outlines are equal: of the segmenter, or of the user's file.
    are_own
        Whether this package outlined them; the user's keep their id and class and are never marked as ours.
    color_of_class
        Colours of the classes they bring.
    warnings
        What the user should know.
    """

    chunks: ChunksOfNuclei
    identity: str
    are_own: bool = True
    color_of_class: Mapping[str, Color] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def choose_nuclei(settings: SegmentSettings, source: Input) -> NucleiSource:
    """Return the nuclei that ``settings`` ask for.

    Raises
    ------
    StimageError
        Of the kind that fits: the file of nuclei, or the segmenter.
    """
    if isinstance(settings, PredictSettings) and settings.nuclei is not None:
        return _from_file(settings, source)
    device = choose_device(settings.device)
    segmenter = choose_segmenter(
        settings.segmenter, device=device, download=settings.download, bfloat16=settings.nuclei_precision == "bfloat16"
    )
    chunks = partial(
        segment_regions,
        source.slide,
        source.mpp,
        source.regions,
        segmenter,
        image_id=source.image_id,
        simplify_um=SIMPLIFY_UM,
        expansion_um=settings.cell_expansion_um,
    )
    return NucleiSource(chunks, identity=segmenter.identity)


def _from_file(settings: PredictSettings, source: Input) -> NucleiSource:
    """Return the nuclei of a file."""
    if settings.nuclei is None:
        msg = "expected a file of nuclei, found none"
        raise ValueError(msg)
    region = source.regions[0]
    nuclei = read_nuclei(
        settings.nuclei,
        slide_size=(source.slide.width, source.slide.height),
        simplify_px=SIMPLIFY_UM / source.mpp,
        plane=(region.z, region.t),
    )
    placed = PlacedNuclei(
        nuclei, source.slide, source.mpp, source.regions, source.image_id, expansion_um=settings.cell_expansion_um
    )

    def chunks(
        *,
        threads: int,
        kept: KeptNuclei | None,
        timed: Timer,
        on_progress: ProgressCallback,
        cancelled: CancelCheck,
    ) -> Iterator[CellChunk]:
        del kept, timed  # the outlines are there already
        return placed.chunks(threads=threads, on_progress=on_progress, cancelled=cancelled)

    return NucleiSource(
        chunks,
        identity=hashlib.sha256(settings.nuclei.read_bytes()).hexdigest(),
        are_own=False,
        color_of_class=nuclei.color_of_class,
        warnings=placed.warnings(),
    )
