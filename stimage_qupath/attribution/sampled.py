"""captum's samplers on a game: the input is who takes part, and every output sees the same samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.attribution.game import Game
from stimage_qupath.attribution.question import Question


def sampled_contributions(
    game: Game, question: Question, build: Callable[[Callable[[Tensor], Tensor]], Any]
) -> NDArray[np.float64]:
    """Return the contributions of players, (player, output).

    The samples depend on the seed and on the number of players alone, so that genes and members share the encoder's
    work: the game remembers what it was asked.

    Parameters
    ----------
    game
        What is explained.
    question
        Number of samples, batch and seed.
    build
        Makes captum's method from a function of (team, player) tensors to (team,) values.
    """
    everyone = torch.ones(1, game.players)
    columns = []
    for output in range(question.outputs.count):

        def forward(teams: Tensor, output: int = output) -> Tensor:
            return torch.from_numpy(game(teams.numpy() > 0.5)[:, output])

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(question.seed)
            found = build(forward).attribute(
                everyone,
                baselines=torch.zeros_like(everyone),
                n_samples=question.samples,
                perturbations_per_eval=question.batch_size,
            )
        columns.append(found[0].double().numpy())
    return np.stack(columns, axis=1)
