"""What the model says of a block when some of its pixels are painted over: the encoder runs again, nothing is assumed.

Only predictions at places of the block are noted. Where the encoder averages maps over windows, the maps are computed
anew around what was painted, and every window average changes by what its maps changed there; for other encoders the
block is encoded with all that its places see.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.capabilities import PooledEncoder, as_pooled
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.results import stop_if

SPREAD_PX = 64
"""How far from a painted pixel the maps of an encoder of averaged maps are computed anew, and how much farther the
picture reaches that they are computed of: on a section of her2st the change of the log mean is that of the whole
picture within 0.3 %, at a third of the price."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A rectangle of a picture: left and top, and right and bottom, which lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    def holds(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which points, (point, 2) x and y, lie inside."""
        x, y = points.T
        return np.asarray((x >= self.left) & (x < self.right) & (y >= self.top) & (y < self.bottom))

    @property
    def rows_and_columns(self) -> tuple[slice, slice]:
        """Its pixels."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: int, align: int, shape: tuple[int, ...]) -> Bounds:
        """Return it wider on all sides, its corner at a multiple of ``align``, within a picture of ``shape``."""
        first = [max(0, low - margin) // align * align for low in (self.left, self.top)]
        last = [
            min(size, -(-(high + margin) // align) * align)
            for high, size in ((self.right, shape[1]), (self.bottom, shape[0]))
        ]
        return Bounds(first[0], first[1], last[0], last[1])


@dataclass(frozen=True)
class Repainted:
    """A block that can be painted over again and again.

    Parameters
    ----------
    scene
        Block and places, as for an explanation.
    bounds
        Of the block within the scene: places inside are noted, and everything that is painted lies inside, but for
        parts of nuclei whose middle does.
    question
        Encoder and outputs.

    Attributes
    ----------
    weights
        (place,) of the places inside; their sum is one.
    """

    scene: Scene
    bounds: Bounds
    question: Question
    weights: NDArray[np.float64] = field(init=False)
    _centres: NDArray[np.float64] = field(init=False, repr=False)
    _maps: _Maps | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Encode the block as it is."""
        inside = self.bounds.holds(self.scene.centres)
        if not inside.any():
            msg = "expected a block with a place whose prediction is noted, found none in it"
            raise ValueError(msg)
        weights = self.scene.weights[inside]
        centres, pooled = self.scene.centres[inside], as_pooled(self.question.encoder)
        object.__setattr__(self, "weights", weights / weights.sum())
        object.__setattr__(self, "_centres", centres)
        maps = None if pooled is None else _Maps(self.scene.image, centres, self._painted_bounds(), pooled)
        object.__setattr__(self, "_maps", maps)
        if maps is not None:
            maps.remember(self.question.device)

    def __call__(self, gone: NDArray[np.bool_], filled: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the mean output over the block's predictions, (gene,), when ``gone`` pixels show what ``filled`` does.

        Parameters
        ----------
        gone
            (height, width) bool, of the scene.
        filled
            The shape of the scene's image.
        """
        stop_if(self.question.cancelled)
        if self._maps is None:
            values = self._encoded(np.where(gone[..., None], filled, self.scene.image))
        else:
            with torch.no_grad():  # no inference tensors: a test differentiates the averages that are kept
                features = self._maps.features(gone, filled, self.question.device)
                values = self.question.outputs(features.double()).cpu().numpy()
        outputs = self.weights @ values
        return np.asarray(outputs.reshape(len(self.question.outputs.genes), -1).mean(axis=1))

    def of_question(self, question: Question) -> Repainted:
        """Return the same block for other outputs or another encoder."""
        return replace(self, question=question)

    def _painted_bounds(self) -> Bounds:
        """Return the rectangle that holds the block and its nuclei."""
        rows, columns = np.nonzero((self.scene.labels >= 0) & (self.scene.labels < self.scene.nuclei))
        b = self.bounds
        if not len(rows):
            return b
        return Bounds(
            min(b.left, int(columns.min())),
            min(b.top, int(rows.min())),
            max(b.right, int(columns.max()) + 1),
            max(b.bottom, int(rows.max()) + 1),
        )

    def _encoded(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        card = self.question.encoder.card
        low, high = self._centres.min(axis=0), self._centres.max(axis=0)
        around = Bounds(*np.floor(low).astype(int).tolist(), *(np.ceil(high).astype(int) + 1).tolist())
        cut = around.grown(card.tile_px // 2 + 1, card.align_px, image.shape)
        return self.question.values(image[cut.rows_and_columns], self._centres - (cut.left, cut.top))


class _Maps:
    """Window averages of a block, and how they change with what is painted."""

    def __init__(
        self, image: NDArray[np.uint8], centres: NDArray[np.float64], painted: Bounds, encoder: PooledEncoder
    ) -> None:
        self._image, self._centres, self._encoder = image, centres, encoder
        align = encoder.card.align_px
        self._inner = painted.grown(SPREAD_PX, align, image.shape)
        self._outer = self._inner.grown(SPREAD_PX, align, image.shape)
        self._means: tuple[Tensor, ...] = ()
        self._windows: list[tuple[Tensor, Tensor]] = []
        self._before: list[Tensor] = []

    def remember(self, device: torch.device) -> None:
        """Compute the averages of the block as it is, and the weights of the windows around what is painted."""
        found = []
        with torch.no_grad():
            whole = self._encoder.moments(_pixels(self._image, device))
            for index, one in enumerate(whole):
                rows, columns = (
                    self._encoder.weights(
                        index, torch.as_tensor(self._centres[:, axis], dtype=torch.float32, device=device), cells
                    )
                    for axis, cells in ((1, one.shape[1]), (0, one.shape[2]))
                )
                found.append(_averages(one, rows, columns))
                stride = self._encoder.strides_px[index]
                first, last = self._part(stride, (0, 0))
                self._windows.append((rows[..., first[0] : last[0]], columns[..., first[1] : last[1]]))
            self._means = tuple(found)
            self._before = self._moments(_pixels(self._image[self.cut], device))

    def features(self, gone: NDArray[np.bool_], filled: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Return the features of the places, (place, feature), with some pixels painted over."""
        cut = self.cut
        shown = np.where(gone[cut][..., None], filled[cut], self._image[cut])
        return self.features_of(_pixels(shown, device))

    def features_of(self, pixels: Tensor) -> Tensor:
        """Return the same with other pixels, (3, row, column) of the :attr:`cut`; passes gradients."""
        after = self._moments(pixels)
        moved = [
            mean + _averages(new - old, rows, columns)
            for mean, new, old, (rows, columns) in zip(self._means, after, self._before, self._windows, strict=True)
        ]
        return self._encoder.statistics(tuple(moved))

    @property
    def cut(self) -> tuple[slice, slice]:
        """Rows and columns of the scene that are encoded anew."""
        return self._outer.rows_and_columns

    def _moments(self, pixels: Tensor) -> list[Tensor]:
        found = self._encoder.moments(pixels)
        parts = []
        for stride, one in zip(self._encoder.strides_px, found, strict=True):
            first, last = self._part(stride, (self._outer.top, self._outer.left))
            parts.append(one[:, first[0] : last[0], first[1] : last[1]])
        return parts

    def _part(self, stride: int, corner: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and last row and column of the inner rectangle on a map that begins at a corner."""
        inner = self._inner
        first = ((inner.top - corner[0]) // stride, (inner.left - corner[1]) // stride)
        last = (-(-(inner.bottom - corner[0]) // stride), -(-(inner.right - corner[1]) // stride))
        return first, last


def _pixels(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).float()


def _averages(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return window averages of part of a map, (place, window, channel); rows and columns are (window, place, cell)."""
    found = []
    for down, across in zip(rows, columns, strict=True):
        by_row = torch.einsum("pr,crk->pck", down, values)
        found.append(torch.einsum("pck,pk->pc", by_row, across))
    return torch.stack(found, dim=1)
