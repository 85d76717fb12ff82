"""The trunk's maps where small parts of a picture change: only what a change reaches is computed anew.

A part that is painted over changes the first map next to itself and every further map a little farther out. So each
block runs on a patch a part: the cells that changed so far, with the ring that the next filter looks at taken from the
picture as it is. Nothing beyond :data:`SPREAD` cells is followed, where a change is next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stimage_qupath.models.mobilenet import ALIGN_PX, TAPS, InvertedResidual, MobileNetTrunk, pad_for_stride, pointwise

SPREAD: Final = 4
"""Cells of the last maps, 16 px each, that a change is followed beyond the part."""
KEPT_PX: Final = (SPREAD + 4) * ALIGN_PX
"""Around the parts: the spread, the ring that the last filters look at, and the rounding of corners."""


class Span(NamedTuple):
    """Rows or columns of a map, from the one at the part's corner on: the first, and the one behind the last."""

    first: int
    stop: int

    def outputs(self, *, strided: bool) -> Span:
        """Return what a filter of three, that hangs to the right where it strides by two, makes of changed cells."""
        if strided:
            return Span((self.first - 1) // 2, (self.stop + 1) // 2)
        return Span(self.first - 1, self.stop + 1)

    def inputs(self, *, strided: bool) -> Span:
        """Return the cells that the filter looks at for these."""
        return Span(2 * self.first, 2 * self.stop + 1) if strided else Span(self.first - 1, self.stop + 1)


@dataclass(frozen=True, slots=True)
class ChangedMap:
    """One map of many parts, as it is and with each part changed.

    Attributes
    ----------
    rows, columns
        (part, row) and (part, column) of the map; cells beyond it are given as its nearest.
    old, new
        (part, row, column, channel); equal beyond the map.
    """

    rows: Tensor
    columns: Tensor
    old: Tensor
    new: Tensor


class RememberedTrunk:
    """A picture's maps, and from these the maps of the picture with parts changed.

    Parameters
    ----------
    trunk
        The network.
    levels
        (1, 3, height, width) in -1 to 1.
    area
        (2, 2) left and top, right and bottom of where parts lie, pixels; what is farther away is not kept.

    Attributes
    ----------
    maps
        (1, channel, row, column) of each tap, of the whole picture.
    """

    def __init__(self, trunk: MobileNetTrunk, levels: Tensor, area: NDArray[np.intp]) -> None:
        self._trunk = trunk
        around = area + np.array([[-KEPT_PX], [KEPT_PX]])
        self._inputs, self._taps = [_Kept.of(levels, around, 1)], []
        x = functional.relu6(trunk.stem(pad_for_stride(levels)), inplace=True)
        maps, taps, stride = [], {tap.block: tap.stride for tap in TAPS}, 2
        for index, block in enumerate(trunk.blocks):
            self._inputs.append(_Kept.of(x, around, stride))
            x = block(x)
            stride *= 2 if block.strided else 1
            if index in taps:
                maps.append(x)
                self._taps.append(_Kept.of(x, around, stride))
        self.maps = tuple(maps)

    def changed(self, corners: Tensor, levels: Tensor) -> list[ChangedMap]:
        """Return the taps' maps with parts of the picture changed, each alone.

        Parameters
        ----------
        corners
            (part, 2) int64, x and y of each part's corner in steps of :data:`ALIGN_PX`.
        levels
            (part, 3, height, width) in -1 to 1, what is there instead; sides are multiples of :data:`ALIGN_PX`.
        """
        corner = (corners[:, 1], corners[:, 0])
        limits = [Span(-SPREAD - 1, size // ALIGN_PX + SPREAD) for size in levels.shape[2:]]
        spans = [Span(0, size) for size in levels.shape[2:]]
        stride, x = 1, levels
        found: list[ChangedMap] = []
        for index, layer in enumerate([self._trunk.stem, *self._trunk.blocks]):
            strided = index == 0 or layer.strided
            after = [span.outputs(strided=strided) for span in spans]
            if stride * (1 + strided) == ALIGN_PX:
                after = [Span(max(a.first, b.first), min(a.stop, b.stop)) for a, b in zip(after, limits, strict=True)]
            needed = [span.inputs(strided=strided) for span in after]
            patch = self._inputs[index].patch(corner, needed)
            around = patch.values.movedim(-1, 1)
            offset = [(n.first, s.first, s.stop) for n, s in zip(needed, spans, strict=True)]
            (y0, y1), (x0, x1) = ((first - n, stop - n) for n, first, stop in offset)
            around[:, :, y0:y1, x0:x1] = x
            x = _stem(layer, around, patch.inside) if index == 0 else _block(layer, around, patch.inside)
            spans, stride = after, stride * (1 + strided)
            if index - 1 in {tap.block for tap in TAPS}:
                old = self._taps[len(found)].patch(corner, spans)
                new = x.movedim(1, -1)
                if old.inside is not None:
                    new = torch.where(old.inside.movedim(1, -1), new, old.values)
                found.append(ChangedMap(old.rows, old.columns, old.values, new))
        return found


@dataclass(frozen=True, slots=True)
class _Patch:
    """Cells of one map around each part.

    Attributes
    ----------
    rows, columns
        See :class:`ChangedMap`.
    values
        (part, row, column, channel).
    inside
        (part, 1, row, column) bool, which cells the map has; None where it has all.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    inside: Tensor | None


@dataclass(frozen=True, slots=True)
class _Kept:
    """Part of a map.

    Attributes
    ----------
    cells
        (row, column, channel).
    first
        Row and column of the map at which it begins.
    size
        Rows and columns of the whole map.
    stride
        Pixels a cell.
    """

    cells: Tensor
    first: tuple[int, int]
    size: tuple[int, int]
    stride: int

    @classmethod
    def of(cls, x: Tensor, around: NDArray[np.intp], stride: int) -> _Kept:
        """Keep what lies in a rectangle, (2, 2) pixels, of one picture's map."""
        height, width = x.shape[2:]
        low, high = np.maximum(around // stride, 0).tolist()
        part = x[0, :, low[1] : high[1] + 1, low[0] : high[0] + 1].movedim(0, -1)
        return cls(part.clone(memory_format=torch.contiguous_format), (low[1], low[0]), (height, width), stride)

    def patch(self, corner: Sequence[Tensor], spans: Sequence[Span]) -> _Patch:
        """Return the cells at (row, column) ``corner``, in steps of :data:`ALIGN_PX`, as many as ``spans`` say."""
        axes, within = [], []
        for at, span, size in zip(corner, spans, self.size, strict=True):
            reach = torch.arange(span.first, span.stop, device=self.cells.device)
            wanted = at[:, None] * (ALIGN_PX // self.stride) + reach
            axes.append(wanted.clamp(0, size - 1))
            within.append(axes[-1] == wanted)
        rows, columns = axes
        inside = (within[0][:, :, None] & within[1][:, None, :])[:, None]
        values = self.cells[rows[:, :, None] - self.first[0], columns[:, None, :] - self.first[1]]
        return _Patch(rows, columns, values, None if bool(inside.all()) else inside)


def _stem(stem: torch.nn.Module, x: Tensor, inside: Tensor | None) -> Tensor:
    """Return the stem's output on a patch with all that it looks at; beyond the picture it sees zeros."""
    padded = x if inside is None else x * inside
    return functional.relu6(stem(padded), inplace=True)


def _block(block: InvertedResidual, x: Tensor, inside: Tensor | None) -> Tensor:
    """Return a block's output on a patch with the ring that its filter looks at; beyond the map it sees zeros."""
    y = x if block.expand is None else functional.relu6(pointwise(block.expand, x), inplace=True)
    if inside is not None:
        y = y * inside
    filters = block.depthwise
    y = functional.conv2d(y, filters.weight, filters.bias, stride=filters.stride, groups=filters.groups)
    y = pointwise(block.project, functional.relu6(y, inplace=True))
    return torch.as_tensor(y.add_(x[:, :, 1:-1, 1:-1]) if block.residual else y)
