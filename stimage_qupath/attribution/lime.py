"""LIME with nuclei as features: a ridge regression of the outputs on which features take part.

Ribeiro, Singh and Guestrin 2016, doi 10.1145/2939672.2939778. Each sample keeps every feature with probability one
half; a sample weighs ``exp(-d^2 / 0.25^2)`` with d the cosine distance to the whole window; coefficients are the
contributions. They need not add up to the difference of the outputs.
"""

from __future__ import annotations

import numpy as np
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import Lime
from captum.attr._core.lime import get_exp_kernel_similarity_function  # no public name for the kernel's width
from numpy.typing import NDArray

from stimage_qupath.attribution.game import Game, by_windows
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.sampled import sampled_contributions
from stimage_qupath.attribution.scene import Contributions, Scene

KERNEL_WIDTH = 0.25
RIDGE = 1.0


def attribute(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
    """Return the contributions of a scene's features by LIME; parameters as for ablation."""

    def contributions(game: Game) -> NDArray[np.float64]:
        return sampled_contributions(
            game,
            question,
            lambda forward: Lime(
                forward,
                interpretable_model=SkLearnRidge(alpha=RIDGE),
                similarity_func=get_exp_kernel_similarity_function("cosine", kernel_width=KERNEL_WIDTH),
            ),
        )

    return by_windows(scene, filled, question, contributions)
