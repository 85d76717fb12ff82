"""Feature ablation for encoders that average maps over windows: a whole group of nuclei in one pass.

What a place sees of a replaced nucleus is the change of the maps near it, averaged over the place's windows. Summed
over places with their weights, each cell of a map counts with one factor: the slope of the summed outputs with respect
to that cell, which follows from the slopes at the places and the windows' weights. So a pass of the network with a
group of nuclei replaced, times those factors, is the answer for every nucleus of the group and every place.

Two approximations, both measured by a test: the outputs are taken as linear in the window averages (a nucleus is a
small part of a window), and the change of a cell is booked to the nearest nucleus of the group (a network can look
farther than the nuclei of a group are apart, but sees little there).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stimage_qupath.attribution.capabilities import SPILL_PX, PooledEncoder
from stimage_qupath.attribution.local_ablation import feature_boxes
from stimage_qupath.attribution.packing import pack
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene
from stimage_qupath.attribution.window_slopes import PlaceGrid
from stimage_qupath.results import stop_if

OUTPUTS_AT_ONCE: Final = 50
"""Whose factors are in memory together, five genes of ten members; 8 MB each."""
APART_PX: Final = 64
"""Between the boxes of nuclei that are replaced together. On a section of her2st with the encoder ``context`` the sums
correlate .98 with those of nuclei replaced one by one (.99 at 96 px and .92 at 32 px, for 1.5 and half the passes).
"""


def pooled_contributions(
    scene: Scene, filled: NDArray[np.uint8], encoder: PooledEncoder, question: Question
) -> Contributions:
    """Return, for each feature, the sum over places of weight x output lost without it.

    Parameters
    ----------
    scene
        Block and places.
    filled
        What stands where something is removed, the shape of the image.
    encoder
        The question's encoder, as one of averaged maps.
    question
        Outputs and means.
    """
    boxes = feature_boxes(scene.labels, scene.features)
    boxes[~_near_places(boxes, scene.centres, encoder.window_px / 2 + SPILL_PX)] = 0
    sums = np.zeros((scene.features, question.outputs.count))
    if not boxes.any():
        return Contributions(sums, np.zeros(question.outputs.count))
    with torch.inference_mode():
        area = _Area(boxes, encoder, scene.labels.shape)
        places = PlaceGrid(scene, encoder, question)
        before = area.moments(scene.image, question.device)
        everyone = scene.without(np.ones(scene.features, dtype=bool), filled)
        change = [new - old for new, old in zip(area.moments(everyone, question.device), before, strict=True)]
        difference = places.lost(change, area.firsts)
        for start in range(0, question.outputs.count, OUTPUTS_AT_ONCE):
            some = slice(start, start + OUTPUTS_AT_ONCE)
            factors = [
                places.factors(index, some, first, one.shape[1:])
                for index, (first, one) in enumerate(zip(area.firsts, before, strict=True))
            ]
            for group in _groups(boxes, scene.nuclei):
                stop_if(question.cancelled)
                gone = np.isin(np.arange(scene.features), group)
                after = area.moments(scene.without(gone, filled), question.device)
                for index, (old, new) in enumerate(zip(before, after, strict=True)):
                    owner = area.owners(index, old.shape[1:], boxes[group])
                    sums[group, some] += _booked(old - new, factors[index], owner, len(group))
    return Contributions(sums, difference)


def _booked(change: Tensor, factors: Tensor, owner: NDArray[np.int64], members: int) -> NDArray[np.float64]:
    """Return what each member of a group lost, (member, output).

    Parameters
    ----------
    change
        (channel, row, column) of one map.
    factors
        (cell, output, channel).
    owner
        (cell,) the member each cell is booked to.
    members
        How many there are.
    """
    by_cell = torch.bmm(factors, change.flatten(1).T.unsqueeze(2).contiguous()).squeeze(2)
    found = torch.zeros(members, by_cell.shape[1], device=by_cell.device)
    found.index_add_(0, torch.from_numpy(owner).to(by_cell.device), by_cell)
    return np.asarray(found.cpu().numpy(), dtype=np.float64)


class _Area:
    """The features with the surroundings in which their replacement shows, on the grid of the maps.

    Parameters
    ----------
    boxes
        (feature, 4), empty ones all 0.
    encoder
        Strides and reach of its maps.
    shape
        Height and width of the scene.
    """

    def __init__(self, boxes: NDArray[np.intp], encoder: PooledEncoder, shape: tuple[int, ...]) -> None:
        self._encoder = encoder
        there = boxes[boxes[:, 2] > boxes[:, 0]]
        align, limit = encoder.card.align_px, np.array([shape[1], shape[0]])
        first, last = there[:, :2].min(axis=0), there[:, 2:].max(axis=0)
        self._inner, self._outer = (
            (np.maximum(first - margin, 0) // align * align, np.minimum(-(-(last + margin) // align) * align, limit))
            for margin in (SPILL_PX, 2 * SPILL_PX)
        )

    @property
    def firsts(self) -> list[tuple[int, int]]:
        """Row and column of the scene's maps at which the area's maps begin."""
        left, top = self._inner[0].tolist()
        return [(top // stride, left // stride) for stride in self._encoder.strides_px]

    def moments(self, image: NDArray[np.uint8], device: torch.device) -> list[Tensor]:
        """Return the moments of the area, (channel, row, column) of each map."""
        (left, top), (right, bottom) = self._outer
        cut = np.ascontiguousarray(image[top:bottom, left:right])
        found = self._encoder.moments(torch.from_numpy(cut).to(device).permute(2, 0, 1).float())
        parts = []
        for stride, one in zip(self._encoder.strides_px, found, strict=True):
            first, last = self._inner[0] // stride, -(-self._inner[1] // stride)
            rows = slice(int(first[1] - top // stride), int(last[1] - top // stride))
            columns = slice(int(first[0] - left // stride), int(last[0] - left // stride))
            parts.append(one[:, rows, columns])
        return parts

    def owners(self, index: int, shape: tuple[int, ...], boxes: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the nearest of some boxes, by its middle, to each cell of a map, (row x column,)."""
        rows, columns = (self._encoder.positions(index, torch.arange(n)).numpy() for n in shape)
        column, row = np.meshgrid(columns + self._inner[0][0], rows + self._inner[0][1])
        middles = (boxes[:, :2] + boxes[:, 2:] - 1) / 2
        nearest = cKDTree(middles).query(np.stack([column.ravel(), row.ravel()], axis=1))[1]
        return np.asarray(nearest, dtype=np.int64)


def _groups(boxes: NDArray[np.intp], nuclei: int) -> Iterator[NDArray[np.intp]]:
    """Yield groups of features that are far enough apart; nuclei and cells of background apart from each other."""
    half = APART_PX // 2
    grown = np.where(boxes[:, 2:3] > boxes[:, :1], boxes + np.array([-half, -half, half, half]), 0)
    yield from pack(grown[:nuclei])
    yield from (group + nuclei for group in pack(grown[nuclei:]))


def _near_places(boxes: NDArray[np.intp], centres: NDArray[np.float64], reach: float) -> NDArray[np.bool_]:
    """Return which features lie within ``reach`` of a place along both axes, (feature,)."""
    there = boxes[:, 2] > boxes[:, 0]
    if not len(centres):
        return np.zeros(len(boxes), dtype=bool)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = cKDTree(centres).query(middles, p=np.inf)[0]
    return np.asarray(there & (distance <= reach))
