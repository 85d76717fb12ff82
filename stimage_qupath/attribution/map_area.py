"""The part of a scene's maps in which the replacement of its features shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.capabilities import PooledEncoder
from stimage_qupath.attribution.patches import as_tensor

REACH_PX: Final = 144
"""Beyond which a change, or the edge of a picture, does not show in the maps."""


@dataclass(frozen=True, slots=True)
class MapArea:
    """Rows and columns of each map.

    Attributes
    ----------
    encoder
        Of the maps.
    bounds
        (2, 2) left and top, right and bottom of all features, pixels of the scene.
    reach_px
        How far beyond them the parts go, and how much farther the pixels that the parts are computed of.
    parts
        Rows and columns of each map in which features show.
    """

    encoder: PooledEncoder
    bounds: NDArray[np.intp]
    reach_px: int
    parts: tuple[tuple[slice, slice], ...]

    @classmethod
    def of(cls, boxes: NDArray[np.intp], encoder: PooledEncoder, shape: tuple[int, ...], *, reach_px: int) -> MapArea:
        """Return the area of features, (feature, 4) boxes of which some are not empty, of a scene of ``shape``."""
        there = boxes[boxes[:, 2] > boxes[:, 0]]
        bounds = np.stack([there[:, :2].min(axis=0), there[:, 2:].max(axis=0)])
        (left, top), (right, bottom) = (bounds + np.array([[-reach_px], [reach_px]])).tolist()
        parts = []
        for stride in encoder.strides_px:
            edges = ((top, bottom, shape[0]), (left, right, shape[1]))
            rows, columns = (slice(max(0, a // stride), min(-(-b // stride), size // stride)) for a, b, size in edges)
            parts.append((rows, columns))
        return cls(encoder, bounds, reach_px, tuple(parts))

    @property
    def firsts(self) -> list[tuple[int, int]]:
        """Row and column at which the part of each map begins."""
        return [(rows.start, columns.start) for rows, columns in self.parts]

    def pixels(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Return the rows and columns of a scene of ``shape`` that the parts of the maps are computed of."""
        align = self.encoder.card.align_px
        low = np.maximum(self.bounds[0] - 2 * self.reach_px, 0) // align * align
        high = np.minimum(-(-(self.bounds[1] + 2 * self.reach_px) // align) * align, shape[1::-1])
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))

    def cut(self, moments: Sequence[Tensor], corner: tuple[int, int] = (0, 0)) -> list[Tensor]:
        """Return the parts, from the moments of a picture whose corner lies at ``corner``, x and y, of the scene."""
        found = []
        for one, stride, (rows, columns) in zip(moments, self.encoder.strides_px, self.parts, strict=True):
            x, y = (edge // stride for edge in corner)
            found.append(one[:, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x])
        return found

    def change(self, image: NDArray[np.uint8], before: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """Return by how much the moments of an image differ in the parts from those of the whole scene ``before``."""
        rows, columns = self.pixels(image.shape)
        after = self.encoder.moments(as_tensor(image[rows, columns], device))
        at_corner = self.cut(after, (columns.start, rows.start))
        return [new - old for new, old in zip(at_corner, self.cut(before), strict=True)]
