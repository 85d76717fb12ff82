"""Encoders by name: what each expects of a tile, and how it is loaded.

An encoder turns places of an image into features. It is asked with an image (a block of the slide at the encoder's own
pixel size) and the centres in it, not with ready tiles: neighbouring nuclei share nearly all of their window, and an
encoder that can share work (``context``, ``colour``) does.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UnknownModelError

if TYPE_CHECKING:
    import torch

    from stimage_qupath.results import CancelCheck

COLOUR = "colour"
CONTEXT = "context"
NUCLEUS = "nucleus"
TIMM_PREFIX = "timm:"
FLOAT32 = "float32"
PRECISIONS = (FLOAT32, "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """What an encoder is and what it expects.

    Attributes
    ----------
    name
        ``context``, ``nucleus``, ``colour``, ``timm:<model>`` or a name of the registry.
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
    align_px
        Images begin at multiples of this on the slide's grid at ``mpp``, so that the strides of a network run over the
        whole image fall on the same pixels in whichever image a place travels.
    revision
        Commit of the hub's repository that the weights came from.
    precision
        ``float32``, or what the network computes in instead: ``bfloat16``, ``float16``.
    weights_sha256
        Of all tensors of the network, with their names; None where there are none.
    notes
        What the user should know of the encoder.
    parts
        Of several encoders side by side: the card of each, in the order of their features.
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
    align_px: int = 1
    revision: str | None = None
    precision: str = FLOAT32
    weights_sha256: str | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[EncoderCard, ...] = ()

    def __post_init__(self) -> None:
        """Refuse sizes that no slide has, and precisions that no device has."""
        if self.precision not in PRECISIONS:
            msg = f"expected a precision out of {', '.join(PRECISIONS)}, found '{self.precision}'"
            raise ValueError(msg)
        if not 0.05 <= self.mpp <= 20 or self.tile_px < 1 or self.width < 1:
            msg = f"expected an encoder with 0.05 <= mpp <= 20 and positive sizes, found {self}"
            raise ValueError(msg)

    @property
    def tile_um(self) -> float:
        """Side of the window, um."""
        return self.tile_px * self.mpp

    def to_dict(self) -> dict[str, object]:
        """Return the card as JSON has it."""
        lists = {"mean": list(self.mean), "std": list(self.std), "notes": list(self.notes)}
        stored = {**asdict(self), **lists, "tile_um": self.tile_um}
        del stored["parts"]  # of one encoder there are none, and its card and fingerprint say nothing of them
        return stored | ({"parts": [part.to_dict() for part in self.parts]} if self.parts else {})


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


@runtime_checkable
class Fingerprinted(Protocol):
    """An encoder that can say what its features depend on; only such features are kept on disk."""

    def fingerprint(self) -> str:
        """Return a hash of everything that the features depend on besides the pixels and this package's version."""
        ...


def card_fingerprint(card: EncoderCard, **more: str) -> str:
    """Return a hash of the facts of ``card`` that change features, its weights among them.

    Parameters
    ----------
    card
        The card.
    more
        What else the features depend on.
    """
    aside = ("source", "licence", "gated", "revision", "notes", "tile_um")
    facts = {key: value for key, value in card.to_dict().items() if key not in aside}
    return hashlib.sha256(json.dumps(facts | more, sort_keys=True).encode()).hexdigest()


def encoder_names() -> tuple[str, ...]:
    """Return the names that :func:`load_encoder` knows, without those of timm."""
    from stimage_qupath.models.encoder_cards import registered_encoders

    return (CONTEXT, NUCLEUS, COLOUR, *registered_encoders())


def load_encoder(
    name: str,
    *,
    weights: str | None = None,
    pretrained: bool = True,
    precision: str = FLOAT32,
    revision: str | None = None,
) -> Encoder:
    """Return the encoder called ``name``.

    Parameters
    ----------
    name
        ``context``, ``nucleus``, ``colour``, a name of the registry such as ``uni2-h`` (``stimage-qupath encoders``
        lists them), or ``timm:`` and the name of any timm model, for example ``timm:resnet50.a1_in1k``; or several of
        those, joined by ``+``, whose features then lie in a row.
    weights
        Local checkpoint, or a folder laid out as the hub's snapshot, that replaces the download.
    pretrained
        False gives random weights; for tests.
    precision
        What networks compute in: ``float32``, ``bfloat16`` or ``float16``.
    revision
        Commit of the hub's repository; None takes the registry's.

    Raises
    ------
    UnknownModelError
        No such encoder, or the weights are another one's.
    MissingPartError
        Weights can be had neither from the hub nor locally.
    """
    from stimage_qupath.models.combined import JOINT, CombinedEncoder, weights_of_parts

    if JOINT in name:
        names = name.split(JOINT)
        each = zip(names, weights_of_parts(names, weights), strict=True)
        return CombinedEncoder(
            [load_encoder(n, weights=w, pretrained=pretrained, precision=precision) for n, w in each]
        )
    if name == CONTEXT:
        from stimage_qupath.models.context import ContextEncoder

        return ContextEncoder(None if weights is None else Path(weights))
    if name == NUCLEUS:
        from stimage_qupath.models.context import nucleus_encoder

        return nucleus_encoder(None if weights is None else Path(weights))
    if name == COLOUR:
        from stimage_qupath.models.colour import ColourEncoder

        return ColourEncoder()
    if name.startswith(TIMM_PREFIX):
        from stimage_qupath.models.timm_encoder import open_timm

        model = name.removeprefix(TIMM_PREFIX)
        return open_timm(model, weights=weights, pretrained=pretrained, precision=precision)

    from stimage_qupath.models.encoder_cards import registered_encoders

    entry = registered_encoders().get(name)
    if entry is None:
        msg = f"expected an encoder out of {', '.join(encoder_names())} or '{TIMM_PREFIX}<model>', found '{name}'"
        raise UnknownModelError(msg)

    from stimage_qupath.models.foundation import open_registered

    return open_registered(entry, weights=weights, pretrained=pretrained, precision=precision, revision=revision)
