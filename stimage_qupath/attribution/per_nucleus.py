"""From contributions to predictions to one number a nucleus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.attribution.capabilities import window_px
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene


@dataclass(frozen=True, slots=True)
class BlockAttribution:
    """Numbers of one block's features.

    Attributes
    ----------
    value
        (feature, gene) float32: weighted mean, over the predictions whose window holds the feature, of what it
        contributed to each; NaN where no window does.
    sd
        (feature, gene) float32, SD over members of the same; None where there is one member.
    area_um2
        (feature,) float32, of the feature's pixels.
    nuclei
        How many features are nuclei; the others are cells of background.
    contributed, difference
        (gene,) float64: all contributions, and what they should add up to if the method is complete.
    amount
        (2, gene) float64: contributions of nuclei and of background, added up without their signs.
    """

    value: NDArray[np.float32]
    sd: NDArray[np.float32] | None
    area_um2: NDArray[np.float32]
    nuclei: int
    contributed: NDArray[np.float64]
    difference: NDArray[np.float64]
    amount: NDArray[np.float64]


def block_attribution(
    scene: Scene, middles: NDArray[np.float64], contributions: Contributions, question: Question
) -> BlockAttribution:
    """Return mean contributions, from their sums over places.

    Parameters
    ----------
    scene
        Block and places.
    middles
        (feature, 2) x and y in pixels of the scene.
    contributions
        Of the scene's features.
    question
        Outputs by gene and member.
    """
    seen = predictions_that_see(scene, middles, window_px(question.encoder))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(seen[:, None] > 0, contributions.sums / seen[:, None], np.nan)
    value, sd = question.outputs.summarise(mean)
    genes = len(question.outputs.genes)
    by_gene = contributions.sums.reshape(len(contributions.sums), genes, -1).mean(axis=2)
    amount = np.abs(by_gene)
    return BlockAttribution(
        value=value,
        sd=sd,
        area_um2=(scene.pixels * scene.mpp**2).astype(np.float32),
        nuclei=scene.nuclei,
        contributed=by_gene.sum(axis=0),
        difference=contributions.difference.reshape(genes, -1).mean(axis=1),
        amount=np.stack([amount[: scene.nuclei].sum(axis=0), amount[scene.nuclei :].sum(axis=0)]),
    )


def predictions_that_see(scene: Scene, middles: NDArray[np.float64], side_px: int) -> NDArray[np.float64]:
    """Return how many predictions have the middle of each feature in their window, (feature,)."""
    seen = np.zeros(len(middles))
    for start in range(0, len(middles), 4096):
        rows = slice(start, start + 4096)
        distance = np.abs(middles[rows, None] - scene.centres[None]).max(axis=2)
        seen[rows] = (distance <= side_px / 2) @ scene.weights
    return seen
