"""Encoders by name: what each expects of a tile, and how it is loaded.

An encoder turns places of an image into features. It is asked with an image (a block of the slide at the encoder's own
pixel size) and the centres in it, not with ready tiles: neighbouring nuclei share nearly all of their window, and an
encoder that can share work (``colour``) does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UnknownModelError

if TYPE_CHECKING:
    import torch

    from stimage_qupath.results import CancelCheck

COLOUR = "colour"
TIMM_PREFIX = "timm:"


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """What an encoder is and what it expects.

    Attributes
    ----------
    name
        ``colour`` or ``timm:<model>``.
    source
        Where weights and method come from.
    licence
        Licence of the weights.
    gated
        Whether the weights need an accepted licence and a token.
    mpp
        Pixel size the encoder reads, um.
    tile_px
        Side of the window around a centre, pixels at ``mpp``.
    width
        Features a tile.
    mean, std
        Normalisation of RGB in 0-1.
    pads_edges
        Whether windows beyond the image are filled with white (networks) or clipped (statistics).
    """

    name: str
    source: str
    licence: str
    gated: bool
    mpp: float
    tile_px: int
    width: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pads_edges: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes that no slide has."""
        if not 0.05 <= self.mpp <= 20 or self.tile_px < 1 or self.width < 1:
            msg = f"expected an encoder with 0.05 <= mpp <= 20 and positive sizes, found {self}"
            raise ValueError(msg)

    @property
    def tile_um(self) -> float:
        """Side of the window, um."""
        return self.tile_px * self.mpp

    def to_dict(self) -> dict[str, object]:
        """Return the card as JSON has it."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std), "tile_um": self.tile_um}


class Encoder(Protocol):
    """A frozen map from places in an image to features."""

    card: EncoderCard

    def encode(
        self,
        image: NDArray[np.uint8],
        centres: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck,
    ) -> NDArray[np.float32]:
        """Return the features of windows around ``centres``.

        Parameters
        ----------
        image
            (height, width, 3) RGB at ``card.mpp``.
        centres
            (place, 2) x and y in pixels of ``image``.
        device
            Where a network runs.
        batch_size
            Tiles a forward pass; the result does not depend on it.
        cancelled
            Asked between batches.

        Returns
        -------
        ndarray
            (place, ``card.width``) float32.
        """
        ...


def load_encoder(name: str, *, weights: str | None = None, pretrained: bool = True) -> Encoder:
    """Return the encoder called ``name``.

    Parameters
    ----------
    name
        ``colour``, or ``timm:`` and the name of any timm model, for example ``timm:resnet50.a1_in1k``.
    weights
        Local checkpoint (``.safetensors``) that replaces the download.
    pretrained
        False gives random weights; for tests.

    Raises
    ------
    UnknownModelError
        No such encoder.
    MissingPartError
        Weights can be had neither from the hub nor locally.
    """
    if name == COLOUR:
        from stimage_qupath.models.colour import ColourEncoder

        return ColourEncoder()
    if name.startswith(TIMM_PREFIX):
        from stimage_qupath.models.timm_encoder import TimmEncoder

        return TimmEncoder(name.removeprefix(TIMM_PREFIX), weights=weights, pretrained=pretrained)
    msg = f"expected the encoder '{COLOUR}' or '{TIMM_PREFIX}<model>', found '{name}'; pass one of those as --encoder"
    raise UnknownModelError(msg)
