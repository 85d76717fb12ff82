"""Integrated gradients: gradients along the straight way from the filled picture to the one that is there.

``(x - x') * integral over a in 0..1 of df / dx at x' + a (x - x')`` (Sundararajan, Taly and Yan 2017,
https://arxiv.org/abs/1703.01365). Contributions add up to ``f(x) - f(x')``; the record of a run says how nearly.

Networks of rectifiers have a kink wherever a unit switches, most of them near the filled picture, where little is to be
seen: smooth quadrature gains nothing. So ``a = t^2``, which puts points there, and the trapezoidal rule in ``t``, whose
points are halved in distance, none of them lost, until the sum misses the change of the outputs by less than
:data:`GAP`, twice in a row lest it was chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from captum.attr import Saliency
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.gradients import all_gradients, by_output
from stimage_qupath.attribution.pieces import Piece, by_pieces
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene
from stimage_qupath.results import stop_if

FEWEST: Final = 16
MOST: Final = 512
"""Intervals of the way."""
GAP: Final = 0.01
"""Of the change of the outputs of a picture, for each gene."""
SMALL: Final = 0.1
"""A gene that changes by less than this share of the genes' mean is held against that share: nothing is complete to one
percent of nearly nothing."""


def attribute(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
    """Return the contributions of a scene's features by integrated gradients; parameters as for ablation."""

    def contributions(piece: Piece) -> Tensor:
        found = _integral(piece, _points(FEWEST, every=1), question)
        was_near = _near(piece, found)
        intervals, rest = FEWEST, torch.arange(len(found), device=found.device)
        while intervals < MOST and len(rest):
            intervals *= 2
            some = piece.some(rest)
            found[rest] = found[rest] / 2 + _integral(some, _points(intervals, every=2), question)
            is_near = _near(some, found[rest])
            going = ~(is_near & was_near)
            rest, was_near = rest[going], is_near[going]
        return found

    return by_pieces(scene, filled, question, contributions)


def _points(intervals: int, *, every: int) -> Iterator[tuple[float, float]]:
    """Yield ``t`` and its weight in the trapezoidal rule; with ``every`` 2 those between the points of half as many."""
    for k in range(1, intervals + 1, every):  # at t = 0 the way stands still
        yield k / intervals, (0.5 if k == intervals else 1.0) / intervals


def _integral(piece: Piece, points: Iterator[tuple[float, float]], question: Question) -> Tensor:
    """Return the contributions of pixels by some points, (picture, gene, height, width) float64."""
    method = Saliency(piece.model)
    method.gradient_func = all_gradients
    way = (piece.pictures - piece.filled).detach()
    genes = len(question.outputs.genes)
    mean = torch.zeros(len(way), genes * 3, *way.shape[2:], dtype=_precision(way), device=way.device)
    for t, weight in points:
        stop_if(question.cancelled)
        mean += method.attribute((piece.filled + t**2 * way).requires_grad_(), abs=False).to(mean) * (2 * t * weight)
    return (by_output(mean) * way[:, None]).sum(dim=2)


def _near(piece: Piece, found: Tensor) -> Tensor:
    """Return of which pictures contributions add up to the change of the outputs, (picture,) bool."""
    change = (piece.values(piece.pictures) - piece.values(piece.filled)).to(found)
    scale = torch.maximum(change.abs(), SMALL * change.abs().mean(dim=1, keepdim=True))
    return ((found.sum(dim=(2, 3)) - change).abs() <= GAP * scale).all(dim=1)


def _precision(tensor: Tensor) -> torch.dtype:
    """Return double precision where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
