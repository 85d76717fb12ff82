"""Guided Grad-CAM: guided back-propagation, weighted by the class activation map of the last convolution.

Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391. For convolutional networks with ReLU. It fails tests of
randomised weights (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292), as the report shows; kept for comparison.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from captum.attr import GuidedGradCam
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.capabilities import as_differentiable
from stimage_qupath.attribution.pieces import Piece, by_pieces
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene
from stimage_qupath.errors import UsageError


def attribute(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
    """Return guided Grad-CAM of a scene's features; parameters as for ablation, though nothing is filled.

    Raises
    ------
    UsageError
        The encoder has no convolution with maps of more than one pixel.
    """
    layer = last_convolution(as_differentiable(question.encoder).network())

    def contributions(piece: Piece) -> Tensor:
        method = GuidedGradCam(piece.model, layer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")  # they are taken off again
            by_target = [method.attribute(piece.pictures, target=k) for k in range(len(question.outputs.genes))]
        return torch.stack([one.sum(dim=1) for one in by_target], dim=1)

    return by_pieces(scene, filled, question, contributions)


def last_convolution(network: torch.nn.Module) -> torch.nn.Module:
    """Return the last convolution of a network; UsageError where it has none but the patch embedding."""
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    if len(convolutions) < 2:
        msg = "expected a convolutional network for guided Grad-CAM, found one with fewer than two convolutions; "
        msg += "pass --method integrated_gradients"
        raise UsageError(msg)
    return convolutions[-1]
