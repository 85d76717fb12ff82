"""Tensors that captum differentiates: tiles, or the block as a whole, and the way back from pixels to features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.capabilities import DifferentiableEncoder, as_differentiable
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import ELSEWHERE, Contributions, Scene
from stimage_qupath.results import stop_if


class PlaceOutputs(torch.nn.Module):
    """Pictures to outputs: the encoder, the heads, and the weighted sum over places.

    Parameters
    ----------
    encoder
        That passes gradients.
    question
        Outputs.
    centres, weights
        (place, 2) and (place,), the same for every picture.
    """

    def __init__(self, encoder: DifferentiableEncoder, question: Question, centres: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.network = encoder.network()
        self._encoder, self._outputs = encoder, question.outputs
        self._centres, self._weights = centres, weights

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (picture, output) from (picture, 3, height, width), 0-255."""
        features = self._encoder.features(pictures, self._centres)
        return torch.einsum("p,npo->no", self._weights, self._outputs(features))


@dataclass(frozen=True, slots=True)
class Piece:
    """What one call of a gradient method works on.

    Attributes
    ----------
    model
        (picture, 3, height, width) to (picture, output).
    pictures, filled
        (picture, 3, height, width) float32, 0-255: as they are, and with every feature replaced.
    labels
        (picture, height, width) int64 features, -1 for none.
    weights
        (picture,) by which contributions count.
    is_whole
        Whether there is one picture, the block, and not one a place.
    """

    model: PlaceOutputs
    pictures: Tensor
    filled: Tensor
    labels: Tensor
    weights: Tensor
    is_whole: bool

    def add_to(self, sums: Tensor, contributions: Tensor) -> None:
        """Add pixels' contributions, (picture, output, height, width), to those of their features."""
        weighted = contributions * self.weights.view(-1, 1, 1, 1)
        by_pixel = weighted.movedim(1, -1).reshape(-1, contributions.shape[1])
        here = self.labels.flatten() != ELSEWHERE
        sums.index_add_(0, self.labels.flatten()[here], by_pixel[here].to(sums))

    def differences(self) -> Tensor:
        """Return outputs as they are minus those with every feature replaced, (picture, output)."""
        with torch.no_grad():
            change: Tensor = self.model(self.pictures) - self.model(self.filled)
        return change

    def difference(self) -> Tensor:
        """Return the weighted sum of :meth:`differences`, (output,)."""
        change = self.differences()
        weights = self.weights.double() if change.device.type != "mps" else self.weights
        return torch.einsum("n,no->o", weights, change.to(weights))


def by_pieces(
    scene: Scene, filled: NDArray[np.uint8], question: Question, contributions: Callable[[Piece], Tensor]
) -> Contributions:
    """Add up what the pixels of each feature contribute, piece by piece.

    Parameters
    ----------
    scene, filled, question
        Block, what stands where something is removed, model and means.
    contributions
        (picture, output, height, width) of a piece, summed over colours.
    """
    encoder = as_differentiable(question.encoder)
    outputs = question.outputs.count
    sums = torch.zeros(scene.features, outputs, dtype=torch.float64, device=_precise(question.device))
    difference = torch.zeros(outputs, dtype=torch.float64, device=_precise(question.device))
    for piece in _pieces(scene, filled, encoder, question):
        stop_if(question.cancelled)
        piece.add_to(sums, contributions(piece).detach())
        difference += piece.difference().to(difference)
    return Contributions(sums.cpu().numpy(), difference.cpu().numpy())


def _precise(device: torch.device) -> torch.device:
    """Return where double precision can be had: not on MPS."""
    return torch.device("cpu") if device.type == "mps" else device


def _pieces(
    scene: Scene, filled: NDArray[np.uint8], encoder: DifferentiableEncoder, question: Question
) -> Iterator[Piece]:
    replaced = scene.without(np.ones(scene.features, dtype=bool), filled)
    if encoder.whole_image:
        centres = torch.as_tensor(scene.centres, dtype=torch.float32, device=question.device)
        weights = torch.as_tensor(scene.weights, dtype=torch.float32, device=question.device)
        model = PlaceOutputs(encoder, question, centres, weights)
        yield _piece(
            model, scene.image[None], replaced[None], scene.labels[None], np.ones(1), question.device, whole=True
        )
        return
    side = encoder.card.tile_px
    middle = torch.full((1, 2), side / 2, device=question.device)
    model = PlaceOutputs(encoder, question, middle, torch.ones(1, device=question.device))
    corners = np.floor(scene.centres - side / 2 + 0.5).astype(int)
    for start in range(0, len(corners), question.batch_size):
        some = corners[start : start + question.batch_size]
        cut = [np.stack([plane[y : y + side, x : x + side] for x, y in some]) for plane in (scene.image, replaced)]
        labels = np.stack([scene.labels[y : y + side, x : x + side] for x, y in some])
        weights_here = scene.weights[start : start + question.batch_size]
        yield _piece(model, cut[0], cut[1], labels, weights_here, question.device)


def _piece(
    model: PlaceOutputs,
    pictures: NDArray[np.uint8],
    filled: NDArray[np.uint8],
    labels: NDArray[np.int32],
    weights: NDArray[np.float64],
    device: torch.device,
    *,
    whole: bool = False,
) -> Piece:
    as_pictures = [torch.from_numpy(np.moveaxis(p, -1, 1).astype(np.float32)).to(device) for p in (pictures, filled)]
    return Piece(
        model=model,
        pictures=as_pictures[0].requires_grad_(),
        filled=as_pictures[1],
        labels=torch.from_numpy(labels.astype(np.int64)).to(device),
        weights=torch.as_tensor(weights, dtype=torch.float32, device=device),
        is_whole=whole,
    )
