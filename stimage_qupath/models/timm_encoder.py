"""Any timm network as a frozen encoder of tiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config

from stimage_qupath.errors import MissingPartError, UnknownModelError
from stimage_qupath.models.encoders import TIMM_PREFIX, EncoderCard
from stimage_qupath.results import stop_if

if TYPE_CHECKING:
    from stimage_qupath.results import CancelCheck

MPP = 0.5
"""Pixel size at which general-purpose networks are run: 20x, 112 um for a tile of 224 px."""
WHITE = 255


class TimmEncoder:
    """A timm network without its classifier; the features are its pooled output.

    Parameters
    ----------
    model_name
        timm name, with or without tag.
    weights
        Local ``.safetensors`` or torch checkpoint that replaces the download.
    pretrained
        Load weights at all.
    """

    def __init__(self, model_name: str, *, weights: str | None = None, pretrained: bool = True) -> None:
        if not timm.is_model(model_name):
            close = ", ".join(timm.list_models(f"*{model_name.split('.')[0].split('_')[0]}*")[:3])
            msg = f"expected a model that timm knows, found '{model_name}'; names close to it: {close or 'none'}"
            raise UnknownModelError(msg)
        self.network = _network(model_name, weights=weights, pretrained=pretrained)
        data: dict[str, Any] = resolve_model_data_config(self.network)
        config: dict[str, Any] = self.network.pretrained_cfg
        self.card = EncoderCard(
            name=f"{TIMM_PREFIX}{model_name}",
            source=str(config.get("hf_hub_id") or config.get("url") or "timm"),
            licence=str(config.get("license") or "see the model's page"),
            gated=False,
            mpp=MPP,
            tile_px=int(data["input_size"][-1]),
            width=int(self.network.num_features),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
        )

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
        self.network.to(device)
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (self.card.mean, self.card.std))
        corners = np.floor(centres - self.card.tile_px / 2 + 0.5).astype(np.intp)
        _check_margin(corners, self.card.tile_px, image.shape)
        features = np.empty((len(centres), self.card.width), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(centres), batch_size):
                stop_if(cancelled)
                tiles = _crop(image, corners[start : start + batch_size], self.card.tile_px)
                batch = torch.from_numpy(tiles).to(device).permute(0, 3, 1, 2).float() / WHITE
                features[start : start + batch_size] = self.network((batch - mean) / std).float().cpu().numpy()
        return features


def _check_margin(corners: NDArray[np.intp], side: int, shape: tuple[int, ...]) -> None:
    """Refuse windows that the image does not hold whole: the caller reads the margin (and its white padding)."""
    if len(corners) and (corners.min() < 0 or (corners.max(axis=0) + side > (shape[1], shape[0])).any()):
        msg = f"expected an image with {side // 2} px around every centre, found {shape[1]} x {shape[0]} px"
        raise ValueError(msg)


def _crop(image: NDArray[np.uint8], corners: NDArray[np.intp], side: int) -> NDArray[np.uint8]:
    """Cut square windows, (place, side, side, 3)."""
    return np.stack([image[y : y + side, x : x + side] for x, y in corners])


def _network(model_name: str, *, weights: str | None, pretrained: bool) -> Any:  # timm's attributes are untyped
    """Build the network in evaluation mode, its weights frozen."""
    try:
        network = timm.create_model(model_name, pretrained=pretrained and weights is None, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:  # what the hub raises when it cannot be reached
        msg = (
            f"expected the weights of timm's {model_name}, found none on this machine and no way to the hub ({error}); "
            "connect once, or pass a local checkpoint"
        )
        raise MissingPartError(msg) from error
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            msg = f"expected a checkpoint at {path}, found none; pass the path of a .safetensors file"
            raise MissingPartError(msg)
        state = {name: value for name, value in load_file(path).items() if name in network.state_dict()}
        network.load_state_dict(state)
    network.requires_grad_(requires_grad=False)
    return network.eval()
