"""Places on a grid: averages over their windows, and what the change of a cell of a map does to their outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.capabilities import PooledEncoder
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.attribution.targets import Explained
from stimage_qupath.models.mobilenet_changes import ChangedMap


class PlaceGrid:
    """The places of a scene, which share their rows and columns.

    Parameters
    ----------
    scene
        Block and places; on a grid, as places are planned, there are few different rows and columns.
    maps
        (2 x channel, row, column) moments of the scene's image.
    encoder
        The question's encoder, as one of averaged maps.
    question
        Outputs and device.
    """

    def __init__(self, scene: Scene, maps: Sequence[Tensor], encoder: PooledEncoder, question: Question) -> None:
        device = question.device
        axes = [np.unique(scene.centres[:, axis], return_inverse=True) for axis in (1, 0)]
        self.row, self.column = (torch.from_numpy(position).to(device) for _, position in axes)
        self.rows, self.columns = (
            [
                encoder.weights(k, torch.as_tensor(where, dtype=torch.float32, device=device), one.shape[axis + 1])
                for k, one in enumerate(maps)
            ]
            for axis, (where, _) in enumerate(axes)
        )
        self.weights = torch.as_tensor(scene.weights, dtype=torch.float32, device=device)
        self._encoder, self._outputs = encoder, question.outputs
        self.means = [self.averages(k, one, (0, 0)) for k, one in enumerate(maps)]
        """(place, window, 2 x channel) averages of each map's moments."""

    def features(self, changes: Sequence[Tensor], firsts: Sequence[tuple[int, int]]) -> Tensor:
        """Return the features of places, (place, feature), after a change of the maps.

        Parameters
        ----------
        changes
            (2 x channel, row, column) of each map's moments.
        firsts
            Row and column of the scene's maps at which each begins.
        """
        means = [
            mean + self.averages(k, change, first)
            for k, (mean, change, first) in enumerate(zip(self.means, changes, firsts, strict=True))
        ]
        return self._encoder.statistics(tuple(means))

    def lost(self, changes: Sequence[Tensor], firsts: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Return weighted outputs as they are minus those after a change of the maps, (output,)."""
        as_it_is = self._encoder.statistics(tuple(self.means))
        lost = self._outputs(as_it_is) - self._outputs(self.features(changes, firsts))
        return np.asarray((self.weights.double() @ lost.double()).cpu().numpy())

    def averages(self, index: int, values: Tensor, first: tuple[int, int]) -> Tensor:
        """Return window averages of part of a map, (place, window, channel), what is not given counting as zero.

        Parameters
        ----------
        index
            Which map.
        values
            (channel, row, column).
        first
            Row and column of the map at which they begin.
        """
        found = []
        for window in range(len(self.rows[index])):
            rows = self.rows[index][window, :, first[0] : first[0] + values.shape[1]]
            columns = self.columns[index][window, :, first[1] : first[1] + values.shape[2]]
            across = torch.einsum("crk,xk->xcr", values, columns)
            found.append(torch.einsum("yr,xcr->yxc", rows, across)[self.row, self.column])
        return torch.stack(found, dim=1)


class PlaceFactors:
    """What the change of a cell does to the weighted outputs of all places.

    Parameters
    ----------
    places
        The places.
    encoder, outputs
        Of the question.

    Attributes
    ----------
    mix
        (output, kind, feature): how outputs follow the features, of which there are slopes of several kinds.
    """

    def __init__(self, places: PlaceGrid, encoder: PooledEncoder, outputs: Explained) -> None:
        self._places, self._encoder = places, encoder
        slopes = outputs.slopes(encoder.statistics(tuple(places.means)))
        self.mix = slopes.mix
        self._slopes = self._by_average(slopes.shared)

    def factors(self, index: int, kinds: slice, rows: slice, columns: slice) -> Tensor:
        """Return the slopes of features, summed over weighted places, in a part of a map.

        Parameters
        ----------
        index
            Which map.
        kinds
            Which kinds of slopes.
        rows, columns
            The part.

        Returns
        -------
        Tensor
            (row, column, kind, window, 3, channel): see :meth:`PooledEncoder.slopes` for the three.
        """
        slopes = self._slopes[index][kinds]  # (kind, place, window, 3, channel)
        down, across = self._places.rows[index], self._places.columns[index]
        parts = []
        for window in range(slopes.shape[2]):
            on_grid = slopes.new_zeros(down.shape[1], across.shape[1], *slopes[:, 0, 0].shape)
            on_grid[self._places.row, self._places.column] = slopes[:, :, window].transpose(0, 1)
            by_row = torch.einsum("xk,yx...->yk...", across[window, :, columns], on_grid)
            parts.append(torch.einsum("yr,yk...->rk...", down[window, :, rows], by_row))
        return torch.stack(parts, dim=3)

    def _by_average(self, shared: Tensor) -> list[Tensor]:
        """Return weight x slope with respect to the averages, (kind, place, window, 3, channel) of each map.

        Parameters
        ----------
        shared
            (kind, place, feature) slopes with respect to the features.
        """
        found, first = [], 0
        for means in self._places.means:
            slopes = self._encoder.slopes(means)
            places, windows, _, channels = slopes.shape
            some = shared[:, :, first : first + 2 * windows * channels]
            of_mean, of_spread = some.view(-1, places, windows, 2, channels).unbind(dim=3)
            by_average = torch.stack([of_mean, of_spread, of_spread], dim=3) * slopes
            found.append(by_average * self._places.weights[:, None, None, None])
            first += 2 * windows * channels
        return found


def changed_features(change: ChangedMap, factors: Tensor, first: tuple[int, int]) -> Tensor:
    """Return the features lost by each part, summed over weighted places, (part, kind, window x 2 x channel).

    Parameters
    ----------
    change
        One map, as it is and with each part changed.
    factors
        As :meth:`PlaceGrid.factors` gives them.
    first
        Row and column of the map at which the factors begin.
    """
    rows, columns = (
        (at - low).clamp(0, size - 1)
        for at, low, size in zip((change.rows, change.columns), first, factors.shape[:2], strict=True)
    )
    at_cells = factors[rows[:, :, None], columns[:, None, :]]  # (part, row, column, kind, window, 3, channel)
    lost, squared = change.old - change.new, change.old.square() - change.new.square()
    moments = torch.stack([lost, lost, squared], dim=3)[:, :, :, None, None]
    by_average = (at_cells * moments).sum(dim=(1, 2))
    mean, spread, square = by_average.unbind(dim=3)
    return torch.stack([mean, spread + square], dim=3).flatten(2)
