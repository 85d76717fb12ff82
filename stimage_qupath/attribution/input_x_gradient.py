"""Input x gradient: the first-order change of the outputs from the filled picture to the one that is there.

``(x - x') df / dx`` (Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713, where ``x'`` is black). Exact where the
outputs are linear in the pixels; the cheapest signed method.
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
    """Return the contributions of a scene's features to first order; parameters as for ablation."""

    def contributions(piece: Piece) -> Tensor:
        method = Saliency(piece.model)  # captum's InputXGradient knows no other baseline than black
        method.gradient_func = all_gradients
        gradients = by_output(method.attribute(piece.pictures, abs=False))
        return (gradients * (piece.pictures - piece.filled)[:, None]).sum(dim=2)

    return by_pieces(scene, filled, question, contributions)
