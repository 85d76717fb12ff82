"""Further tests of an attribution, on single blocks: how well it adds up, and how much it changes, as it should or not.

Infidelity and sensitivity are those of Yeh et al. 2019 (https://arxiv.org/abs/1901.09392); weights are randomised as by
Adebayo et al. 2018 (https://arxiv.org/abs/1810.03292).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from captum.metrics import infidelity as captum_infidelity
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from stimage_qupath.attribution.fills import choose_fill
from stimage_qupath.attribution.methods import choose_method
from stimage_qupath.attribution.per_nucleus import block_attribution
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.randomised import random_encoder, random_heads, standardised_by
from stimage_qupath.attribution.reader import Block
from stimage_qupath.attribution.repainted import Repainted

SETS: Final = 24
"""Random sets of nuclei that infidelity paints over."""
SHARE: Final = 0.2
"""Of the nuclei, in each set."""
NOISE_LEVELS: Final = 2.0
"""Grey levels by which a pixel may move when sensitivity is measured: the noise of a scanner."""
NOISES: Final = 2
SAMPLED: Final = ("lime", "kernel_shap", "gradient_shap")
"""Methods that depend on a seed."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains one block by one method and fill.

    Attributes
    ----------
    block
        As an explanation reads it.
    method, fill
        By name.
    question
        Encoder and outputs.
    """

    block: Block
    method: str
    fill: str
    question: Question

    def values(self, question: Question | None = None, image: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:
        """Return the attributions of the block's nuclei, (nucleus, gene), asked otherwise or of other pixels."""
        question = question or self.question
        scene = self.block.scene if image is None else replace(self.block.scene, image=image)
        filled = choose_fill(self.fill)(scene.image, self.block.nuclei_mask, scene.mpp)
        contributions = choose_method(self.method).load()(scene, filled, question)
        found = block_attribution(scene, self.block.middles, contributions, question)
        return np.nan_to_num(found.value[: scene.nuclei].astype(np.float64))


@dataclass(frozen=True, slots=True)
class Robustness:
    """What one block says, each (gene,).

    Attributes
    ----------
    infidelity
        Mean squared error of the attributions of random sets of nuclei against what painting them over takes away,
        attributions scaled by one best factor, over the mean square of the latter: 0 is perfect, 1 is worthless.
    sensitivity
        Largest change of the attributions under noise of two grey levels, over their norm.
    random_heads, random_encoder
        Rank correlation with the attributions of a model with such weights shuffled; near 0 if they show the model.
        NaN for an encoder without weights.
    repeat
        Rank correlation with another seed; 1 for methods without chance.
    """

    infidelity: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    random_heads: NDArray[np.float64]
    random_encoder: NDArray[np.float64]
    repeat: NDArray[np.float64]


def robustness(explainer: Explainer, repainted: Repainted, filled: NDArray[np.uint8], *, seed: int) -> Robustness:
    """Return the figures of one block.

    Parameters
    ----------
    explainer
        What is tested.
    repainted, filled
        The block, and what stands for painted pixels; another fill than the explainer's.
    seed
        Of all chance.
    """
    values = explainer.values()
    question = explainer.question
    heads = replace(question, outputs=random_heads(question.gene_outputs, seed=seed))
    repeat = np.ones(values.shape[1])
    if explainer.method in SAMPLED:
        repeat = rank_correlation(values, explainer.values(replace(question, seed=question.seed + 1)))
    return Robustness(
        infidelity=infidelity(values, repainted, filled, seed=seed),
        sensitivity=_sensitivity(explainer, values, seed=seed),
        random_heads=rank_correlation(values, explainer.values(heads)),
        random_encoder=_with_random_encoder(explainer, values, seed=seed),
        repeat=repeat,
    )


def infidelity(
    values: NDArray[np.float64], repainted: Repainted, filled: NDArray[np.uint8], *, seed: int, sets: int = SETS
) -> NDArray[np.float64]:
    """Return the relative infidelity of each gene, (gene,); see :class:`Robustness`."""
    chosen = torch.from_numpy(np.random.default_rng(seed).random((sets, repainted.scene.nuclei)) < SHARE).double()
    everyone = torch.ones(1, repainted.scene.nuclei, dtype=torch.float64)
    worth = _Worth(repainted, filled)
    lost = worth(everyone) - worth(everyone - chosen)
    found = []
    for gene, column in enumerate(values.T):
        error = captum_infidelity(
            lambda teams, gene=gene: worth(teams)[:, gene],
            lambda inputs: (chosen, inputs - chosen),
            everyone,
            torch.from_numpy(column)[None],
            n_perturb_samples=sets,
            normalize=True,
        )
        found.append(float(error) / float(lost[:, gene].square().mean()))
    return np.array(found)


class _Worth:
    """Outputs of a block by which of its nuclei are there; each team is asked once."""

    def __init__(self, repainted: Repainted, filled: NDArray[np.uint8]) -> None:
        self._repainted, self._filled = repainted, filled
        self._known: dict[bytes, NDArray[np.float64]] = {}

    def __call__(self, teams: Tensor) -> Tensor:
        """Return (team, gene) of (team, nucleus) zeros and ones."""
        return torch.from_numpy(np.stack([self._of(team) for team in teams.numpy() > 0.5]))

    def _of(self, team: NDArray[np.bool_]) -> NDArray[np.float64]:
        key = team.tobytes()
        if key not in self._known:
            scene = self._repainted.scene
            gone = np.append(~team, np.zeros(scene.features - scene.nuclei + 1, dtype=bool))  # the last: ELSEWHERE
            self._known[key] = self._repainted(gone[scene.labels], self._filled)
        return self._known[key]


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's correlation of each column, (gene,); 0 where either is constant."""
    found = []
    for a, b in zip(one.T, other.T, strict=True):
        moves = np.ptp(a) > 0 and np.ptp(b) > 0
        found.append(float(stats.spearmanr(a, b).statistic) if moves else 0.0)
    return np.array(found)


def _sensitivity(explainer: Explainer, values: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    rng, image = np.random.default_rng(seed), explainer.block.scene.image
    worst = np.zeros(values.shape[1])
    for _ in range(NOISES):
        noise = rng.uniform(-NOISE_LEVELS, NOISE_LEVELS, image.shape)
        noisy = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
        change = np.linalg.norm(explainer.values(image=noisy) - values, axis=0)
        worst = np.maximum(worst, change / np.maximum(np.linalg.norm(values, axis=0), 1e-300))
    return worst


def _with_random_encoder(explainer: Explainer, values: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    question = explainer.question
    shuffled = random_encoder(question.encoder, seed=seed)
    if shuffled is None:
        return np.full(values.shape[1], np.nan)
    scene = explainer.block.scene
    features = shuffled.encode(
        scene.image,
        scene.centres,
        device=question.device,
        batch_size=question.batch_size,
        cancelled=question.cancelled,
    )
    outputs = standardised_by(question.gene_outputs, features)
    return rank_correlation(values, explainer.values(replace(question, encoder=shuffled, outputs=outputs)))
