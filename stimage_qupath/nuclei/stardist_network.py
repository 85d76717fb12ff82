"""The network of StarDist in torch, with its weights (Schmidt et al. 2018, doi 10.1007/978-3-030-00934-2_30).

For every pixel of a coarse grid a U-Net gives the probability of being in a nucleus and the distance to its edge along
rays. The original keeps its weights in Keras' HDF5 layout (``weights_best.h5``) beside ``config.json``; both are read
as they are, so that no TensorFlow is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stimage_qupath.errors import UnknownModelError

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("weights_best.h5", "weights_last.h5", "weights_now.h5")
BATCH_NORM_EPSILON = 1e-3
"""Keras' default; torch's is 1e-5."""


@dataclass(frozen=True, slots=True)
class StarDistConfig:
    """The parts of ``config.json`` that shape the network, by their names there."""

    n_rays: int
    n_channel_in: int
    grid: tuple[int, int]
    unet_n_depth: int = 3
    unet_kernel_size: tuple[int, int] = (3, 3)
    unet_n_filter_base: int = 32
    unet_n_conv_per_depth: int = 2
    unet_pool: tuple[int, int] = (2, 2)
    unet_activation: str = "relu"
    unet_last_activation: str = "relu"
    unet_batch_norm: bool = False
    unet_expansion: int = 2
    net_conv_after_unet: int = 128
    n_classes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what this network does not build."""
        foreign = {self.unet_activation, self.unet_last_activation} - {"relu"}
        if foreign or self.n_classes is not None:
            found = f"activation {', '.join(sorted(foreign))}" if foreign else f"{self.n_classes} classes"
            msg = f"expected a StarDist 2D model with relu and without classes, found {found}"
            raise UnknownModelError(msg)

    @classmethod
    def read(cls, path: Path) -> StarDistConfig:
        """Read ``config.json``; :class:`UnknownModelError` where it is none of a StarDist 2D model."""
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known: dict[str, Any] = {f.name: values[f.name] for f in fields(cls) if f.name in values}
            known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
            return cls(**known)
        except (OSError, ValueError, TypeError) as error:
            msg = f"expected the {CONFIG_FILE} of a StarDist 2D model at {path}, found {error}"
            raise UnknownModelError(msg) from error

    @property
    def divisor(self) -> tuple[int, int]:
        """Height and width of the input must be multiples of this."""
        down, across = (g * p**self.unet_n_depth for g, p in zip(self.grid, self.unet_pool, strict=True))
        return down, across


class _Convolution(nn.Module):
    """Convolution, normalisation where the model has it, relu."""

    def __init__(self, channels_in: int, channels: int, config: StarDistConfig, *, normalised: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, config.unet_kernel_size, padding="same")
        self.norm = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON) if normalised else None

    def forward(self, x: Tensor) -> Tensor:
        """(image, channel, row, column) to the same size."""
        x = self.conv(x)
        return torch.relu_(x if self.norm is None else self.norm(x))


class StarDistNetwork(nn.Module):
    """U-Net of StarDist 2D; blocks stand in the order in which they run.

    Parameters
    ----------
    config
        Shape of the network.
    """

    def __init__(self, config: StarDistConfig) -> None:
        super().__init__()
        self.config = config
        self._channels = config.n_channel_in
        base, depth, each = config.unet_n_filter_base, config.unet_n_depth, config.unet_n_conv_per_depth
        width = [int(base * config.unet_expansion**n) for n in range(depth + 1)]
        self.pools = _pools(config.grid)
        # Before the U-Net the image is brought to the grid; those convolutions are never normalised.
        self.reduce = nn.ModuleList(self._stack([base] * each, normalised=False) for _ in self.pools)
        self.down = nn.ModuleList(self._stack([width[n]] * each) for n in range(depth))
        self.middle = self._stack([width[depth]] * (each - 1) + [width[max(0, depth - 1)]])
        up = []
        for n in reversed(range(depth)):
            self._channels += width[n]  # the skip connection
            up.append(self._stack([width[n]] * (each - 1) + [width[max(0, n - 1)]]))
        self.up = nn.ModuleList(up)
        after = config.net_conv_after_unet
        self.features = self._stack([after] if after else [], normalised=False)
        self.prob = nn.Conv2d(self._channels, 1, 1)
        self.dist = nn.Conv2d(self._channels, config.n_rays, 1)

    def _stack(self, widths: list[int], *, normalised: bool | None = None) -> nn.Sequential:
        """Build convolutions one after another, and remember how many channels come out."""
        normalised = self.config.unet_batch_norm if normalised is None else normalised
        layers = []
        for channels in widths:
            layers.append(_Convolution(self._channels, channels, self.config, normalised=normalised))
            self._channels = channels
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return probability and distances on the grid.

        Parameters
        ----------
        x
            (image, channel, row, column), rows and columns multiples of ``config.divisor``.

        Returns
        -------
        tuple of Tensor
            (image, row, column) in 0-1 and (image, row, column, ray) in pixels of the input.
        """
        logit, dist = self.logits(x)
        return torch.sigmoid(logit), dist

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`forward` does, with the log odds of the probability: training needs those."""
        x = self.reduced(x)
        if self.down:
            skip = self.down[0](x)
            x = self.up[-1](self.joined(self.below(nn.functional.max_pool2d(skip, self.config.unet_pool)), skip))
        else:
            x = self.middle(x)
        x = self.features(x)
        # Both heads in one pass: a convolution to a single channel alone takes torch's slow way.
        weight, bias = (torch.cat([getattr(self.prob, name), getattr(self.dist, name)]) for name in ("weight", "bias"))
        both = nn.functional.conv2d(x, weight, bias)
        return both[:, 0], both[:, 1:].permute(0, 2, 3, 1)

    def reduced(self, x: Tensor) -> Tensor:
        """Bring an image to the grid."""
        for pool, convolve in zip(self.pools, self.reduce, strict=True):
            x = nn.functional.max_pool2d(convolve(x), pool)
        return x

    def below(self, x: Tensor) -> Tensor:
        """Return what the layers between the first pooling and the last upsampling make of its values."""
        skips = []
        for convolve in self.down[1:]:
            x = convolve(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, self.config.unet_pool)
        x = self.middle(x)
        for convolve in self.up[:-1]:
            x = convolve(self.joined(x, skips.pop()))
        return x

    def joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """Bring values to the size of a skip connection, and its channels beside theirs."""
        x = nn.functional.interpolate(x, scale_factor=[float(p) for p in self.config.unet_pool], mode="nearest")
        return torch.cat([x, skip], dim=1)


def _pools(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the poolings, each of 1 or 2 a side, that lead to ``grid``."""
    pools, reached = [], [1, 1]
    while tuple(reached) != grid:
        pool = (2 if grid[0] > reached[0] else 1, 2 if grid[1] > reached[1] else 1)
        reached = [reached[0] * pool[0], reached[1] * pool[1]]
        if reached[0] > grid[0] or reached[1] > grid[1]:
            msg = f"expected a grid of powers of two, found {grid}"
            raise UnknownModelError(msg)
        pools.append(pool)
    return pools


def load_network(folder: Path) -> StarDistNetwork:
    """Return the network in a StarDist model folder, with its weights, ready to predict.

    Raises
    ------
    UnknownModelError
        The folder is not a StarDist 2D model, or its weights are of another shape than its configuration.
    """
    config = StarDistConfig.read(folder / CONFIG_FILE)
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        msg = f"expected {WEIGHT_FILES[0]} in {folder}, found no weights; copy the whole StarDist model folder"
        raise UnknownModelError(msg)
    network = StarDistNetwork(config)
    try:
        with h5py.File(path) as file:
            _assign(network, file)
    except (OSError, KeyError, ValueError, StopIteration) as error:
        msg = f"expected the weights of a StarDist model in {path}, found others or a damaged file: {error!r}"
        raise UnknownModelError(msg) from error
    network.requires_grad_(requires_grad=False)
    return network.eval()


def _assign(network: StarDistNetwork, file: h5py.File) -> None:
    """Hand every layer of the file to the layer of the network that runs at its turn."""
    heads = {"prob": network.prob, "dist": network.dist}
    in_order = [m for name, m in network.named_modules() if name not in heads]
    convolutions = iter([m for m in in_order if isinstance(m, nn.Conv2d)])
    normalisations = iter([m for m in in_order if isinstance(m, nn.BatchNorm2d)])
    for name, weights in _layers(file):
        if "gamma" in weights:
            norm = next(normalisations)
            _fill(norm.weight, weights["gamma"])
            _fill(norm.bias, weights["beta"])
            _fill(norm.running_mean, weights["moving_mean"])
            _fill(norm.running_var, weights["moving_variance"])
        elif "kernel" in weights:
            conv = heads[name] if name in heads else next(convolutions)
            _fill(conv.weight, weights["kernel"].transpose(3, 2, 0, 1))  # Keras: row, column, in, out
            _fill(conv.bias, weights["bias"])
    missing = len(list(convolutions)) + len(list(normalisations))
    if missing:
        msg = f"{missing} layers of the configuration have no weights"
        raise ValueError(msg)


def _layers(file: h5py.File) -> Iterator[tuple[str, dict[str, NDArray[np.float32]]]]:
    """Yield the name and weights of each layer, in the order of the Keras model."""
    root = file.get("model_weights", file)  # a whole saved model holds its weights one level down
    for raw in root.attrs["layer_names"]:
        name = raw.decode() if isinstance(raw, bytes) else str(raw)
        group, weights = root[name], {}
        for raw_weight in group.attrs["weight_names"]:
            weight = raw_weight.decode() if isinstance(raw_weight, bytes) else str(raw_weight)
            weights[weight.rsplit("/", 1)[-1].split(":")[0]] = np.asarray(group[weight], dtype=np.float32)
        yield name, weights


def _fill(target: Any, values: NDArray[np.float32]) -> None:
    if tuple(target.shape) != values.shape:
        msg = f"a weight of shape {tuple(target.shape)} is needed, the file has {values.shape}"
        raise ValueError(msg)
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.ascontiguousarray(values)))
