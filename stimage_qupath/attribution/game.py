"""One window as a game: its features are the players, and the outputs say what a team of them is worth.

Every perturbation method is a way of asking a game. It never looks into the encoder, so that encoders without gradients
are explained like others.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.attribution.capabilities import sees_px
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import ELSEWHERE, Contributions, Scene
from stimage_qupath.models.encoders import Encoder
from stimage_qupath.results import stop_if

MOSAIC_PIXELS = 2**24
"""Pixels of windows that are encoded in one call; 50 MB."""


class Game:
    """The window of one place.

    Parameters
    ----------
    scene
        Block and places.
    filled
        What stands in for a player who does not take part, the shape of the image.
    question
        Model and means.
    place
        Which of the scene's places.
    """

    def __init__(self, scene: Scene, filled: NDArray[np.uint8], question: Question, place: int) -> None:
        centre = scene.centres[place]
        rows, columns = _window(question.encoder, centre, scene.labels.shape)
        self._image, self._filled = scene.image[rows, columns], filled[rows, columns]
        labels = scene.labels[rows, columns]
        self.features = np.unique(labels[labels != ELSEWHERE])
        # A last player who always takes part owns what belongs to no feature.
        self._player = np.searchsorted(self.features, labels)
        self._player[labels == ELSEWHERE] = len(self.features)
        self._centre = centre - (columns.start, rows.start)
        self._question = question
        self._known: dict[bytes, NDArray[np.float64]] = {}
        self.whole = self(np.ones((1, self.players), dtype=bool))[0]

    @property
    def players(self) -> int:
        """Number of features in the window."""
        return len(self.features)

    def __call__(self, teams: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the outputs of each team, (team, output), of who takes part, (team, player) bool; each asked once."""
        keys = [team.tobytes() for team in teams]
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        if new:
            self._known |= dict(zip(new, self._ask(teams[list(new.values())]), strict=True))
        return np.stack([self._known[key] for key in keys]) if keys else np.empty((0, self._question.outputs.count))

    def _ask(self, teams: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Encode each team's picture; encoders of whole windows get them side by side, in one call."""
        height, width = self._image.shape[:2]
        together = max(1, MOSAIC_PIXELS // (height * width)) if self._question.encoder.card.pads_edges else 1
        values = []
        for start in range(0, len(teams), together):
            stop_if(self._question.cancelled)
            pictures = [self._picture(team) for team in teams[start : start + together]]
            centres = self._centre + np.array([(0, k * height) for k in range(len(pictures))])
            values.append(self._question.values(np.concatenate(pictures), centres))
        return np.concatenate(values)

    def _picture(self, team: NDArray[np.bool_]) -> NDArray[np.uint8]:
        shown = np.append(team, True)[self._player]
        return np.where(shown[..., None], self._image, self._filled)


def _window(encoder: Encoder, centre: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns that matter to a place; encoders that clip get them from a step of their grid on."""
    card = encoder.card
    side = card.tile_px if card.pads_edges else 2 * sees_px(encoder)
    low = np.floor(centre - side / 2 + 0.5).astype(int)
    high = low + math.ceil(side)
    low -= low % card.align_px
    rows, columns = (slice(max(int(low[k]), 0), min(int(high[k]), shape[1 - k])) for k in (1, 0))
    return rows, columns


def by_windows(
    scene: Scene,
    filled: NDArray[np.uint8],
    question: Question,
    contributions: Callable[[Game], NDArray[np.float64]],
) -> Contributions:
    """Ask the game of each place and add up what its players contribute.

    Parameters
    ----------
    scene, filled, question
        See :class:`Game`.
    contributions
        (player, output) of a game.
    """
    sums = np.zeros((scene.features, question.outputs.count))
    difference = np.zeros(question.outputs.count)
    for place, weight in enumerate(scene.weights):
        game = Game(scene, filled, question, place)
        if game.players:
            sums[game.features] += weight * contributions(game)
            difference += weight * (game.whole - game(np.zeros((1, game.players), dtype=bool))[0])
    return Contributions(sums, difference)
