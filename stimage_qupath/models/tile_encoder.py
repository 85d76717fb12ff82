"""A frozen network that turns tiles into features: crops, normalisation, precision and pooling, all on the device."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stimage_qupath.models.encoders import FLOAT32, EncoderCard, card_fingerprint
from stimage_qupath.results import stop_if

if TYPE_CHECKING:
    from stimage_qupath.models.encoder_cards import Pooling
    from stimage_qupath.results import CancelCheck

WHITE = 255
DTYPES = {FLOAT32: torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TileEncoder:
    """A network without its classifier, frozen.

    Parameters
    ----------
    network
        The network, weights loaded.
    card
        What it expects; ``weights_sha256`` is filled in here.
    pooling
        What of its output is the feature, see :data:`stimage_qupath.models.encoder_cards.Pooling`.
    """

    def __init__(self, network: nn.Module, card: EncoderCard, *, pooling: Pooling = "network") -> None:
        # channels_last is the layout that convolutions are fast in; transformers have one, which does not mind.
        self.network: Any = network.requires_grad_(requires_grad=False).eval().to(memory_format=torch.channels_last)
        self.card = dataclasses.replace(card, weights_sha256=weights_sha256(network.state_dict()))
        self._pooling = pooling
        self.images_seen: frozenset[str] = frozenset()

    def with_weights(self, weights: Mapping[str, torch.Tensor], *, images_seen: frozenset[str]) -> TileEncoder:
        """Return the encoder with other weights of the same network.

        Parameters
        ----------
        weights
            All tensors of the network, by name.
        images_seen
            SHA-256 of every image that they were learnt on.

        Raises
        ------
        RuntimeError
            They are another network's.
        """
        network = copy.deepcopy(self.network).cpu()
        network.load_state_dict(weights)
        encoder = TileEncoder(network, self.card, pooling=self._pooling)
        encoder.images_seen = images_seen
        return encoder

    def fingerprint(self) -> str:
        """Return a hash of everything that the features depend on besides the pixels."""
        return card_fingerprint(self.card, pooling=self._pooling)

    def encode(
        self,
        image: NDArray[np.uint8],
        centres: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck,
    ) -> NDArray[np.float32]:
        """Return pooled features; see :class:`stimage_qupath.models.encoders.Encoder`."""
        side = self.card.tile_px
        corners = np.floor(centres - side / 2 + 0.5).astype(np.intp)
        _check_margin(corners, side, image.shape)
        self.network.to(device)
        block = torch.tensor(image, device=device)
        features = []
        with torch.inference_mode(), _exact_convolutions():
            for start in range(0, len(corners), batch_size):
                stop_if(cancelled)
                places = corners[start : start + batch_size].tolist()
                # Stacked with the colours last, tiles have the layout of the network without another copy.
                tiles = torch.stack([block[y : y + side, x : x + side] for x, y in places]).permute(0, 3, 1, 2)
                features.append(self.features(tiles))
            if not features:
                return np.empty((0, self.card.width), dtype=np.float32)
            return np.asarray(torch.cat(features).cpu().numpy())  # one wait for the device at the end, not one a batch

    def features(self, tiles: torch.Tensor) -> torch.Tensor:
        """Normalise tiles, (tile, 3, side, side) uint8, run the network and pool, (tile, width) float32."""
        mean, std = (torch.tensor(v, device=tiles.device).view(1, 3, 1, 1) for v in (self.card.mean, self.card.std))
        pixels = tiles.to(torch.float32, copy=True).div_(WHITE).sub_(mean).div_(std)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        dtype = DTYPES[self.card.precision]
        with torch.autocast(tiles.device.type, dtype=dtype, enabled=dtype != torch.float32):
            if self._pooling == "network":
                pooled = self.network(pixels)
            else:
                tokens = self.network.forward_features(pixels)
                pooled = tokens[:, 0]
                if self._pooling == "class+mean":
                    # Prefix tokens are the class and the registers; registers carry nothing about the tile.
                    patches = tokens[:, self.network.num_prefix_tokens :]
                    pooled = torch.cat([pooled, patches.mean(dim=1)], dim=-1)
        result: torch.Tensor = pooled.float()
        return result


def _exact_convolutions() -> Any:
    """Keep convolutions in full float32: TF32 would make features depend on the batch size beyond 1e-4."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )


def _check_margin(corners: NDArray[np.intp], side: int, shape: tuple[int, ...]) -> None:
    """Refuse windows that the image does not hold whole: the caller reads the margin (and its white padding)."""
    if len(corners) and (corners.min() < 0 or (corners.max(axis=0) + side > (shape[1], shape[0])).any()):
        msg = f"expected an image with {side // 2} px around every centre, found {shape[1]} x {shape[0]} px"
        raise ValueError(msg)


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Return one hash of all tensors with their names, shapes and types, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
