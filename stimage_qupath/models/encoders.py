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
