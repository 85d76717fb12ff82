"""What an encoder can do beyond encoding, and encoders of the package seen that way.

Every encoder can be asked again with changed pixels. Two kinds can do more, and are explained faster for it: those that
pass gradients back to the pixels, and those whose windows are means of maps that a pixel changes only near itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution import context_maps
from stimage_qupath.errors import UsageError
from stimage_qupath.models import colour, context
from stimage_qupath.models.encoders import Encoder, EncoderCard
from stimage_qupath.models.mobilenet_changes import ChangedMap
from stimage_qupath.models.tile_encoder import TileEncoder

SPILL_PX = 64
"""How far beyond its window a network is taken to notice anything; from farther away it is next to nothing."""


@runtime_checkable
class DifferentiableEncoder(Protocol):
    """An encoder that torch can differentiate with respect to the pixels.

    Attributes
    ----------
    card
        Of the encoder.
    whole_image
        Whether one pass over an image serves all its places; else each place costs a pass over its own window.
    """

    card: EncoderCard
    whole_image: bool

    def features(self, images: Tensor, centres: Tensor) -> Tensor:
        """Return features, (image, place, feature).

        Parameters
        ----------
        images
            (image, 3, height, width) float32, 0-255, at ``card.mpp``.
        centres
            (place, 2) x and y in pixels, the same in every image.
        """
        ...

    def network(self) -> torch.nn.Module:
        """Return the network, for methods that look at its layers."""
        ...


@runtime_checkable
class LocalEncoder(Protocol):
    """An encoder whose features are a function of window means of maps.

    Attributes
    ----------
    card
        Of the encoder.
    window_px
        Side of the widest window, pixels.
    reach_px
        How far from a changed pixel a map changes, pixels.
    """

    card: EncoderCard
    window_px: int
    reach_px: int

    def maps(self, image: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """Yield each map of an image, (height, width)."""
        ...

    def corners(self, centres: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Return left, top, right, bottom of the windows, (window, 4, place), never empty."""
        ...

    def statistics(self, means: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return features, (place, feature), from window means, (place, window, map)."""
        ...


class RememberedMaps(Protocol):
    """The maps of a picture, from which those of the picture with a part changed follow.

    Attributes
    ----------
    moments
        The maps and behind them their squares, (2 x channel, row, column).
    """

    moments: tuple[Tensor, ...]

    def changed(self, corners: Tensor, pictures: Tensor) -> list[ChangedMap]:
        """Return the maps around parts that changed, each alone.

        Parameters
        ----------
        corners
            (part, 2) int64, x and y of the parts' corners in steps of the encoder's ``align_px``.
        pictures
            (part, 3, height, width) float32, 0-255: what is there instead; sides are multiples of ``align_px``.
        """
        ...


@runtime_checkable
class PooledEncoder(Protocol):
    """An encoder whose features are means and standard deviations of maps over windows.

    Attributes
    ----------
    card
        Of the encoder.
    window_px
        Side of the widest window, pixels.
    strides_px
        Pixels a step of each map.
    """

    card: EncoderCard
    window_px: int
    strides_px: tuple[int, ...]

    def moments(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps and behind them their squares, (2 x channel, row, column), of (3, height, width), 0-255."""
        ...

    def remember(self, image: Tensor, area: NDArray[np.intp]) -> RememberedMaps:
        """Return the maps of an image, for pictures that differ from it in parts.

        Parameters
        ----------
        image
            (3, height, width), 0-255.
        area
            (2, 2) left and top, right and bottom of where the parts lie, pixels.
        """
        ...

    def weights(self, index: int, centres: Tensor, cells: int) -> Tensor:
        """Return how the cells of a map count along one axis, (window, centre, cell); windows are products of two axes.

        Parameters
        ----------
        index
            Which map.
        centres
            (centre,) places along the axis, pixels.
        cells
            Length of the axis.
        """
        ...

    def statistics(self, means: tuple[Tensor, ...]) -> Tensor:
        """Return features, (place, feature): of each map and window the means, then the standard deviations.

        Parameters
        ----------
        means
            (place, window, 2 x channel) window averages of the moments of each map.
        """
        ...

    def slopes(self, means: Tensor) -> Tensor:
        """Return how features follow the window averages of one map, (place, window, 3, channel).

        The slope of a mean with respect to the average of the map, and of a standard deviation with respect to the
        averages of the map and of its square.

        Parameters
        ----------
        means
            (place, window, 2 x channel) of that map.
        """
        ...


def as_differentiable(encoder: Encoder) -> DifferentiableEncoder:
    """Return ``encoder`` as one that passes gradients.

    Raises
    ------
    UsageError
        It cannot.
    """
    if isinstance(encoder, TileEncoder):
        return DifferentiableTiles(encoder)
    if isinstance(encoder, context.ContextEncoder):
        return context_maps.DifferentiableContext(encoder)
    if isinstance(encoder, DifferentiableEncoder):
        return encoder
    msg = (
        f"expected an encoder with gradients for this method, found {encoder.card.name}; "
        "pass --method ablation, lime or kernel_shap"
    )
    raise UsageError(msg)


def as_local(encoder: Encoder) -> LocalEncoder | None:
    """Return ``encoder`` as one of window means, or None where it is none."""
    if isinstance(encoder, colour.ColourEncoder):
        return ColourMaps()
    return encoder if isinstance(encoder, LocalEncoder) else None


def as_pooled(encoder: Encoder) -> PooledEncoder | None:
    """Return ``encoder`` as one of averaged maps, or None where it is none."""
    if isinstance(encoder, context.ContextEncoder):
        return context_maps.ContextMoments(encoder)
    return encoder if isinstance(encoder, PooledEncoder) else None


def window_px(encoder: Encoder) -> int:
    """Return the side of the window whose content an encoder's features describe, pixels."""
    special = as_local(encoder) or as_pooled(encoder)
    return encoder.card.tile_px if special is None else special.window_px


def sees_px(encoder: Encoder) -> float:
    """Return how far from a place something can matter to its features, pixels."""
    return min(encoder.card.tile_px, window_px(encoder) + 2 * SPILL_PX) / 2


class DifferentiableTiles:
    """A network of tiles, asked for windows of tensors.

    Parameters
    ----------
    encoder
        Whose network, normalisation and pooling to use.
    """

    whole_image = False

    def __init__(self, encoder: TileEncoder) -> None:
        self.card = encoder.card
        self._encoder = encoder

    def features(self, images: Tensor, centres: Tensor) -> Tensor:
        """See :class:`DifferentiableEncoder`."""
        self._encoder.network.to(images.device)
        side = self.card.tile_px
        corners = torch.floor(centres - side / 2 + 0.5).long().tolist()
        tiles = torch.cat([images[:, :, y : y + side, x : x + side] for x, y in corners])
        return self._encoder.features(tiles).view(len(corners), len(images), -1).transpose(0, 1)

    def network(self) -> torch.nn.Module:
        """See :class:`DifferentiableEncoder`."""
        network: torch.nn.Module = self._encoder.network
        return network


class ColourMaps:
    """The encoder ``colour``, as maps and their window means."""

    card = colour.ColourEncoder.card
    window_px = max(colour.WINDOWS_UM)
    reach_px = colour.FILTER_REACH_PX

    def maps(self, image: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """See :class:`LocalEncoder`."""
        return colour.pixel_maps(image)

    def corners(self, centres: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.intp]:
        """See :class:`LocalEncoder`."""
        return np.stack([colour.window_corners(centres, side, shape[:2]) for side in colour.WINDOWS_UM])

    def statistics(self, means: NDArray[np.float64]) -> NDArray[np.float32]:
        """See :class:`LocalEncoder`."""
        return np.concatenate([colour.window_features(means[:, w]) for w in range(means.shape[1])], axis=1)
