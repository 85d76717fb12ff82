"""What cell types are told by: an encoder's view of a nucleus, the nucleus' stain and its shape, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import shapely
import torch
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.models.encoders import Encoder, EncoderCard
from stimage_qupath.models.recorded_encoder import load_recorded
from stimage_qupath.nuclei import appearance
from stimage_qupath.nuclei.features import shape_measurements
from stimage_qupath.prediction.stream import Window, encode_points, plan_windows
from stimage_qupath.results import CancelCheck, Cells, never_cancelled, stop_if
from stimage_qupath.slide.reader import Slide

SHAPES: Final = (
    names.AREA,
    names.LENGTH,
    names.CIRCULARITY,
    names.SOLIDITY,
    names.MAX_DIAMETER,
    names.MIN_DIAMETER,
)
_READING: Final = EncoderCard(
    name="appearance",
    source="stain of the nucleus and of the ring around it, computed from the pixels; no weights",
    licence="GPL-3.0-or-later",
    gated=False,
    mpp=appearance.MPP,
    tile_px=2 * appearance.MARGIN_PX,
    width=appearance.WIDTH,
    pads_edges=False,
)


@dataclass(frozen=True, slots=True)
class NucleusFeatures:
    """How nuclei, or places where there is no outline, become features.

    Attributes
    ----------
    encoder
        Sees a window around the centroid, or None.
    appearance, shape
        Whether stain and shape of the outline are looked at; both need nuclei.
    """

    encoder: Encoder | None
    appearance: bool
    shape: bool

    def __post_init__(self) -> None:
        """Refuse to look at nothing."""
        if self.encoder is None and not (self.appearance or self.shape):
            msg = "expected an encoder, appearance or shape to tell types by, found none of them"
            raise ValueError(msg)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Load what :meth:`to_dict` says.

        Raises
        ------
        UnknownModelError, MissingPartError
            The encoder is unknown, or cannot be had.
        """
        card = record["encoder"]
        encoder = None if card is None else load_recorded(card, None)
        return cls(encoder, bool(record["appearance"]), bool(record["shape"]))

    def to_dict(self) -> dict[str, Any]:
        """Return what a model's card says of them."""
        encoder = None if self.encoder is None else self.encoder.card.to_dict()
        return {"encoder": encoder, "appearance": self.appearance, "shape": self.shape}

    @property
    def needs_outlines(self) -> bool:
        """Whether places without an outline cannot be described."""
        return self.appearance or self.shape

    @property
    def width(self) -> int:
        """Number of features."""
        encoder = 0 if self.encoder is None else self.encoder.card.width
        return encoder + appearance.WIDTH * self.appearance + len(SHAPES) * self.shape

    def of_cells(
        self,
        slide: Slide,
        mpp: float,
        cells: Cells,
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck = never_cancelled,
    ) -> NDArray[np.float32]:
        """Return the features of nuclei, (nucleus, ``width``) float32.

        Parameters
        ----------
        slide, mpp
            Where they lie, and its pixel size.
        cells
            The nuclei.
        device, batch_size
            For encoders that are networks.
        cancelled
            Asked between blocks.
        """
        seen = self.of_points(slide, mpp, cells.centroids_px, device=device, batch_size=batch_size, cancelled=cancelled)
        parts = [seen]
        if self.appearance:
            parts.append(_appearance(slide, mpp, cells, cancelled))
        if self.shape:
            shapes = shape_measurements(cells.polygons, mpp=mpp)
            # Sizes spread over multiples, so that their logarithm is what a linear head can use.
            parts.append(np.log(np.column_stack([shapes[name] for name in SHAPES])))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def of_points(
        self,
        slide: Slide,
        mpp: float,
        points_px: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck = never_cancelled,
    ) -> NDArray[np.float32]:
        """Return the encoder's part alone, (place, feature) float32."""
        if self.encoder is None:
            return np.empty((len(points_px), 0), dtype=np.float32)
        return encode_points(
            slide, mpp, points_px, self.encoder, device=device, batch_size=batch_size, threads=1, cancelled=cancelled
        )


def _appearance(slide: Slide, mpp: float, cells: Cells, cancelled: CancelCheck) -> NDArray[np.float32]:
    """Return the stain of each nucleus, (nucleus, ``appearance.WIDTH``)."""
    found = np.empty((len(cells), appearance.WIDTH), dtype=np.float32)
    for window in plan_windows(cells.centroids_px, _READING, slide, mpp):
        stop_if(cancelled)
        outlines = _in_window(cells.polygons[window.index], window)
        found[window.index] = appearance.appearance(window.read(slide), outlines)
    return found


def _in_window(polygons: NDArray[np.object_], window: Window) -> NDArray[np.object_]:
    """Return polygons in pixels of a window."""
    origin = np.array([window.x, window.y])
    return np.asarray(shapely.transform(polygons, lambda xy: (xy - origin) / window.downsample))
