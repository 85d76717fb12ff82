"""Integrated gradients: gradients along the straight way from the filled picture to the one that is there.

``(x - x') * integral over a in 0..1 of df / dx at x' + a (x - x')`` (Sundararajan, Taly and Yan 2017,
https://arxiv.org/abs/1703.01365), by Gauss-Legendre quadrature. Contributions add up to ``f(x) - f(x')``; the record
of a run says how nearly.
"""

from __future__ import annotations

import numpy as np
from captum.attr import IntegratedGradients
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.gradients import all_gradients, by_output
from stimage_qupath.attribution.pieces import Piece, by_pieces
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene

STEPS = 64
MOST_STEPS = 256
GAP = 0.005
"""Of a block seen as a whole: where contributions miss the difference by more, the steps are doubled. Tiles always get
the same number, which must not depend on the tiles that share their batch."""


def attribute(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
    """Return the contributions of a scene's features by integrated gradients; parameters as for ablation."""

    def contributions(piece: Piece) -> Tensor:
        steps, found = STEPS, _with_steps(piece, STEPS)
        while piece.is_whole and steps < MOST_STEPS and _gap(piece, found) > GAP:
            steps *= 2
            found = _with_steps(piece, steps)
        return found

    return by_pieces(scene, filled, question, contributions)


def _with_steps(piece: Piece, steps: int) -> Tensor:
    """Return the contributions of pixels, (picture, output, height, width), by that many steps."""
    method = IntegratedGradients(piece.model, multiply_by_inputs=False)
    method.gradient_func = all_gradients
    mean_gradients = method.attribute(
        piece.pictures, baselines=piece.filled, n_steps=steps, internal_batch_size=len(piece.pictures)
    )
    found: Tensor = (by_output(mean_gradients) * (piece.pictures - piece.filled)[:, None]).sum(dim=2).detach()
    return found


def _gap(piece: Piece, found: Tensor) -> float:
    """Return by how much contributions miss the differences of the outputs, all outputs together."""
    differences = piece.differences()
    return float((found.sum(dim=(2, 3)) - differences).abs().sum() / differences.abs().sum())
