"""Saliency: how steeply the outputs rise with the pixels, whichever way.

``|df / dx|`` summed over colours (Simonyan, Vedaldi and Zisserman 2014, https://arxiv.org/abs/1312.6034). Unsigned, and
of no particular sum: a map of where the model looks, kept for comparison.
"""

from __future__ import annotations

import numpy as np
from captum.attr import Saliency
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.gradients import all_gradients, by_output
from stimage_qupath.attribution.pieces import Piece, by_pieces
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene


def attribute(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
    """Return the saliency of a scene's features; parameters as for ablation, though nothing is filled."""

    def contributions(piece: Piece) -> Tensor:
        method = Saliency(piece.model)
        method.gradient_func = all_gradients
        return by_output(method.attribute(piece.pictures, abs=True)).sum(dim=2)

    return by_pieces(scene, filled, question, contributions)
