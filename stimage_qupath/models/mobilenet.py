"""The first thirteen blocks of MobileNetV2 (Sandler et al. 2018, doi 10.1109/CVPR.2018.00474), over images of any size.

What a pathologist calls texture - density, shape and arrangement of nuclei, fibres, fat - lives in the maps of the
middle layers; the later blocks describe whole photographs and predict no better. The weights that ship were trained on
ImageNet and stored in eight bits, with the batch normalisation folded into the convolutions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.nn import functional

from stimage_qupath.config import STARTER
from stimage_qupath.errors import MissingPartError
from stimage_qupath.models.lone_threads import in_lone_threads

WEIGHTS = "mobilenet_v2_trunk.safetensors"
SOURCE = "MobileNetV2 1.0 224 of ImageNet in 8 bits, github.com/google-coral/test_data commit 104342d"
LICENCE = "Apache-2.0"
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
"""Expansion, channels, blocks and stride of the first block; table 2 of the paper, up to its fifth row."""
STEM_CHANNELS = 32
WIDE_BYTES = {"cpu": 2**21}
"""Of the widened image in a strip of rows: on a processor what its cache holds, which takes a third of the time of the
second block (measured); elsewhere :data:`WIDE_BYTES_ON_DEVICE`."""
WIDE_BYTES_ON_DEVICE = 2**28


class Tap(NamedTuple):
    """A block whose output is used.

    Attributes
    ----------
    block
        Index among the blocks.
    channels
        Of its output.
    stride
        Pixels of the image a step of the output.
    """

    block: int
    channels: int
    stride: int


TAPS = (Tap(5, 32, 8), Tap(9, 64, 16), Tap(12, 96, 16))
"""The last block of each of the last three stages."""
REACH_PX = 144
"""How far around its centre an output of the last tap looks: 133 px, and up to the next multiple of the stride."""
ALIGN_PX = 16
"""An image that begins at a multiple of this gives the maps that any other such image of the slide gives there."""


class MobileNetTrunk(nn.Module):
    """The network up to the last tap, (image, 3, height, width) in -1 to 1 -> the maps of ``TAPS``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2)
        blocks, width = [], STEM_CHANNELS
        for expansion, channels, repeats, stride in STAGES:
            for repeat in range(repeats):
                blocks.append(
                    InvertedResidual(width, channels, expansion=expansion, stride=stride if repeat == 0 else 1)
                )
                width = channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return (image, channel, row, column) of each tap."""
        x = functional.relu6(self.stem(pad_for_stride(image)), inplace=True)  # (image, 32, h / 2, w / 2)
        taps = {tap.block for tap in TAPS}
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in taps:
                maps.append(x)
        return tuple(maps)


class InvertedResidual(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; added to its input where the shapes agree."""

    def __init__(self, width: int, channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = nn.Conv2d(width, inner, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(inner, inner, 3, stride=stride, padding=stride % 2, groups=inner)
        self.project = nn.Conv2d(inner, channels, 1)
        self.strided = stride > 1
        self.residual = stride == 1 and width == channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, with as many rows and columns, or half as many where it strides."""
        parts = in_lone_threads(lambda strip: self._rows(x, *strip), self._strips(x), device=x.device)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _strips(self, x: Tensor) -> Iterator[tuple[int, int]]:
        """Yield first and last row of the output's strips: the widened image is far larger than what comes and goes."""
        stride, rows = 1 + self.strided, x.shape[2] // (1 + self.strided)
        inner, bytes_of_value = self.depthwise.in_channels, x.element_size()
        at_once = WIDE_BYTES.get(x.device.type, WIDE_BYTES_ON_DEVICE)
        size = max(1, at_once // (len(x) * inner * x.shape[3] * bytes_of_value * stride))
        for start in range(0, max(rows, 1), size):
            yield start, min(start + size, rows)

    def _rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return some rows of the output; beyond the image there are zeros, after the widening."""
        stride = 1 + self.strided
        first, last = (start * 2, stop * 2 + 1) if self.strided else (start - 1, stop + 1)
        above, below = max(0, -first), max(0, last - x.shape[2])
        y = x[:, :, max(0, first) : last]
        y = y if self.expand is None else functional.relu6(pointwise(self.expand, y), inplace=True)
        sides = (0, 1) if self.strided else (1, 1)  # a stride looks to the right: output j at inputs 2j to 2j + 2
        y = functional.pad(y, (*sides, above, below))
        filters = self.depthwise
        y = functional.conv2d(y, filters.weight, filters.bias, stride=stride, groups=filters.groups)
        y = pointwise(self.project, functional.relu6(y, inplace=True))
        return x[:, :, start:stop] + y if self.residual else y


def pointwise(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return a convolution of one pixel as the product of matrices that it is, which is quicker."""
    product = functional.linear(x.permute(0, 2, 3, 1), convolution.weight.flatten(1), convolution.bias)
    return product.permute(0, 3, 1, 2)


def pad_for_stride(x: Tensor) -> Tensor:
    """Pad right and bottom by one, as the weights were trained with: output ``j`` looks at inputs 2j to 2j + 2."""
    return torch.as_tensor(functional.pad(x, (0, 1, 0, 1)))


def load_trunk(path: Path | None = None) -> tuple[MobileNetTrunk, str]:
    """Return the trunk with its weights, frozen, and the SHA-256 of the file they came from.

    Parameters
    ----------
    path
        File of the weights; None takes those that ship.

    Raises
    ------
    MissingPartError
        The file is not there, or holds other tensors.
    """
    file = Path(str(resources.files("stimage_qupath") / STARTER / WEIGHTS)) if path is None else path
    trunk = MobileNetTrunk()
    try:
        data = file.read_bytes()
        stored = load_tensors(data)
        trunk.load_state_dict({name: _dequantised(stored, name) for name in trunk.state_dict()})
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        msg = f"expected the weights of the encoder at {file}, found {error}; install the package again"
        raise MissingPartError(msg) from error
    trunk.requires_grad_(requires_grad=False)
    trunk.to(memory_format=torch.channels_last)
    return trunk.eval(), hashlib.sha256(data).hexdigest()


def _dequantised(stored: dict[str, Tensor], name: str) -> Tensor:
    """Return a tensor as float32; those in eight bits come with their scale and zero point."""
    values = stored[name]
    if values.dtype != torch.uint8:
        return values
    scale, zero = stored[f"{name}_scale"].tolist()
    return torch.as_tensor((values.float() - zero) * scale)
