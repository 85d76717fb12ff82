"""Softmax ensembles: probabilities, the split of their entropy, and the model folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from stimage_qupath.errors import UnknownModelError
from stimage_qupath.models.cell_type import CellTypeEnsemble, SoftmaxHeads, combine, log_likelihood
from stimage_qupath.models.cell_type_store import load_cell_types, save_cell_types
from stimage_qupath.names import HEADS_SAFETENSORS, MODEL_JSON

CARD = {
    "name": "toy",
    "level": "nucleus",
    "features": {"encoder": None, "appearance": True, "shape": False},
    "training": {},
    "colors": {"a": [1, 2, 3]},
}


def ensemble(*, temperature=1.0, members=3, classes=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    heads = SoftmaxHeads(
        feature_mean=rng.normal(size=5).astype(np.float32),
        feature_sd=rng.uniform(0.5, 2, 5).astype(np.float32),
        weight=rng.normal(size=(members, 5, len(classes))).astype(np.float32),
        bias=rng.normal(size=(members, len(classes))).astype(np.float32),
        temperature=temperature,
    )
    return CellTypeEnsemble(classes, heads)


def test_logits_are_the_linear_formula_over_the_temperature():
    model = ensemble(temperature=2.0)
    x = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    found = model.logits(x)
    assert found.shape == (3, 4, 3)
    h = model.heads
    by_hand = sum((x[2, f] - h.feature_mean[f]) / h.feature_sd[f] * h.weight[1, f, 0] for f in range(5)) + h.bias[1, 0]
    assert found[1, 2, 0] == pytest.approx(by_hand / 2, rel=1e-5)


def test_features_far_from_training_are_held_at_four_spreads():
    model = ensemble()
    h = model.heads
    at_limit = (h.feature_mean + 4 * h.feature_sd)[None]
    np.testing.assert_allclose(model.logits(at_limit + 1e6), model.logits(at_limit), rtol=1e-4)


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=40)
def test_entropy_is_expected_entropy_plus_mutual_information(members, classes, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(classes, 0.5), size=(members, 7))
    found = combine(p)
    np.testing.assert_allclose(found.entropy, scipy_entropy(p.mean(axis=0), axis=-1), rtol=1e-5, atol=1e-6)
    expected = np.mean([scipy_entropy(one, axis=-1) for one in p], axis=0)
    np.testing.assert_allclose(found.expected_entropy, expected, rtol=1e-4, atol=1e-5)
    assert (found.mutual_information >= 0).all()
    np.testing.assert_allclose(found.probability.sum(axis=1), 1, rtol=1e-5)


def test_members_that_agree_know_no_epistemic_part_and_those_that_contradict_know_nothing_else():
    same = combine(np.tile([[0.7, 0.3]], (4, 1, 1)))
    assert same.mutual_information[0] == pytest.approx(0, abs=1e-7)
    apart = combine(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert apart.entropy[0] == pytest.approx(np.log(2), rel=1e-6)
    assert apart.mutual_information[0] == pytest.approx(np.log(2), rel=1e-6)


def test_the_prediction_does_not_depend_on_the_batch_and_none_is_fine():
    model = ensemble()
    x = np.random.default_rng(2).normal(size=(11, 5)).astype(np.float32)
    whole, parts = model.predict(x), model.predict(x, batch_size=3)
    np.testing.assert_allclose(whole.probability, parts.probability, rtol=1e-5)
    np.testing.assert_allclose(whole.entropy, parts.entropy, rtol=1e-5)
    assert (whole.codes == whole.probability.argmax(axis=1)).all()
    assert model.predict(x[:0]).probability.shape == (0, 3)


def test_log_likelihood_is_that_of_the_mean_probability():
    logits = np.array([[[0.0, np.log(3)]], [[0.0, 0.0]]])  # p of class 1: 3/4 and 1/2
    found = log_likelihood(logits, np.array([[0.25, 0.75]]))
    assert found[0] == pytest.approx(0.25 * np.log(3 / 8) + 0.75 * np.log(5 / 8))


def test_nonsense_is_refused():
    good = ensemble().heads
    with pytest.raises(ValueError, match="expected 3 different classes, found a, a, b"):
        CellTypeEnsemble(("a", "a", "b"), good)
    with pytest.raises(ValueError, match="temperature above 0"):
        ensemble(temperature=0.0)
    with pytest.raises(ValueError, match="expected 5 features a place"):
        ensemble().logits(np.zeros((2, 4), np.float32))
    broken = {name: getattr(good, name) for name in ("feature_mean", "feature_sd", "weight", "bias")}
    with pytest.raises(ValueError, match="expected finite weights"):
        SoftmaxHeads(**{**broken, "bias": good.bias * np.nan})
    with pytest.raises(ValueError, match="expected heads that fit a weight of shape"):
        SoftmaxHeads(**{**broken, "feature_sd": good.feature_sd[:2]})


def test_a_folder_gives_back_what_was_saved(tmp_path):
    model = ensemble(temperature=1.7)
    card = save_cell_types(tmp_path, model, CARD)
    again = load_cell_types(tmp_path)
    x = np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
    np.testing.assert_array_equal(again.ensemble.logits(x), model.logits(x))
    assert again.card == card
    assert again.level == "nucleus"
    assert again.colors == {"a": (1, 2, 3)}
    assert {path.name for path in tmp_path.iterdir()} == {MODEL_JSON, HEADS_SAFETENSORS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "nuclei"}, "expected a cell-type model at .*, found another"),
        ({"format": 99}, "found format 99; update stimage-qupath"),
        ({"level": "tile"}, "expected a model of level nucleus, neighbourhood, region"),
        ({"classes": ["a", "b"]}, "is damaged: expected 3 different classes"),
        ({"temperature": None}, "found no temperature"),
    ],
)
def test_another_or_damaged_card_is_refused(tmp_path, change, message):
    save_cell_types(tmp_path, ensemble(), CARD)
    card = json.loads((tmp_path / MODEL_JSON).read_text(encoding="utf-8"))
    card = {key: value for key, value in {**card, **change}.items() if value is not None}
    (tmp_path / MODEL_JSON).write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(UnknownModelError, match=message):
        load_cell_types(tmp_path)


def test_other_weights_than_the_cards_are_refused(tmp_path):
    save_cell_types(tmp_path, ensemble(), CARD)
    weights = tmp_path / HEADS_SAFETENSORS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UnknownModelError, match="damaged: expected SHA-256"):
        load_cell_types(tmp_path)
    with pytest.raises(UnknownModelError, match=r"expected a cell-type model with a readable model.json"):
        load_cell_types(tmp_path / "nowhere")
