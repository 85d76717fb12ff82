"""Pictures to the numbers that gradients are taken of."""

from __future__ import annotations

import torch
from torch import Tensor

from stimage_qupath.attribution.capabilities import DifferentiableEncoder
from stimage_qupath.attribution.map_area import MapArea
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.window_slopes import PlaceGrid


class PlaceOutputs(torch.nn.Module):
    """Pictures to outputs: the encoder, the heads, the mean over members and the weighted sum over places.

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
        """Return (picture, gene) from (picture, 3, height, width), 0-255."""
        features = self._encoder.features(pictures, self._centres)
        return torch.einsum("p,npg->ng", self._weights, self._outputs.by_gene(features))


class PooledOutputs(torch.nn.Module):
    """The same for an encoder of averaged maps: maps far from the features stay as they are and cost nothing.

    Parameters
    ----------
    places
        Of the scene.
    area
        Where maps change.
    network
        Of the encoder.
    question
        Outputs.
    before
        (3, height, width) the scene as it is, in the pixels that the area is computed of.
    corner
        Of those, x and y.
    """

    def __init__(
        self,
        places: PlaceGrid,
        area: MapArea,
        network: torch.nn.Module,
        question: Question,
        before: Tensor,
        corner: tuple[int, int],
    ) -> None:
        super().__init__()
        self.network = network
        self._places, self._area, self._outputs, self._corner = places, area, question.outputs, corner
        self._before = self._maps(before)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (picture, gene) from (picture, 3, height, width), 0-255."""
        values = []
        for picture in pictures:
            changes = [new - old for new, old in zip(self._maps(picture), self._before, strict=True)]
            features = self._places.features(changes, self._area.firsts)
            values.append(self._places.weights @ self._outputs.by_gene(features))
        return torch.stack(values)

    def _maps(self, picture: Tensor) -> list[Tensor]:
        return self._area.cut(self._area.encoder.moments(picture), self._corner)
