"""Places on a grid: averages over their windows and slopes with respect to the maps, both as products of two axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.capabilities import PooledEncoder
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Scene


class PlaceGrid:
    """The places of a scene, which share their rows and columns.

    Parameters
    ----------
    scene
        Block and places; on a grid, as places are planned, there are few different rows and columns.
    encoder
        The question's encoder, as one of averaged maps.
    question
        Outputs and device.
    """

    def __init__(self, scene: Scene, encoder: PooledEncoder, question: Question) -> None:
        device = question.device
        image = torch.from_numpy(np.ascontiguousarray(scene.image)).to(device).permute(2, 0, 1).float()
        maps = encoder.moments(image)
        axes = [np.unique(scene.centres[:, axis], return_inverse=True) for axis in (1, 0)]
        self._row, self._column = (torch.from_numpy(position).to(device) for _, position in axes)
        self._rows, self._columns = (
            [
                encoder.weights(k, torch.as_tensor(where, dtype=torch.float32, device=device), one.shape[axis + 1])
                for k, one in enumerate(maps)
            ]
            for axis, (where, _) in enumerate(axes)
        )
        self._weights = torch.as_tensor(scene.weights, dtype=torch.float32, device=device)
        self._encoder, self._question = encoder, question
        self._means = [self._averages(k, one, (0, 0)) for k, one in enumerate(maps)]
        self._slopes = self._slopes_at_places()

    def lost(self, changes: Sequence[Tensor], firsts: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Return weighted outputs as they are minus those after a change of the maps, (output,).

        Parameters
        ----------
        changes
            (channel, row, column) of each map.
        firsts
            Row and column of the scene's maps at which each begins.
        """
        moved = [
            mean + self._averages(k, change, first)
            for k, (mean, change, first) in enumerate(zip(self._means, changes, firsts, strict=True))
        ]
        lost = self._outputs(tuple(self._means)) - self._outputs(tuple(moved))
        return np.asarray((self._weights @ lost).double().cpu().numpy())

    def factors(self, index: int, some: slice, first: tuple[int, int], shape: Sequence[int]) -> Tensor:
        """Return the slope of some outputs, summed over weighted places, in a part of a map, (cell, output, channel).

        Parameters
        ----------
        index
            Which map.
        some
            Which outputs.
        first, shape
            Row and column at which the part begins, and how many there are.
        """
        slopes = self._slopes[index][some]  # (output, place, window, channel)
        outputs, _, windows, channels = slopes.shape
        total = torch.zeros(*shape, outputs, channels, device=slopes.device)
        for window in range(windows):
            rows, columns = self._part(index, window, first, shape)
            on_grid = torch.zeros(len(rows), len(columns), outputs, channels, device=slopes.device)
            on_grid[self._row, self._column] = slopes[:, :, window].transpose(0, 1)
            across = torch.einsum("xk,yxoc->ykoc", columns, on_grid)
            total += torch.einsum("yr,ykoc->rkoc", rows, across)
        return total.flatten(0, 1)

    def _averages(self, index: int, values: Tensor, first: tuple[int, int]) -> Tensor:
        """Return window averages of part of a map, (place, window, channel), what is not given counting as zero."""
        found = []
        for window in range(len(self._rows[index])):
            rows, columns = self._part(index, window, first, values.shape[1:])
            on_grid = torch.einsum("yr,crk,xk->yxc", rows, values, columns)
            found.append(on_grid[self._row, self._column])
        return torch.stack(found, dim=1)

    def _part(self, index: int, window: int, first: tuple[int, int], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = self._rows[index][window, :, first[0] : first[0] + shape[0]]
        return rows, self._columns[index][window, :, first[1] : first[1] + shape[1]]

    def _outputs(self, means: tuple[Tensor, ...]) -> Tensor:
        return self._question.outputs(self._encoder.statistics(means))

    def _slopes_at_places(self) -> list[Tensor]:
        """Return weight x slope of each output with respect to the averages, (output, place, window, channel)."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaves = tuple(mean.clone().requires_grad_() for mean in self._means)
            outputs = self._weights.clone() @ self._outputs(leaves)
            rows = [torch.autograd.grad(one, leaves, retain_graph=True) for one in outputs]
        return [torch.stack(of_map) for of_map in zip(*rows, strict=True)]
