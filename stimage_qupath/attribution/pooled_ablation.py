"""Feature ablation for encoders of averaged maps: only what a feature reaches is computed anew.

A replaced nucleus changes the maps near itself. The network runs on that patch alone, with the maps of the picture as
it is around it
(:mod:`stimage_qupath.models.mobilenet_changes`). What the outputs of all places lose by the change of a
cell is one factor a cell: the slopes of the outputs with respect to the averages, spread over each place's windows. So
the price of a nucleus depends on its size, and neither on the places that see it nor on the genes that are explained.

Two approximations, both measured by a test: outputs are taken as linear in the window averages (a nucleus is a small
part of a window), and changes more than some 64 px beyond the nucleus are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.capabilities import SPILL_PX, PooledEncoder, RememberedMaps
from stimage_qupath.attribution.local_ablation import feature_boxes
from stimage_qupath.attribution.map_area import REACH_PX, MapArea
from stimage_qupath.attribution.patches import as_tensor, batches, near_places, repainted
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene
from stimage_qupath.attribution.window_slopes import PlaceFactors, PlaceGrid, changed_features
from stimage_qupath.results import stop_if

KINDS_AT_ONCE: Final = 8
"""Kinds of slopes whose factors are in memory together; some 25 MB each."""


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
    boxes[~near_places(boxes, scene.centres, encoder.window_px / 2 + SPILL_PX)] = 0
    if not boxes.any():
        return Contributions(np.zeros((scene.features, question.outputs.count)), np.zeros(question.outputs.count))
    with torch.inference_mode():
        area = MapArea.of(boxes, encoder, scene.labels.shape, reach_px=REACH_PX)
        remembered = encoder.remember(as_tensor(scene.image, question.device), area.bounds)
        places = PlaceGrid(scene, remembered.moments, encoder, question)
        everyone = scene.without(np.ones(scene.features, dtype=bool), filled)
        change = area.change(everyone, remembered.moments, question.device)
        difference = places.lost(change, area.firsts)
        factors = PlaceFactors(places, encoder, question.outputs)
        return Contributions(_sums(scene, filled, boxes, _Means(factors, area, remembered, question)), difference)


class _Means:
    """What a feature's change is turned into outputs with."""

    def __init__(self, factors: PlaceFactors, area: MapArea, remembered: RememberedMaps, question: Question) -> None:
        self.align, self.outputs = question.encoder.card.align_px, question.outputs.count
        self.kinds = [slice(k, k + KINDS_AT_ONCE) for k in range(0, factors.mix.shape[1], KINDS_AT_ONCE)]
        self._factors, self._area, self._remembered, self._question = factors, area, remembered, question

    def factors(self, kinds: slice) -> list[Tensor]:
        """Return the factors of each map, see :meth:`PlaceFactors.factors`."""
        return [self._factors.factors(k, kinds, *part) for k, part in enumerate(self._area.parts)]

    def lost(self, corners: Tensor, pictures: Tensor, factors: Sequence[Tensor], kinds: slice) -> NDArray[np.float64]:
        """Return weighted outputs lost by each part, (part, output)."""
        stop_if(self._question.cancelled)
        device = self._question.device
        changes = self._remembered.changed(corners.to(device), pictures.to(device))
        by_feature = [
            changed_features(change, factor, first)
            for change, factor, first in zip(changes, factors, self._area.firsts, strict=True)
        ]
        mix = self._factors.mix[:, kinds]
        return np.asarray(torch.einsum("nkf,okf->no", torch.cat(by_feature, dim=2), mix).double().cpu().numpy())


def _sums(scene: Scene, filled: NDArray[np.uint8], boxes: NDArray[np.intp], means: _Means) -> NDArray[np.float64]:
    """Return what all places lose by each feature, (feature, output)."""
    sums = np.zeros((scene.features, means.outputs))
    for kinds in means.kinds:
        factors = means.factors(kinds)
        for features in batches(boxes, means.align):
            corners, pictures = repainted(scene, filled, boxes, features, means.align)
            sums[features] += means.lost(corners, pictures, factors, kinds)
    return sums
