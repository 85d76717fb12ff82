"""The encoder ``context`` as one that passes gradients, and as one of averaged maps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.models import context, mobilenet
from stimage_qupath.models.mobilenet_changes import ChangedMap, RememberedTrunk


class DifferentiableContext:
    """The encoder ``context``, asked for several pictures."""

    whole_image = True

    def __init__(self, encoder: context.ContextEncoder) -> None:
        self.card = encoder.card
        self._encoder = encoder

    def features(self, images: Tensor, centres: Tensor) -> Tensor:
        """See :class:`~stimage_qupath.attribution.capabilities.DifferentiableEncoder`."""
        self._encoder.trunk.to(images.device)
        return torch.stack([self._encoder.features(image, centres) for image in images])

    def network(self) -> torch.nn.Module:
        """See :class:`~stimage_qupath.attribution.capabilities.DifferentiableEncoder`."""
        return self._encoder.trunk


class ContextMoments:
    """The encoder ``context``, as moments of its maps and their averages over windows."""

    strides_px = tuple(tap.stride for tap in mobilenet.TAPS)

    def __init__(self, encoder: context.ContextEncoder) -> None:
        self.card = encoder.card
        self.window_px = round(max(encoder.windows_px))
        self._encoder = encoder

    def moments(self, image: Tensor) -> tuple[Tensor, ...]:
        """See :class:`~stimage_qupath.attribution.capabilities.PooledEncoder`."""
        trunk = self._encoder.trunk.to(image.device)
        return _moments(trunk(_levels(image[None])))

    def remember(self, image: Tensor, area: NDArray[np.intp]) -> RememberedContext:
        """See :class:`~stimage_qupath.attribution.capabilities.PooledEncoder`."""
        return RememberedContext(self._encoder.trunk.to(image.device), image, area)

    def weights(self, index: int, centres: Tensor, cells: int) -> Tensor:
        """See :class:`~stimage_qupath.attribution.capabilities.PooledEncoder`."""
        stride = self.strides_px[index]
        position = ((centres + 0.5) / stride - 1).clamp(0, cells - 1)
        before = position.floor().long()
        share = (position - before)[:, None]
        found = []
        for side_px in self._encoder.windows_px:
            side = context.round_to_odd(side_px / stride)
            at_cell = context.window_means(cells, side, device=centres.device)
            found.append((1 - share) * at_cell[before] + share * at_cell[(before + 1).clamp(max=cells - 1)])
        return torch.stack(found)

    def statistics(self, means: tuple[Tensor, ...]) -> Tensor:
        """See :class:`~stimage_qupath.attribution.capabilities.PooledEncoder`."""
        parts = []
        for of_map in means:
            mean, _ = of_map.chunk(2, dim=-1)
            parts.append(torch.stack([mean, _spread(of_map)], dim=2).flatten(1))
        return torch.cat(parts, dim=1)

    def slopes(self, means: Tensor) -> Tensor:
        """See :class:`~stimage_qupath.attribution.capabilities.PooledEncoder`."""
        mean, square = means.chunk(2, dim=-1)
        inverse = torch.where(square > mean.square(), 1 / _spread(means), 0)
        return torch.stack([torch.ones_like(mean), -mean * inverse, inverse / 2], dim=2)


class RememberedContext:
    """A picture's maps by the encoder ``context``.

    Parameters
    ----------
    trunk
        Its network.
    image, area
        See :meth:`~stimage_qupath.attribution.capabilities.PooledEncoder.remember`.
    """

    def __init__(self, trunk: mobilenet.MobileNetTrunk, image: Tensor, area: NDArray[np.intp]) -> None:
        self._trunk = RememberedTrunk(trunk, _levels(image[None]), area)
        self.moments = _moments(self._trunk.maps)

    def changed(self, corners: Tensor, pictures: Tensor) -> list[ChangedMap]:
        """See :class:`~stimage_qupath.attribution.capabilities.RememberedMaps`."""
        return self._trunk.changed(corners, _levels(pictures))


def _levels(images: Tensor) -> Tensor:
    """Return pictures as the trunk takes them."""
    return ((images - context.ZERO_LEVEL) * context.LEVEL_SCALE).contiguous(memory_format=torch.channels_last)


def _moments(maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return maps of one picture and behind them their squares, (2 x channel, row, column)."""
    return tuple(torch.cat([one[0], one[0].square()]) for one in maps)


def _spread(means: Tensor) -> Tensor:
    """Return standard deviations, (place, window, channel), of averages of maps and their squares."""
    mean, square = means.chunk(2, dim=-1)
    return (square - mean.square()).clamp(min=0).add(context.SPREAD_FLOOR).sqrt()
