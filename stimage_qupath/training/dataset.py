"""Measured sections with the features of their spots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.models.encoders import Encoder
from stimage_qupath.models.scale import scale_notes
from stimage_qupath.prediction.cache import FeatureCache, file_sha256
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.regions.stain_overview import normalised, shown_sha256
from stimage_qupath.results import CancelCheck, ProgressCallback
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.reader import Slide, open_slide
from stimage_qupath.slide.stain_normalisation import Appearance
from stimage_qupath.spots.section import Section


@dataclass(frozen=True, slots=True)
class EncodedSection:
    """A section ready for training or scoring.

    Attributes
    ----------
    section
        Counts and positions.
    features
        (spot, feature) of the window on each spot.
    mpp
        um per level-0 pixel.
    image_sha256
        Of the image file, so that a later evaluation knows which images the model saw.
    """

    section: Section
    features: NDArray[np.float32]
    mpp: float
    image_sha256: str

    @property
    def positions_um(self) -> NDArray[np.float64]:
        """Spot centres, (spot, 2) um."""
        return self.section.positions_px * self.mpp


def encode_sections(
    sections: Sequence[Section],
    encoder: Encoder,
    *,
    device: torch.device,
    batch_size: int,
    threads: int,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
    cache: FeatureCache | None = None,
    stain: Appearance | None = None,
) -> list[EncodedSection]:
    """Read each section's image and encode the window on each spot.

    Parameters
    ----------
    sections
        What was measured, and where.
    encoder
        What to compute.
    device, batch_size, threads
        As in :func:`stimage_qupath.prediction.stream.encode_points`.
    on_progress, cancelled
        Called with the stage ``encode`` and the sections done.
    cache
        Where features are kept; None computes them.
    stain
        Stains that every image is shown in, or None: its own.

    Raises
    ------
    CalibrationError
        An image has no pixel size, or is too coarse for the encoder.
    """
    encoded = []
    for number, section in enumerate(sections, start=1):
        on_progress("encode", number - 1, len(sections), section.name)
        with open_slide(section.image) as slide:
            what = f"the image of section {section.name}"
            mpp = slide_pixel_size(slide, section.mpp, what=what)
            notes = scale_notes(encoder.card, mpp, what=what)
            compute = partial(
                _encode,
                slide,
                mpp,
                stain,
                section.positions_px,
                encoder,
                device=device,
                batch_size=batch_size,
                threads=threads,
                cancelled=cancelled,
            )
            if cache is None:
                digest, features = file_sha256(section.image), compute()
            else:
                digest = cache.image_sha256(section.image)
                features = cache.features(
                    encoder,
                    slide_sha256=shown_sha256(digest, stain),
                    mpp=mpp,
                    points_px=section.positions_px,
                    compute=compute,
                )
        noted = replace(section, notes=section.notes + notes)
        encoded.append(EncodedSection(noted, features, mpp, digest))
    on_progress("encode", len(sections), len(sections), "")
    return encoded


def _encode(
    slide: Slide,
    mpp: float,
    stain: Appearance | None,
    points_px: NDArray[np.float64],
    encoder: Encoder,
    **options: Any,
) -> NDArray[np.float32]:
    return encode_points(normalised(slide, mpp, stain), mpp, points_px, encoder, **options)
