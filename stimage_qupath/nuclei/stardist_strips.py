"""A StarDist network over a large image, a strip of rows at a time where its layers are large.

The layers at the image's own size and on the grid of the result make nearly all of the memory, and more than a cache
holds. They see a few pixels around a place only, so that strips with that much more on each side give what the whole
would give; the layers below, which are small, run on the whole. Distances are computed at candidates alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from stimage_qupath.nuclei.stardist_network import StarDistNetwork

STRIP_ROWS: Final = 64
"""Rows of the image in a strip. A quarter is computed twice, which costs less than leaving the cache (measured)."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Points of the grid that may be the middle of a nucleus.

    Attributes
    ----------
    rows, cols
        (candidate,) int64 on the grid, in the order of rows, then columns.
    prob
        (candidate,) float32.
    dist
        (candidate, ray) float32, px of the image.
    """

    rows: Tensor
    cols: Tensor
    prob: Tensor
    dist: Tensor


@torch.inference_mode()
def candidates(network: StarDistNetwork, image: Tensor, *, threshold: float, rim: int) -> Candidates:
    """Return the points whose probability is above a threshold.

    Parameters
    ----------
    network
        Ready to predict.
    image
        (1, channel, row, column), channels last, sides multiples of ``network.config.divisor``.
    threshold
        Probability.
    rim
        Points along the border of the grid that are none.
    """
    inner, skip = _descended(network, image)
    found = [_found(network, *part, threshold=threshold) for part in _ascending(network, inner, skip)]
    rows, cols, prob, dist = (torch.cat(parts) for parts in zip(*found, strict=True))
    height, width = (n // g for n, g in zip(image.shape[2:], network.config.grid, strict=True))
    inside = (rows >= rim) & (rows < height - rim) & (cols >= rim) & (cols < width - rim)
    return Candidates(rows[inside], cols[inside], prob[inside], dist[inside])


def _descended(network: StarDistNetwork, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the layers below the first skip connection make of it, and that connection's values."""
    config = network.config
    down, pool = config.grid[0], config.unet_pool[0]
    unit = down * pool  # rows of the image to a row below the connection
    halo = -(-_reach_of_reduction(network) // unit) + -(-_reach(network.down[:1]) // pool)
    skips, pooled = [], []
    for start, stop, low, high in _strips(image.shape[2] // unit, max(1, STRIP_ROWS // unit), halo):
        skip = network.down[0](network.reduced(image[:, :, low * unit : high * unit]))
        skip = skip[:, :, (start - low) * pool : (stop - low) * pool]
        skips.append(skip)
        pooled.append(nn.functional.max_pool2d(skip, config.unet_pool))
    return network.below(torch.cat(pooled, dim=2)), torch.cat(skips, dim=2)


def _ascending(network: StarDistNetwork, inner: Tensor, skip: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row of each strip of the grid and the features there, (row, column, channel)."""
    pool, base = network.config.unet_pool[0], network.config.grid[0] * network.config.unet_pool[0]
    halo = -(-(_reach(network.up[-1:]) + _reach([network.features])) // pool)
    for start, stop, low, high in _strips(inner.shape[2], max(1, STRIP_ROWS // base), halo):
        x = network.joined(inner[:, :, low:high], skip[:, :, low * pool : high * pool])
        x = network.features(network.up[-1](x))[0, :, (start - low) * pool : (stop - low) * pool]
        yield start * pool, x.permute(1, 2, 0)


def _found(
    network: StarDistNetwork, first: int, features: Tensor, *, threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return row, column, probability and distances of the candidates in a strip."""
    with torch.autocast(features.device.type, enabled=False):  # what is read off is not rounded to three digits
        features = features.float()
        prob = torch.sigmoid(nn.functional.linear(features, network.prob.weight[:, :, 0, 0], network.prob.bias)[..., 0])
        rows, cols = torch.nonzero(prob > threshold, as_tuple=True)
        dist = nn.functional.linear(features[rows, cols], network.dist.weight[:, :, 0, 0], network.dist.bias)
    return rows + first, cols, prob[rows, cols], dist


def _reach(stacks: nn.ModuleList | list[nn.Module]) -> int:
    """Return how many rows the convolutions of some stacks see beyond a place, at the rows of the first."""
    layers = [m for stack in stacks for m in stack.modules() if isinstance(m, nn.Conv2d)]
    return sum(int(layer.kernel_size[0]) // 2 for layer in layers)


def _reach_of_reduction(network: StarDistNetwork) -> int:
    """Return how many rows of the image a row of the grid sees beyond its own."""
    reach, scale = 0, 1
    for (down, _), stack in zip(network.pools, network.reduce, strict=True):
        reach += scale * _reach([stack])
        scale *= down
    return reach


def _strips(rows: int, size: int, halo: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield start and stop of each strip, and those of the rows that it needs."""
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        yield start, stop, max(0, start - halo), min(rows, stop + halo)
