"""Feature ablation: what the outputs lose when one nucleus is replaced, the others staying.

``contribution of j to place n = f_n(x) - f_n(x with j replaced)`` (Zeiler and Fergus 2014, doi
10.1007/978-3-319-10590-1_53). Asks nothing of the encoder. Two kinds of encoders are answered the same, and far
faster: those of window statistics (:mod:`stimage_qupath.attribution.local_ablation`) and those that average the maps of
a network (:mod:`stimage_qupath.attribution.pooled_ablation`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.attribution.capabilities import as_local, as_pooled
from stimage_qupath.attribution.game import by_windows
from stimage_qupath.attribution.local_ablation import local_sums
from stimage_qupath.attribution.pooled_ablation import pooled_contributions
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene


def attribute(scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
    """Return the contributions of a scene's features by leaving each out.

    Parameters
    ----------
    scene
        Block and places.
    filled
        What stands where something is removed, the shape of the image.
    question
        Model and means.
    """
    local, pooled = as_local(question.encoder), as_pooled(question.encoder)
    if local is not None:
        return Contributions(local_sums(scene, filled, local, question), question.difference(scene, filled))
    if pooled is not None:
        return pooled_contributions(scene, filled, pooled, question)
    return by_windows(scene, filled, question, lambda game: game.whole - game(~np.eye(game.players, dtype=bool)))
