"""KernelSHAP with nuclei as features: Shapley values by weighted linear regression.

Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874. Samples are drawn by the Shapley kernel; the full and the empty
window are given a weight that makes the values add up to their difference (completeness, up to sampling of the fit).
"""

from __future__ import annotations

import numpy as np
from captum.attr import KernelShap
from numpy.typing import NDArray

from stimage_qupath.attribution.game import Game, by_windows
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.sampled import sampled_contributions
from stimage_qupath.attribution.scene import Contributions, Scene


def attribute(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
    """Return the contributions of a scene's features by KernelSHAP; parameters as for ablation."""

    def contributions(game: Game) -> NDArray[np.float64]:
        if game.players == 1:  # nothing to divide
            return np.asarray(game.whole - game(np.zeros((1, 1), dtype=bool)))
        return sampled_contributions(game, question, KernelShap)

    return by_windows(scene, filled, question, contributions)
