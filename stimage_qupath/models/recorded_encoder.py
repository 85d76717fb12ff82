"""The encoder of a finished model, as its card records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from stimage_qupath.errors import CalibrationError, UnknownModelError
from stimage_qupath.models.combined import CombinedEncoder, weights_of_parts
from stimage_qupath.models.encoders import FLOAT32, Encoder, load_encoder


def encoder_record(encoder: Encoder, weights: str | None) -> dict[str, Any]:
    """Return the ``encoder`` part of a model's card.

    Parameters
    ----------
    encoder
        The encoder.
    weights
        Local checkpoint or folder that its weights came from.
    """
    card = encoder.card
    if not card.parts:
        return card.to_dict() | ({} if weights is None else {"weights": weights})
    each = zip(card.parts, weights_of_parts([part.name for part in card.parts], weights), strict=True)
    parts = [part.to_dict() | ({} if path is None else {"weights": path}) for part, path in each]
    return card.to_dict() | {"parts": parts}


@runtime_checkable
class TakesWeights(Encoder, Protocol):
    """An encoder that is a network."""

    def with_weights(self, weights: Mapping[str, Tensor], *, images_seen: frozenset[str]) -> Encoder:
        """Return the same encoder with other weights, learnt on images of these SHA-256."""
        ...


@dataclass(frozen=True, slots=True)
class TunedWeights:
    """Weights that a model folder holds of its own.

    Attributes
    ----------
    weights
        All tensors of the network, by name.
    images_seen
        SHA-256 of every image that they were learnt on.
    """

    weights: Mapping[str, Tensor]
    images_seen: frozenset[str]


def load_recorded(record: Mapping[str, Any], tuned: TunedWeights | None = None) -> Encoder:
    """Return the encoder that a model was trained with.

    Parameters
    ----------
    record
        The ``encoder`` part of the model's card.
    tuned
        Weights that were learnt with the model, in place of the published ones; those need not be to hand.

    Raises
    ------
    CalibrationError
        The encoder of that name reads tiles of another scale than the model was trained on.
    UnknownModelError
        It has other weights, another normalisation or another width.
    MissingPartError
        Its weights are not to be had.
    """
    name = str(record["name"])
    if record.get("parts"):
        return CombinedEncoder([load_recorded(part) for part in record["parts"]])
    encoder = load_encoder(
        name,
        weights=None if tuned else record.get("weights"),
        pretrained=tuned is None,
        precision=record.get("precision", FLOAT32),
        revision=record.get("revision"),
    )
    if tuned is not None:
        encoder = _with_weights(encoder, tuned)
    card = encoder.card
    trained = record.get("mpp", card.mpp), record.get("tile_px", card.tile_px)
    if trained != (card.mpp, card.tile_px):
        msg = (
            f"expected tiles of {card.tile_px} px at {card.mpp:g} um for the encoder {name}, found a model trained on "
            f"{trained[1]} px at {trained[0]:g} um; train it again with this version"
        )
        raise CalibrationError(msg)
    now = card.to_dict()
    changed = [key for key in ("mean", "std", "weights_sha256") if record.get(key, now[key]) != now[key]]
    if changed:
        msg = f"expected the encoder {name} that the model was trained with, found another {' and '.join(changed)}; "
        msg += "pass the weights it was trained with, or train it again"
        raise UnknownModelError(msg)
    return encoder


def _with_weights(encoder: Encoder, tuned: TunedWeights) -> Encoder:
    name = encoder.card.name
    if not isinstance(encoder, TakesWeights):
        msg = f"expected an encoder that is a network with the weights of its own, found {name}; train the model again"
        raise UnknownModelError(msg)
    try:
        return encoder.with_weights(tuned.weights, images_seen=tuned.images_seen)
    except RuntimeError as error:  # torch's word for names and shapes that differ
        first = str(error).splitlines()[0]
        msg = f"expected fine-tuned weights of {name}, found another network's ({first}); train the model again"
        raise UnknownModelError(msg) from error
