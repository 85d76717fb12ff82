"""Published encoders of the registry: built, their weights found, compared key by key, and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.mlp import SwiGLUPacked
from torch import nn

from stimage_qupath.errors import UnknownModelError
from stimage_qupath.models import key_layouts
from stimage_qupath.models.encoder_cards import RegisteredEncoder
from stimage_qupath.models.encoders import FLOAT32, EncoderCard
from stimage_qupath.models.tile_encoder import TileEncoder
from stimage_qupath.models.towers import ConchTower, ConvolutionalStem, CrossAttentionPooler, QueryPooler
from stimage_qupath.models.weights import Weights, find_weights, read_weights

LAYERS = {"swiglu": SwiGLUPacked, "silu": nn.SiLU}
"""Layers that a card names."""
MOST_KEYS = 5
"""Keys that a message lists."""


def open_registered(
    entry: RegisteredEncoder,
    *,
    weights: str | None = None,
    pretrained: bool = True,
    precision: str = FLOAT32,
    revision: str | None = None,
) -> TileEncoder:
    """Return an encoder of the registry with its weights.

    Parameters
    ----------
    entry
        The encoder.
    weights
        Local checkpoint, or folder laid out as the hub's snapshot, in place of the hub.
    pretrained
        False leaves the weights random; for tests.
    precision
        ``float32``, ``bfloat16`` or ``float16``.
    revision
        Commit of the hub's repository; None takes the entry's.

    Raises
    ------
    MissingPartError
        No weights are to be had.
    UnknownModelError
        The weights are another network's: names or shapes differ; the message lists them.
    """
    network = build_network(entry)
    found = None
    if pretrained or weights is not None:
        found = find_weights(entry, weights, revision=revision)
        load_exactly(network, _mapped(entry, read_weights(found.path), network), found.path, what=entry.title)
    return TileEncoder(
        network, _card(entry, found, precision, pinned=revision or entry.revision), pooling=entry.pooling
    )


def build_network(entry: RegisteredEncoder) -> nn.Module:
    """Return the network of an entry, weights random."""
    sizes: dict[str, Any] = {
        key: LAYERS.get(value, value) if isinstance(value, str) else value for key, value in entry.network.items()
    }
    pooler_dim, pooler_heads = sizes.pop("pooler_dim", 0), sizes.pop("pooler_heads", 0)
    if entry.family == "ctranspath":
        sizes["embed_layer"] = ConvolutionalStem
    network: nn.Module = timm.create_model(entry.architecture, pretrained=False, num_classes=0, **sizes)
    if entry.family in ("conch", "conch-1.5"):
        pooler = CrossAttentionPooler if entry.family == "conch" else QueryPooler
        context = int(network.num_features)  # type: ignore[arg-type]
        return ConchTower(network, pooler(context, pooler_dim, pooler_heads), pooler_dim)
    return network


def _mapped(entry: RegisteredEncoder, state: dict[str, torch.Tensor], network: Any) -> dict[str, torch.Tensor]:
    if entry.family == "vit":
        return key_layouts.vit_state(state, network)
    if entry.family == "conch":
        return key_layouts.conch_state(state)
    if entry.family == "conch-1.5":
        return key_layouts.conch15_state(state, network)
    if entry.family == "ctranspath":
        return key_layouts.ctranspath_state(state)
    return key_layouts.cnn_state(state, classifier_names(network))


def classifier_names(network: Any) -> tuple[str, ...]:
    """Return what timm calls the classifiers of a network."""
    names = network.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def load_exactly(network: nn.Module, state: dict[str, torch.Tensor], path: Path, *, what: str) -> None:
    """Load tensors whose names and shapes are exactly the network's.

    Raises
    ------
    UnknownModelError
        They are not; the message lists what is missing, what is too much and what has another shape.
    """
    own = network.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # of no use outside training
    faults = {
        "lacking": sorted(own.keys() - state.keys() - counters),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape),
    }
    listed = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in faults.items() if keys)
    if listed:
        msg = f"expected the weights of {what} in {path}, found {listed}; pass the checkpoint of that very network"
        raise UnknownModelError(msg)
    network.load_state_dict(
        {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}, strict=False
    )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:MOST_KEYS]) + (", ..." if len(keys) > MOST_KEYS else "")


def _card(entry: RegisteredEncoder, found: Weights | None, precision: str, *, pinned: str | None) -> EncoderCard:
    commit = None if found is None else found.commit
    notes = [f"not verified at the source: {doubt}" for doubt in entry.doubtful]
    if commit is not None and pinned is None:
        notes.append(f"the revision is not pinned: took commit {commit}, which main was on that day")
    return EncoderCard(
        name=entry.name,
        source=entry.page,
        licence=entry.licence,
        gated=entry.gated,
        mpp=entry.mpp,
        tile_px=entry.tile_px,
        width=entry.width,
        mean=entry.mean,
        std=entry.std,
        revision=commit,
        precision=precision,
        notes=tuple(notes),
    )
