"""Encoders whose weights can be learnt further: what runs with gradients, and how deep each weight lies."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stimage_qupath.errors import UsageError
from stimage_qupath.models.context import ContextEncoder
from stimage_qupath.models.encoders import FLOAT32, Encoder, EncoderCard
from stimage_qupath.models.tile_encoder import TileEncoder

HALF = "bfloat16"


class Tunable(Protocol):
    """A copy of an encoder that gradients pass through.

    Attributes
    ----------
    card
        What it expects.
    network
        Whose weights are learnt. Batch normalisation keeps its statistics: batches of one tissue would spoil them.
    whole_windows
        Whether one image serves many places; else an image is one place's window.
    """

    card: EncoderCard
    network: nn.Module
    whole_windows: bool

    def features(self, images: Sequence[Tensor], centres: Sequence[Tensor]) -> Tensor:
        """Return the features of all places of all images, one image after the other, (place, feature).

        Parameters
        ----------
        images
            (3, height, width) levels 0-255 as float, each.
        centres
            (place, 2) x and y in pixels of its image, each.
        """
        ...


def as_tunable(encoder: Encoder, device: torch.device) -> Tunable:
    """Return a copy of ``encoder`` on a device, in mixed precision where that is CUDA.

    Raises
    ------
    UsageError
        Its features have no gradients with respect to weights, or there are several encoders.
    """
    half = device.type == "cuda"
    if isinstance(encoder, TileEncoder):
        return _Tiles(encoder, device, half=half)
    if isinstance(encoder, ContextEncoder):
        return _Context(encoder, device, half=half)
    msg = (
        f"expected an encoder that is a network (context, timm:<model> or one of the registry) to fine-tune, "
        f"found {encoder.card.name}; choose one with --encoder, or leave --fine-tune out"
    )
    raise UsageError(msg)


class _Tiles:
    """A network of tiles: an image is a window."""

    whole_windows = False

    def __init__(self, encoder: TileEncoder, device: torch.device, *, half: bool) -> None:
        self._encoder = copy.deepcopy(encoder)
        self.card = encoder.card
        if half and self.card.precision == FLOAT32:
            self._encoder.card = dataclasses.replace(self.card, precision=HALF)
        self.network: nn.Module = self._encoder.network.to(device)

    def features(self, images: Sequence[Tensor], centres: Sequence[Tensor]) -> Tensor:
        """See :class:`Tunable`."""
        return self._encoder.features(torch.stack(list(images)))


class _Context:
    """The encoder ``context``: one pass over an image serves all places in it."""

    whole_windows = True

    def __init__(self, encoder: ContextEncoder, device: torch.device, *, half: bool) -> None:
        self._encoder = copy.deepcopy(encoder)
        self.card = encoder.card
        self.network: nn.Module = self._encoder.trunk.to(device)
        if half:
            runner: Any = _HalfTrunk(self.network)
            self._encoder.trunk = runner

    def features(self, images: Sequence[Tensor], centres: Sequence[Tensor]) -> Tensor:
        """See :class:`Tunable`."""
        return torch.cat([self._encoder.features(*pair) for pair in zip(images, centres, strict=True)])


class _HalfTrunk(nn.Module):
    """A trunk in bfloat16 whose maps come back in float32: their moments are differences of large numbers."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self._trunk = trunk

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(image.device.type, dtype=torch.bfloat16):
            maps = self._trunk(image)
        return tuple(one.float() for one in maps)


def layers_of(network: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of each layer, the one nearest to the pixels first.

    A layer is a numbered block (``blocks.3``); what is defined before the first of them is one layer, and what comes
    after is one more.
    """
    layers: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        pieces = name.split(".")
        number = next((i for i, piece in enumerate(pieces) if piece.isdigit()), None)
        numbered = any(key not in ("first", "last") for key in layers)
        outside = "last" if numbered else "first"
        layers.setdefault(outside if number is None else ".".join(pieces[: number + 1]), []).append(parameter)
    if "last" in layers:  # a network may define one of its last weights between blocks
        layers["last"] = layers.pop("last")
    return list(layers.values())


def layer_rates(network: nn.Module, rate: float, decay: float) -> list[dict[str, Any]]:
    """Return groups of parameters with their learning rates; those with rate 0 are frozen and left out.

    The last layer learns at ``rate``, each layer before it at ``decay`` times the next one's (Howard & Ruder 2018,
    arXiv 1801.06146).
    """
    layers = layers_of(network)
    groups = []
    for depth, parameters in enumerate(reversed(layers)):
        own = rate * decay**depth
        for parameter in parameters:
            parameter.requires_grad_(own > 0)
        if own > 0:
            groups.append({"params": parameters, "lr": own})
    return groups
