"""Any timm network as a frozen encoder of tiles."""

from __future__ import annotations

from typing import Any

import timm
from timm.data.config import resolve_model_data_config

from stimage_qupath.errors import MissingPartError, UnknownModelError
from stimage_qupath.models.encoders import FLOAT32, TIMM_PREFIX, EncoderCard
from stimage_qupath.models.foundation import classifier_names, load_exactly
from stimage_qupath.models.key_layouts import cnn_state
from stimage_qupath.models.tile_encoder import TileEncoder
from stimage_qupath.models.weights import read_weights, require_file

MPP = 0.5
"""Pixel size at which general-purpose networks are run: 20x, 112 um for a tile of 224 px."""


def open_timm(
    model_name: str, *, weights: str | None = None, pretrained: bool = True, precision: str = FLOAT32
) -> TileEncoder:
    """Return a timm network without its classifier; the features are its pooled output.

    Parameters
    ----------
    model_name
        timm name, with or without tag.
    weights
        Local checkpoint that replaces the download.
    pretrained
        Load weights at all.
    precision
        ``float32``, ``bfloat16`` or ``float16``.

    Raises
    ------
    UnknownModelError
        timm does not know the name, or the checkpoint is another network's.
    MissingPartError
        No weights are to be had.
    """
    if not timm.is_model(model_name):
        close = ", ".join(timm.list_models(f"*{model_name.split('.')[0].split('_')[0]}*")[:3])
        msg = f"expected a model that timm knows, found '{model_name}'; names close to it: {close or 'none'}"
        raise UnknownModelError(msg)
    network = _network(model_name, weights=weights, pretrained=pretrained)
    data: dict[str, Any] = resolve_model_data_config(network)
    config: dict[str, Any] = network.pretrained_cfg
    card = EncoderCard(
        name=f"{TIMM_PREFIX}{model_name}",
        source=str(config.get("hf_hub_id") or config.get("url") or "timm"),
        licence=str(config.get("license") or "see the model's page"),
        gated=False,
        mpp=MPP,
        tile_px=int(data["input_size"][-1]),
        width=int(getattr(network, "head_hidden_size", network.num_features)),  # a head may widen the pooled output
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        precision=precision,
    )
    return TileEncoder(network, card)


def _network(model_name: str, *, weights: str | None, pretrained: bool) -> Any:  # timm's attributes are untyped
    """Build the network and load its weights."""
    path = None if weights is None else require_file(weights)
    try:
        network = timm.create_model(model_name, pretrained=pretrained and path is None, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:  # what the hub raises when it cannot be reached
        msg = (
            f"expected the weights of timm's {model_name}, found none on this machine and no way to the hub ({error}); "
            "connect once, or pass a local checkpoint"
        )
        raise MissingPartError(msg) from error
    if path is not None:
        load_exactly(network, cnn_state(read_weights(path), classifier_names(network)), path, what=model_name)
    return network
