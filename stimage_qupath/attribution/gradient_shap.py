"""Gradient SHAP: gradients at random points of the way from the filled picture, with a little noise.

An estimate of the expectation that integrated gradients compute by quadrature (Lundberg and Lee 2017,
https://arxiv.org/abs/1705.07874); the noise averages over shattered gradients.
"""

from __future__ import annotations

import numpy as np
import torch
from captum.attr import GradientShap
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.pieces import Piece, by_pieces
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene

DRAWS = 32
NOISE_SD = 2.0
"""Grey levels: about the noise of a scanner."""


def attribute(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
    """Return the contributions of a scene's features by gradient SHAP; parameters as for ablation."""

    def contributions(piece: Piece) -> Tensor:
        return torch.stack([_of_output(piece, question, k) for k in range(len(question.outputs.genes))], dim=1)

    return by_pieces(scene, filled, question, contributions)


def _of_output(piece: Piece, question: Question, output: int) -> Tensor:
    """Return the contributions to one output, (picture, height, width); every picture has draws of its own baseline."""
    found = []
    for picture, filled in zip(piece.pictures, piece.filled, strict=True):
        devices = [question.device] if question.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(question.seed)
            np_state = np.random.get_state()  # noqa: NPY002 - captum draws the place on the way from numpy's global
            np.random.seed(question.seed)  # noqa: NPY002
            try:
                one = GradientShap(piece.model).attribute(
                    picture[None], baselines=filled[None], n_samples=DRAWS, stdevs=NOISE_SD, target=output
                )
            finally:
                np.random.set_state(np_state)  # noqa: NPY002
        found.append(one[0].sum(dim=0))
    return torch.stack(found).detach()
