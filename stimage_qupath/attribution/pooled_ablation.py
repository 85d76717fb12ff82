"""Feature ablation for encoders that average maps over windows: a whole group of nuclei in one pass.

What a place sees of a replaced nucleus is the change of the moments near it, averaged over the place's windows. Summed
over places with their weights, each cell of a moment map counts with one factor: the derivative of the summed outputs
with respect to that cell, which one backward pass through the pooling gives. So a pass of the trunk with a group of
nuclei replaced, times those factors, is the answer for every nucleus of the group and every place.

Two approximations, both small and measured by a test: the outputs are taken as linear in the window averages (a nucleus
is a small part of a window), and the change of a cell is booked to the nearest nucleus of the group (a map can reach
farther than nuclei of a group are apart, but hardly changes there).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stimage_qupath.attribution.capabilities import PooledEncoder
from stimage_qupath.attribution.local_ablation import feature_boxes
from stimage_qupath.attribution.packing import pack
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.results import stop_if

OUTPUTS_AT_ONCE: Final = 50
"""Whose factors are in memory together, five genes of ten members; 10 MB each."""

APART_PX: Final = 96
"""Between the boxes of nuclei that are replaced together. On a section of her2st with the encoder ``context`` the sums
correlate .99 with those of nuclei replaced one by one (.98 at 64 px, .9996 at 160 px, at 0.7 and 1.8 times the price).
"""


def pooled_sums(
    scene: Scene, filled: NDArray[np.uint8], encoder: PooledEncoder, question: Question
) -> NDArray[np.float64]:
    """Return, for each feature, the sum over places of weight x output lost without it, (feature, output).

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
    sums = np.zeros((scene.features, question.outputs.count))
    boxes = feature_boxes(scene.labels, scene.features)
    window = encoder.card.tile_px / 2 + encoder.reach_px
    boxes[~_near_places(boxes, scene.centres, window)] = 0
    if not boxes.any():
        return sums
    area = _Area(boxes, encoder, scene.labels.shape)
    for start in range(0, question.outputs.count, OUTPUTS_AT_ONCE):
        some = slice(start, start + OUTPUTS_AT_ONCE)
        factors = _factors(scene, encoder, question, area, some)
        sums[:, some] = _sums_of_groups(scene, filled, question, area, factors, boxes)
    return sums


def _sums_of_groups(
    scene: Scene,
    filled: NDArray[np.uint8],
    question: Question,
    area: _Area,
    factors: list[Tensor],
    boxes: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Replace one group after the other and weigh what changes, (feature, output)."""
    sums = np.zeros((scene.features, factors[0].shape[1]))
    with torch.inference_mode():
        before = area.moments(scene.image, question.device)
        for group in _groups(boxes, scene.nuclei):
            stop_if(question.cancelled)
            gone = np.isin(np.arange(scene.features), group)
            after = area.moments(scene.without(gone, filled), question.device)
            for index, (old, new) in enumerate(zip(before, after, strict=True)):
                owner = torch.from_numpy(area.owners(index, old.shape[1:], boxes[group])).to(old.device)
                change = (old - new).flatten(1).T.unsqueeze(2).contiguous()  # (cell, channel, 1)
                lost = torch.bmm(factors[index], change).squeeze(2)  # (cell, output)
                found = torch.zeros(len(group), lost.shape[1], device=lost.device).index_add_(0, owner, lost)
                sums[group] += found.cpu().numpy()
    return sums


class _Area:
    """The features with the reach of the maps, where their replacement shows, on the grid of the maps.

    Maps are computed with another reach around, so that they are those of the scene.

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
            for margin in (encoder.reach_px, 2 * encoder.reach_px)
        )

    def moments(self, image: NDArray[np.uint8], device: torch.device) -> tuple[Tensor, ...]:
        """Return the moments of the area."""
        (left, top), (right, bottom) = self._outer
        return self.cut(self._encoder.moments(_picture(image[top:bottom, left:right], device)), left=left, top=top)

    def cut(self, maps: tuple[Tensor, ...], *, left: int = 0, top: int = 0) -> tuple[Tensor, ...]:
        """Return the area of maps, (..., row, column), that begin at a place of the scene."""
        parts = []
        for stride, one in zip(self._encoder.strides_px, maps, strict=True):
            first, last = self._inner[0] // stride, -(-self._inner[1] // stride)
            rows, columns = (slice(first[k] - o // stride, last[k] - o // stride) for k, o in ((1, top), (0, left)))
            parts.append(one[..., rows, columns])
        return tuple(parts)

    def owners(self, index: int, shape: tuple[int, ...], boxes: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the nearest of some boxes, by its middle, to each cell of a map, (row x column,)."""
        rows, columns = (self._encoder.positions(index, torch.arange(n)).numpy() for n in shape)
        column, row = np.meshgrid(columns + self._inner[0][0], rows + self._inner[0][1])
        middles = (boxes[:, :2] + boxes[:, 2:] - 1) / 2
        nearest = cKDTree(middles).query(np.stack([column.ravel(), row.ravel()], axis=1))[1]
        return np.asarray(nearest, dtype=np.int64)


def _picture(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return an image as (3, height, width) float32, 0-255."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).float()


def _factors(scene: Scene, encoder: PooledEncoder, question: Question, area: _Area, some: slice) -> list[Tensor]:
    """Return how some outputs, summed over weighted places, change with the area's maps, (cell, output, channel)."""
    centres = torch.as_tensor(scene.centres, dtype=torch.float32, device=question.device)
    weights = torch.as_tensor(scene.weights, dtype=torch.float32, device=question.device)
    with torch.no_grad():
        moments = encoder.moments(_picture(scene.image, question.device))
    with torch.enable_grad():
        leaves = tuple(one.detach().requires_grad_() for one in moments)
        outputs = torch.einsum("p,po->o", weights, question.outputs(encoder.pool(leaves, centres)))[some]
        each = torch.eye(len(outputs), dtype=outputs.dtype, device=outputs.device)
        found: list[list[Tensor]] = [[] for _ in leaves]
        for one in each:
            slopes = area.cut(torch.autograd.grad(outputs, leaves, grad_outputs=one, retain_graph=True))
            for of_map, slope in zip(found, slopes, strict=True):
                of_map.append(slope.flatten(1).T.contiguous())
    return [torch.stack(of_map, dim=1) for of_map in found]


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
