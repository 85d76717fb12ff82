"""Infidelity of models that add up is nothing; shuffled weights change what is explained."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.attribution.randomised import random_encoder, random_heads, standardised_by
from stimage_qupath.attribution.reader import Block
from stimage_qupath.attribution.repainted import Bounds, Repainted
from stimage_qupath.attribution.robustness import Explainer, infidelity, rank_correlation, robustness
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.context import ContextEncoder


@pytest.fixture(scope="module")
def block(tissue):
    scene, filled = tissue
    rows, columns = np.nonzero(scene.labels >= 0)
    label = scene.labels[rows, columns]
    middles = np.array([[columns[label == f].mean(), rows[label == f].mean()] for f in range(scene.features)])
    mask = (scene.labels >= 0) & (scene.labels < scene.nuclei)
    return Block(scene, np.arange(25), middles, mask, (0, 0)), filled


@pytest.fixture(scope="module")
def additive(make_card, linear, ask, block):
    """A model of which every nucleus takes away the same wherever it stands, and what each takes away."""
    linear.card = make_card(mpp=1.0, tile_px=40, width=2)
    scene = block[0].scene
    repainted = Repainted(scene, Bounds(0, 0, 240, 240), ask(linear))
    none = np.zeros(scene.labels.shape, bool)
    whole = repainted(none, block[1])
    alone = np.stack([whole - repainted(scene.labels == n, block[1]) for n in range(25)])
    return repainted, alone


def test_attributions_that_add_up_have_no_infidelity(additive, block):
    repainted, alone = additive
    np.testing.assert_allclose(infidelity(alone, repainted, block[1], seed=0), 0, atol=1e-5)
    np.testing.assert_allclose(infidelity(7 * alone, repainted, block[1], seed=0), 0, atol=1e-5)  # of any scale
    noise = np.random.default_rng(0).normal(0, 1, alone.shape)
    assert (infidelity(noise, repainted, block[1], seed=0) > 0.3).all()


def test_infidelity_is_that_of_the_paper(additive, block):
    repainted, alone = additive
    values = alone + np.random.default_rng(1).normal(0, np.abs(alone).mean(), alone.shape)
    sets = np.random.default_rng(5).random((24, 25)) < 0.2
    promised, lost = sets @ values, sets @ alone  # additive: sets lose what their nuclei do
    factor = (promised * lost).sum(axis=0) / (promised**2).sum(axis=0)
    by_hand = ((factor * promised - lost) ** 2).mean(axis=0) / (lost**2).mean(axis=0)
    np.testing.assert_allclose(infidelity(values, repainted, block[1], seed=5), by_hand, rtol=1e-3)


def test_ranks_are_compared_by_column():
    one = np.array([[1.0, 1.0], [2.0, 1.0], [5.0, 1.0]])
    assert rank_correlation(one, one**3).tolist() == [1.0, 0.0]  # the second does not move
    assert rank_correlation(one[:, :1], -one[:, :1]).tolist() == [-1.0]


def test_shuffled_models_keep_their_weights_but_not_their_meaning(make_ensemble, ask):
    encoder = ContextEncoder()
    shuffled = random_encoder(encoder, seed=0)
    for (name, before), after in zip(
        encoder.trunk.state_dict().items(), shuffled.trunk.state_dict().values(), strict=True
    ):
        assert sorted(before.flatten().tolist()) == sorted(after.flatten().tolist()), name
    assert shuffled.fingerprint() != encoder.fingerprint()
    assert random_encoder(ColourEncoder(), seed=0) is None
    outputs = ask(encoder, ensemble=make_ensemble(768)).outputs
    other = random_heads(outputs, seed=0)
    before, after = (o.ensemble.heads.projection for o in (outputs, other))
    np.testing.assert_array_equal(np.sort(before, axis=1), np.sort(after, axis=1))
    assert (before != after).mean() > 0.9
    features = np.random.default_rng(0).normal(5, 3, (40, 768)).astype(np.float32)
    heads = standardised_by(outputs, features).ensemble.heads
    assert heads.standardise(features).std(axis=0) == pytest.approx(np.ones(768), rel=1e-3)


@pytest.mark.flow
def test_an_explanation_follows_the_model(block, ask, make_ensemble):
    read, filled = block
    question = ask(ContextEncoder(), ensemble=make_ensemble(768, seed=3))
    explainer = Explainer(read, "ablation", "inpainted", question)
    repainted = Repainted(read.scene, Bounds(0, 0, 240, 240), question)
    found = robustness(explainer, repainted, filled, seed=0)
    assert (found.repeat == 1).all()
    assert (np.abs(found.random_heads) < 0.75).all()
    assert (np.abs(found.random_encoder) < 0.75).all()
    assert (found.sensitivity > 0).all()
    assert (found.infidelity < 1).all()
