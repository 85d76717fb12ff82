"""A block painted over says what the encoder says of the whole picture with the same pixels painted."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.attribution.repainted import Bounds, Repainted
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.context import ContextEncoder


def of_whole_picture(repainted, gone, filled):
    scene, question = repainted.scene, repainted.question
    inside = repainted.bounds.holds(scene.centres)
    values = question.values(np.where(gone[..., None], filled, scene.image), scene.centres[inside])
    outputs = scene.weights[inside] @ values / scene.weights[inside].sum()
    return outputs.reshape(len(question.outputs.genes), -1).mean(axis=1)


@pytest.mark.parametrize("make", [ContextEncoder, ColourEncoder])
def test_nothing_is_assumed_of_the_encoder(make, tissue, ask, make_ensemble):
    scene, filled = tissue
    encoder = make()
    ensemble = make_ensemble(encoder.card.width, seed=1)
    repainted = Repainted(scene, Bounds(0, 0, 240, 240), ask(encoder, ensemble=ensemble))
    for nuclei in ([], [3, 7, 12, 20], list(range(25))):
        gone = np.isin(scene.labels, nuclei)
        np.testing.assert_allclose(
            repainted(gone, filled), of_whole_picture(repainted, gone, filled), rtol=1e-4, atol=1e-4
        )


def test_what_lies_far_from_the_paint_hardly_matters(ask, make_ensemble):
    rng = np.random.default_rng(0)
    image = rng.integers(80, 250, (448, 448, 3)).astype(np.uint8)
    labels = np.full((448, 448), -1, np.int32)
    for number in range(9):
        y, x = 200 + 16 * (number // 3), 200 + 16 * (number % 3)
        labels[y : y + 8, x : x + 8] = number
    scene = Scene(image, labels, 9, 9, np.array([[220.0, 220.0], [150.0, 220.0]]), np.array([1.0, 2.0]), 1.0)
    encoder = ContextEncoder()
    ensemble = make_ensemble(encoder.card.width, seed=2)
    repainted = Repainted(scene, Bounds(140, 190, 260, 260), ask(encoder, ensemble=ensemble))
    filled = np.full_like(image, 200)
    whole = of_whole_picture(repainted, np.zeros(labels.shape, bool), filled)
    change = of_whole_picture(repainted, labels >= 0, filled) - whole
    found = repainted(labels >= 0, filled) - repainted(np.zeros(labels.shape, bool), filled)
    assert np.abs(change).min() > 1e-3
    # What is cut off lies far from the paint; of noise, in which nothing stands out, it is more than of tissue.
    np.testing.assert_allclose(found, change, rtol=0.1)


def test_bounds_grow_to_the_grid_and_not_beyond_the_picture():
    assert Bounds(20, 5, 40, 30).grown(3, 16, (50, 60)) == Bounds(16, 0, 48, 48)
    assert Bounds(20, 5, 40, 30).grown(64, 16, (50, 60)) == Bounds(0, 0, 60, 50)
    assert Bounds(1, 2, 3, 4).holds(np.array([[1, 2], [3, 3], [2.9, 3.9]])).tolist() == [True, False, True]
