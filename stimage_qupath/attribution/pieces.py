"""Tensors that captum differentiates: tiles, or the block as a whole, and the way back from pixels to features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.capabilities import (
    SPILL_PX,
    DifferentiableEncoder,
    PooledEncoder,
    as_differentiable,
    as_pooled,
)
from stimage_qupath.attribution.local_ablation import feature_boxes
from stimage_qupath.attribution.map_area import MapArea
from stimage_qupath.attribution.patches import as_tensor
from stimage_qupath.attribution.picture_models import PlaceOutputs, PooledOutputs
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import ELSEWHERE, Contributions, Scene
from stimage_qupath.attribution.window_slopes import PlaceGrid
from stimage_qupath.results import stop_if


@dataclass(frozen=True, slots=True)
class Piece:
    """What one call of a gradient method works on.

    Attributes
    ----------
    model
        (picture, 3, height, width) to (picture, gene).
    pictures, filled
        (picture, 3, height, width) float32, 0-255: as they are, and with every feature replaced.
    labels
        (picture, height, width) int64 features, -1 for none.
    weights
        (picture,) by which contributions count.
    """

    model: PlaceOutputs | PooledOutputs
    pictures: Tensor
    filled: Tensor
    labels: Tensor
    weights: Tensor

    def add_to(self, sums: Tensor, contributions: Tensor) -> None:
        """Add pixels' contributions, (picture, gene, height, width), to those of their features."""
        by_pixel = contributions.movedim(1, -1).reshape(-1, contributions.shape[1])
        weights = self.weights.repeat_interleave(self.labels[0].numel())
        here = self.labels.flatten() != ELSEWHERE
        sums.index_add_(0, self.labels.flatten()[here], by_pixel[here].to(sums) * weights[here, None].to(sums))

    def some(self, chosen: Tensor) -> Piece:
        """Return some of the pictures, by their numbers: each is treated as it would be alone."""
        parts = {name: getattr(self, name)[chosen] for name in ("pictures", "filled", "labels", "weights")}
        return replace(self, **parts)

    def values(self, pictures: Tensor) -> Tensor:
        """Return the outputs of pictures, (picture, gene), without what a gradient needs."""
        with torch.no_grad():
            found: Tensor = self.model(pictures)
        return found

    def difference(self, like: Tensor) -> Tensor:
        """Return the weighted outputs as they are minus those with every feature replaced, (gene,), as ``like``."""
        change = self.values(self.pictures).to(like) - self.values(self.filled).to(like)
        return torch.einsum("n,ng->g", self.weights.to(like), change)


def by_pieces(
    scene: Scene, filled: NDArray[np.uint8], question: Question, contributions: Callable[[Piece], Tensor]
) -> Contributions:
    """Add up what the pixels of each feature contribute, piece by piece.

    Parameters
    ----------
    scene, filled, question
        Block, what stands where something is removed, model and means.
    contributions
        (picture, gene, height, width) of a piece, summed over colours.

    Returns
    -------
    Contributions
        By gene: members share one backward pass, from the mean of their log means.
    """
    genes = len(question.outputs.genes)
    sums = torch.zeros(scene.features, genes, dtype=torch.float64, device=_precise(question.device))
    difference = torch.zeros(genes, dtype=torch.float64, device=_precise(question.device))
    for piece in _pieces(scene, filled, question):
        stop_if(question.cancelled)
        piece.add_to(sums, contributions(piece).detach())
        difference += piece.difference(difference)
    return Contributions(sums.cpu().numpy(), difference.cpu().numpy())


def _precise(device: torch.device) -> torch.device:
    """Return where double precision can be had: not on MPS."""
    return torch.device("cpu") if device.type == "mps" else device


def _pieces(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Iterator[Piece]:
    replaced = scene.without(np.ones(scene.features, dtype=bool), filled)
    encoder, pooled = as_differentiable(question.encoder), as_pooled(question.encoder)
    if pooled is not None:
        yield from _around_features(scene, replaced, encoder.network(), pooled, question)
    elif encoder.whole_image:
        centres = torch.as_tensor(scene.centres, dtype=torch.float32, device=question.device)
        weights = torch.as_tensor(scene.weights, dtype=torch.float32, device=question.device)
        model = PlaceOutputs(encoder, question, centres, weights)
        yield _piece(model, scene.image[None], replaced[None], scene.labels[None], np.ones(1), question.device)
    else:
        yield from _tiles(scene, replaced, encoder, question)


def _around_features(
    scene: Scene, replaced: NDArray[np.uint8], network: torch.nn.Module, encoder: PooledEncoder, question: Question
) -> Iterator[Piece]:
    """Yield the features' surroundings as one picture, if there are features and places."""
    boxes = feature_boxes(scene.labels, scene.features)
    if not boxes.any() or not len(scene.centres):
        return
    area = MapArea.of(boxes, encoder, scene.labels.shape, reach_px=SPILL_PX)
    rows, columns = area.pixels(scene.labels.shape)
    with torch.no_grad():
        places = PlaceGrid(scene, encoder.moments(as_tensor(scene.image, question.device)), encoder, question)
        before = as_tensor(scene.image[rows, columns], question.device)
        model = PooledOutputs(places, area, network, question, before, (columns.start, rows.start))
    pictures, without, labels = (
        np.ascontiguousarray(plane[None, rows, columns]) for plane in (scene.image, replaced, scene.labels)
    )
    yield _piece(model, pictures, without, labels, np.ones(1), question.device)


def _tiles(
    scene: Scene, replaced: NDArray[np.uint8], encoder: DifferentiableEncoder, question: Question
) -> Iterator[Piece]:
    """Yield the windows of places, a batch at a time."""
    side = encoder.card.tile_px
    middle = torch.full((1, 2), side / 2, device=question.device)
    model = PlaceOutputs(encoder, question, middle, torch.ones(1, device=question.device))
    corners = np.floor(scene.centres - side / 2 + 0.5).astype(int)
    for start in range(0, len(corners), question.batch_size):
        some = corners[start : start + question.batch_size]
        pictures, without, labels = (
            np.stack([plane[y : y + side, x : x + side] for x, y in some])
            for plane in (scene.image, replaced, scene.labels)
        )
        weights = scene.weights[start : start + question.batch_size]
        yield _piece(model, pictures, without, labels, weights, question.device)


def _piece(
    model: PlaceOutputs | PooledOutputs,
    pictures: NDArray[Any],
    filled: NDArray[Any],
    labels: NDArray[Any],
    weights: NDArray[np.float64],
    device: torch.device,
) -> Piece:
    as_pictures = [torch.from_numpy(np.moveaxis(p, -1, 1).astype(np.float32)).to(device) for p in (pictures, filled)]
    return Piece(
        model=model,
        pictures=as_pictures[0].requires_grad_(),
        filled=as_pictures[1],
        labels=torch.from_numpy(labels.astype(np.int64)).to(device),
        weights=torch.as_tensor(weights, dtype=torch.float32, device=device),
    )
