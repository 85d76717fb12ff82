"""Checkpoints as their authors lay them out, turned into the names and shapes of this package's networks.

Three ways to write one vision transformer are known: timm's, DINOv2's own, and those of transformers (``ViTModel`` and
``Dinov2Model``, with or without registers). Which one a checkpoint has is seen from its keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

State = dict[str, torch.Tensor]

_RENAMED = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # transformers, both models
        (r"^(?:vit|dinov2)\.", ""),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^layernorm\.", "norm."),
        (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"^(blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."),
        # ViTModel
        (r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
        (r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
        (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        # Dinov2Model
        (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
        (r"^(blocks\.\d+)\.mlp\.weights_in\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.mlp\.weights_out\.", r"\1.mlp.fc2."),
        # DINOv2's own
        (r"^register_tokens$", "reg_token"),
        (r"^(blocks\.\d+)\.mlp\.w12\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.mlp\.w3\.", r"\1.mlp.fc2."),
    )
)
_ONLY_FOR_TRAINING = re.compile(r"^(embeddings\.)?mask_token$|^pooler\.|^(head|dino_head|ibot_head|fc|classifier)\.")
_QUERY = re.compile(r"^(blocks\.\d+)\.attention\.attention\.query\.(weight|bias)$")


def vit_state(state: Mapping[str, torch.Tensor], network: nn.Module) -> State:
    """Return a vision transformer's tensors under timm's names, positions fitted to ``network``.

    Raises nothing: a key that no rule knows keeps its name, so that the strict comparison names it.
    """
    foreign = any(key in ("mask_token", "register_tokens") or "embeddings." in key for key in state)
    renamed: State = {}
    for key, tensor in state.items():
        for pattern, replacement in _RENAMED:
            key = pattern.sub(replacement, key)
        if not _ONLY_FOR_TRAINING.match(key):
            renamed[key] = tensor
    renamed = _joined_attention(renamed)
    if foreign:
        _move_class_position(renamed, network)
        _fit_positions(renamed, network)
    return renamed


def _joined_attention(state: State) -> State:
    """Stack query, key and value, which transformers keeps apart, as timm has them."""
    joined = dict(state)
    for key in state:
        found = _QUERY.match(key)
        if found:
            parts = [key.replace("query", part) for part in ("query", "key", "value")]
            if all(part in joined for part in parts):
                joined[f"{found[1]}.attn.qkv.{found[2]}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


def _move_class_position(state: State, network: nn.Module) -> None:
    """Add the class token's position to the token itself where timm keeps none for it (networks with registers)."""
    if getattr(network, "no_embed_class", False) and {"cls_token", "pos_embed"} <= state.keys():
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]


def _fit_positions(state: State, network: nn.Module) -> None:
    """Resample positions stored for another tile size, as transformers does on every forward pass."""
    if "pos_embed" in state:
        asked = network.get_parameter("pos_embed").shape[1]
        prefix = 0 if getattr(network, "no_embed_class", False) else 1
        state["pos_embed"] = resampled(state["pos_embed"], asked - prefix, prefix=prefix, mode="bicubic")


def resampled(
    positions: torch.Tensor, patches: int, *, prefix: int, mode: str, scale: float | None = None
) -> torch.Tensor:
    """Return position embeddings, (1, prefix + patch, width), for a square grid of ``patches``.

    Parameters
    ----------
    positions
        Stored ones.
    patches
        Patches of the grid that is wanted.
    prefix
        Leading positions that belong to no patch.
    mode
        ``bicubic`` or ``bilinear``, without anti-aliasing.
    scale
        Ratio that the interpolation is told, where it is not that of the two grids.
    """
    old, new = round((positions.shape[1] - prefix) ** 0.5), round(patches**0.5)
    if old == new or old**2 + prefix != positions.shape[1]:
        return positions
    grid = positions[:, prefix:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    if scale is None:
        grid = functional.interpolate(grid, size=(new, new), mode=mode, align_corners=False)
    else:
        grid = functional.interpolate(grid, scale_factor=(scale, scale), mode=mode, align_corners=False)
    flat = grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)
    return torch.cat([positions[:, :prefix], flat.to(positions.dtype)], dim=1)


def cnn_state(state: Mapping[str, torch.Tensor], classifiers: tuple[str, ...]) -> State:
    """Return a timm network's tensors without its classifiers' (names such as ``fc``)."""
    return {key: t for key, t in state.items() if not any(key.startswith(f"{name}.") for name in classifiers)}


def conch_state(state: Mapping[str, torch.Tensor]) -> State:
    """Return the tensors of CONCH's vision tower; text tower, captions and projection are left out."""
    aside = ("visual.attn_pool_caption.", "visual.ln_caption.", "visual.proj_contrast", "text.", "text_decoder.")
    kept = {key: t for key, t in state.items() if not key.startswith(aside) and key != "logit_scale"}
    return {key.removeprefix("visual."): tensor for key, tensor in kept.items()}


def conch15_state(state: Mapping[str, torch.Tensor], network: nn.Module) -> State:
    """Return the tensors of CONCH v1.5, its positions taken to a grid of 14 and from there to the network's.

    The authors' code holds a grid of 14 x 14 and interpolates it on every pass by (n + 0.1) / 14, as DINO did.
    """
    mapped = dict(state)
    key, stored_grid = "trunk.pos_embed", 14
    if key in mapped:
        patches = network.get_parameter(key).shape[1] - 1
        stored = resampled(mapped[key], stored_grid**2, prefix=1, mode="bilinear")
        scale = (round(patches**0.5) + 0.1) / stored_grid
        mapped[key] = resampled(stored, patches, prefix=1, mode="bicubic", scale=scale)
    return mapped


def ctranspath_state(state: Mapping[str, torch.Tensor]) -> State:
    """Return CTransPath's tensors: its Swin merges patches at the end of a stage, timm's at the start of the next."""
    mapped: State = {}
    for key, tensor in state.items():
        if key.endswith(("attn_mask", "relative_position_index")) or key.startswith("head."):
            continue  # tables that follow from the sizes, and a classifier
        place = re.match(r"^layers\.(\d+)\.downsample\.(.+)$", key)
        mapped[f"layers.{int(place[1]) + 1}.downsample.{place[2]}" if place else key] = tensor
    return mapped
