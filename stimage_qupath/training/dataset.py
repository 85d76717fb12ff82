"""Measured sections with the features of their spots."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.models.encoders import Encoder
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.results import CancelCheck, ProgressCallback
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.reader import open_slide
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
) -> list[EncodedSection]:
    """Read each section's image and encode the window on each spot."""
    encoded = []
    for number, section in enumerate(sections, start=1):
        on_progress("encode", number - 1, len(sections), section.name)
        with open_slide(section.image) as slide:
            mpp = slide_pixel_size(slide, section.mpp, what=f"the image of section {section.name}")
            features = encode_points(
                slide,
                mpp,
                section.positions_px,
                encoder,
                device=device,
                batch_size=batch_size,
                threads=threads,
                cancelled=cancelled,
            )
        encoded.append(EncodedSection(section, features, mpp, _sha256(section.image)))
    on_progress("encode", len(sections), len(sections), "")
    return encoded


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
