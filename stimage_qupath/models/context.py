"""Maps of a convolutional trunk averaged over windows of several physical sizes around each nucleus.

``context`` looks at tissue, 200 and 400 um at 1 um a pixel; ``nucleus`` at a nucleus and those around it, 12 and 80 um
at half a micrometre a pixel.

The trunk runs once over a block of the slide, however many nuclei lie in it; a nucleus costs a lookup. Means say what
the tissue is like there, standard deviations how mixed it is. Every step is differentiable with respect to the pixels.
Windows are clipped at the edge of the slide.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stimage_qupath.models.encoders import CONTEXT, NUCLEUS, EncoderCard, card_fingerprint
from stimage_qupath.models.lone_threads import in_lone_threads
from stimage_qupath.models.mobilenet import ALIGN_PX, LICENCE, REACH_PX, SOURCE, TAPS, load_trunk
from stimage_qupath.models.tile_encoder import weights_sha256
from stimage_qupath.results import stop_if

if TYPE_CHECKING:
    from pathlib import Path

    from stimage_qupath.results import CancelCheck

MPP = 1.0
WINDOWS_UM = (200, 400)
"""A spot with its neighbourhood, and the surrounding tissue compartment."""
NUCLEUS_MPP = 0.5
NUCLEUS_WINDOWS_UM = (12, 80)
"""A nucleus with its rim, and the dozens around it; chosen among 4 to 80 um by blocks of tissue that were left out."""
ZERO_LEVEL, LEVEL_SCALE = 128, 1 / 128
"""The weights were trained on (level - 128) / 128."""
PLACES_AT_ONCE = 4096
SPREAD_FLOOR = 1e-6
"""Added to a variance before its root, whose slope would be infinite where a window is flat."""


class ContextEncoder:
    """Means and standard deviations of MobileNetV2's middle maps over windows, (place, 384 x windows).

    Parameters
    ----------
    weights
        File of the trunk's weights; None takes those that ship.
    name, mpp, windows_um
        What it is called, the pixel size it reads and the sides of the windows.
    """

    def __init__(
        self,
        weights: Path | None = None,
        *,
        name: str = CONTEXT,
        mpp: float = MPP,
        windows_um: tuple[int, ...] = WINDOWS_UM,
    ) -> None:
        self.trunk, sha256 = load_trunk(weights)
        self.windows_px = tuple(side / mpp for side in windows_um)
        self.card = EncoderCard(
            name=name,
            source=SOURCE,
            licence=LICENCE,
            gated=False,
            mpp=mpp,
            tile_px=round(max(self.windows_px)) + 2 * (REACH_PX + ALIGN_PX),
            width=2 * len(windows_um) * sum(tap.channels for tap in TAPS),
            pads_edges=False,
            align_px=ALIGN_PX,
            weights_sha256=sha256,
        )
        self.images_seen: frozenset[str] = frozenset()

    def with_weights(self, weights: Mapping[str, Tensor], *, images_seen: frozenset[str]) -> ContextEncoder:
        """Return the encoder with other weights of its trunk; see :meth:`TileEncoder.with_weights`."""
        encoder = copy.deepcopy(self)
        encoder.trunk.cpu().load_state_dict(weights)
        encoder.card = dataclasses.replace(self.card, weights_sha256=weights_sha256(weights))
        encoder.images_seen = images_seen
        return encoder

    def fingerprint(self) -> str:
        """Return a hash of what the features depend on."""
        return card_fingerprint(self.card)

    def encode(
        self,
        image: NDArray[np.uint8],
        centres: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck,
    ) -> NDArray[np.float32]:
        """Return window statistics; see :class:`stimage_qupath.models.encoders.Encoder`."""
        stop_if(cancelled)
        self.trunk.to(device)
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).float()
            places = torch.from_numpy(centres).to(device=device, dtype=torch.float32)
            return np.asarray(self.features(pixels, places).cpu().numpy())

    def features(self, image: Tensor, centres: Tensor) -> Tensor:
        """Return the features of windows around ``centres``, differentiable with respect to ``image``.

        Parameters
        ----------
        image
            (3, height, width) levels 0-255 as float, at ``card.mpp``.
        centres
            (place, 2) x and y in pixels of ``image``.

        Returns
        -------
        Tensor
            (place, ``card.width``): for each tap and window its means, then its standard deviations.
        """
        x = ((image - ZERO_LEVEL) * LEVEL_SCALE)[None].contiguous(memory_format=torch.channels_last)
        parts: list[Tensor] = []
        for tap, maps in zip(TAPS, self.trunk(x), strict=True):
            # The windows of the convolutions hang to the right: output j is centred on pixel stride * j + stride - 1.
            position = (centres + 0.5) / tap.stride - 1
            parts.extend(
                _window_statistics(maps[0], position, [round_to_odd(side / tap.stride) for side in self.windows_px])
            )
        return torch.cat(parts, dim=1)


def nucleus_encoder(weights: Path | None = None) -> ContextEncoder:
    """Return the encoder ``nucleus``: the same maps over windows of the size of a nucleus, (place, 768)."""
    return ContextEncoder(weights, name=NUCLEUS, mpp=NUCLEUS_MPP, windows_um=NUCLEUS_WINDOWS_UM)


def round_to_odd(cells: float) -> int:
    """Return the odd number nearest to ``cells``, so that a window has a middle cell."""
    return 2 * round((cells - 1) / 2) + 1


def _window_statistics(maps: Tensor, position: Tensor, sides: Sequence[int]) -> list[Tensor]:
    """Return mean and standard deviation of ``maps`` (channel, row, column) over windows, (place, 2 x channel) each.

    ``position`` (place, 2) is x and y in cells, 0 the centre of the first; between cells the moments are interpolated.
    """
    height, width = maps.shape[1:]
    by_cell = maps.permute(1, 2, 0)
    moments = torch.cat([by_cell, by_cell.square()], dim=2)  # (row, column, 2 x channel)
    left, right = _cells_around(position[:, 0], width)
    top, bottom = _cells_around(position[:, 1], height)
    # grid_sample counts from -1 (first cell) to 1 (last).
    span = torch.tensor([max(right - left - 1, 1), max(bottom - top - 1, 1)], device=maps.device, dtype=maps.dtype)
    grid = 2 * (position - torch.tensor([left, top], device=maps.device)) / span - 1

    def of_windows(side: int) -> Tensor:
        of_rows = window_means(height, side, device=maps.device)[top:bottom]
        of_columns = window_means(width, side, device=maps.device)[left:right]
        smooth = of_columns @ (of_rows @ moments.flatten(1)).view(len(of_rows), width, -1)
        image = smooth.permute(2, 0, 1)[None]
        sampled = torch.cat(
            [
                functional.grid_sample(image, part[None, None], padding_mode="border", align_corners=True)[0, :, 0].T
                for part in grid.split(PLACES_AT_ONCE)
            ]
        )  # (place, 2 x channel)
        mean, square = sampled.chunk(2, dim=1)
        return torch.cat([mean, (square - mean.square()).clamp(min=0).add(SPREAD_FLOOR).sqrt()], dim=1)

    return in_lone_threads(of_windows, sides, device=maps.device)


def _cells_around(position: Tensor, cells: int) -> tuple[int, int]:
    """Return the first of ``cells`` that interpolation between them asks for, and the one behind the last."""
    if not len(position):
        return 0, 1
    first, last = (int(end.clamp(0, cells - 1).floor()) for end in torch.aminmax(position))
    return first, min(last + 2, cells)


def window_means(cells: int, side: int, *, device: torch.device | None = None) -> Tensor:
    """Return the matrix (cell, cell) of running means over ``side`` (odd) neighbours, over those that are there."""
    cell = torch.arange(cells, device=device)
    is_near = (cell[:, None] - cell).abs() <= side // 2
    return is_near / is_near.sum(dim=1, keepdim=True)
