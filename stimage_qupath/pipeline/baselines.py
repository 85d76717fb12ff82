"""Sections as baselines see them, and the baselines that a model folder keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray

from stimage_qupath.errors import UnknownModelError
from stimage_qupath.models.baseline_store import read_baselines, write_baselines
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.encoders import COLOUR, Encoder
from stimage_qupath.models.ensemble import Heads
from stimage_qupath.prediction.cache import FeatureCache
from stimage_qupath.regions.tissue import find_tissue
from stimage_qupath.results import CancelCheck, Panel, never_cancelled, no_progress
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.training.dataset import EncodedSection, encode_sections
from stimage_qupath.training.recipe import Trained
from stimage_qupath.validation.baseline_arrays import from_arrays, to_arrays
from stimage_qupath.validation.baselines import FittedBaselines, Outline, Spots, fit_baselines
from stimage_qupath.validation.registration import MASK_UM


def outline_of(encoded: EncodedSection) -> Outline:
    """Return where the tissue of a section lies, for the section's position among serial ones."""
    with open_slide(encoded.section.image) as slide:
        pieces = find_tissue(slide, encoded.mpp)
        size_um = np.array([slide.width, slide.height]) * encoded.mpp
    columns, rows = np.ceil(size_um / MASK_UM).astype(int)
    x, y = np.meshgrid((np.arange(columns) + 0.5) * MASK_UM, (np.arange(rows) + 0.5) * MASK_UM)
    tissue = shapely.union_all([piece.geometry for piece in pieces])
    shapely.prepare(tissue)
    mask = shapely.contains_xy(tissue, x.ravel() / encoded.mpp, y.ravel() / encoded.mpp)
    return Outline(encoded.section.patient, np.asarray(mask).reshape(rows, columns))


def serial_outlines(sections: Sequence[EncodedSection], patients: Sequence[str] = ()) -> list[Outline | None]:
    """Return the outline of each section that has a serial one: another of its patient here, or one in ``patients``."""
    everybody = [s.section.patient for s in sections]
    return [
        outline_of(s) if everybody.count(s.section.patient) > 1 or s.section.patient in patients else None
        for s in sections
    ]


def colour_features(
    sections: Sequence[EncodedSection],
    encoder: Encoder,
    *,
    device: torch.device,
    batch_size: int,
    threads: int,
    cache: FeatureCache | None = None,
    cancelled: CancelCheck = never_cancelled,
) -> list[NDArray[np.float32] | None]:
    """Return each section's features by the ``colour`` encoder where ``encoder`` is another one, else None each."""
    if encoder.card.name == COLOUR:
        return [None] * len(sections)
    encoded = encode_sections(
        [s.section for s in sections],
        ColourEncoder(),
        device=device,
        batch_size=batch_size,
        threads=threads,
        on_progress=no_progress,
        cancelled=cancelled,
        cache=cache,
    )
    return [s.features for s in encoded]


def spots_of(
    sections: Sequence[EncodedSection],
    panel: Panel,
    heads: Heads,
    *,
    colour: Sequence[NDArray[np.float32] | None],
    outlines: Sequence[Outline | None],
) -> Spots:
    """Return the spots of some sections in one table; features are standardised as the heads see them."""
    nowhere = [
        Outline(s.section.patient, np.zeros((1, 1), dtype=bool)) if o is None else o
        for s, o in zip(sections, outlines, strict=True)
    ]
    shades = [c for c in colour if c is not None]
    return Spots(
        features=np.concatenate([heads.standardise(s.features) for s in sections]).astype(np.float64),
        counts=np.concatenate([s.section.counts_of(panel.genes) for s in sections]),
        totals=np.concatenate([s.section.totals for s in sections]),
        section=np.repeat(np.arange(len(sections)), [len(s.features) for s in sections]),
        colour=np.concatenate(shades).astype(np.float64) if len(shades) == len(sections) else None,
        positions_um=np.concatenate([s.positions_um for s in sections]),
        outlines=tuple(nowhere),
    )


def keep_baselines(
    folder: Path,
    training: Sequence[EncodedSection],
    trained: Trained,
    encoder: Encoder,
    *,
    device: torch.device,
    batch_size: int,
    threads: int,
    seed: int,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Write what a later evaluation compares the model with; return what the card says of the file.

    Parameters
    ----------
    folder
        Model folder.
    training, trained, encoder
        Training sections, what came of them, and the encoder of their features.
    device, batch_size, threads, cancelled
        For the ``colour`` features of another encoder's sections.
    seed
        Of the training spots that are kept where there are many.
    """
    colour = colour_features(
        training, encoder, device=device, batch_size=batch_size, threads=threads, cancelled=cancelled
    )
    train = spots_of(
        training,
        trained.ensemble.panel,
        trained.ensemble.heads,
        colour=colour,
        outlines=[outline_of(s) for s in training],
    )
    fitted = fit_baselines(train, reference_total=trained.reference_total)
    return write_baselines(folder, *to_arrays(fitted, train, seed=seed))


def kept_baselines(folder: Path, card: dict[str, Any]) -> FittedBaselines | None:
    """Return the baselines of a model folder, or None where it was made without.

    Raises
    ------
    UnknownModelError
        They are damaged.
    """
    found = read_baselines(folder, card)
    if found is None:
        return None
    try:
        return from_arrays(*found)
    except ValueError as error:
        msg = f"the baselines in {folder} are damaged: {error}"
        raise UnknownModelError(msg) from error


def images_of(encoder: Encoder) -> frozenset[str]:
    """Return the SHA-256 of every image that an encoder was trained on, where it says so."""
    return frozenset(getattr(encoder, "images_seen", ()))
