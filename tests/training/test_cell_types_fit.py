"""Fitting of softmax heads: against scikit-learn, for soft targets, rare classes and the temperature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from stimage_qupath.training.cell_types_fit import (
    FitSettings,
    LabelledPlaces,
    class_weights,
    fit_cell_types,
    fit_temperature,
)

CLASSES = ("a", "b", "c")


def places(n=240, *, seed=0, shift=2.0, share=(1, 1, 1)):
    """Return three Gaussian clouds in four dimensions, in twelve units."""
    rng = np.random.default_rng(seed)
    code = rng.choice(3, size=n, p=np.array(share) / np.sum(share))
    features = rng.normal(size=(n, 4)).astype(np.float32)
    features[:, :3] += shift * np.eye(3, dtype=np.float32)[code]
    return LabelledPlaces(features, np.eye(3)[code], np.arange(n) % 12, np.ones(n)), code


def test_one_penalty_gives_scikit_learns_coefficients():
    data, code = places()
    fit = fit_cell_types(data, CLASSES, FitSettings(members=1, balanced=False, penalties=(0.05,), seed=1))
    heads = fit.ensemble.heads
    x = np.clip((data.features - heads.feature_mean) / heads.feature_sd, -4, 4)
    draws = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=1)[0][data.unit]
    # Their penalty is on the sum over places, ours on the mean.
    theirs = LogisticRegression(C=1 / (0.05 * draws.sum()), tol=1e-8, max_iter=2000).fit(x, code, sample_weight=draws)
    ours = heads.weight[0] - heads.weight[0].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs.coef_.T, atol=2e-3)


def test_soft_targets_are_learnt_as_shares():
    features = np.repeat(np.eye(2, dtype=np.float32), 60, axis=0)
    target = np.repeat([[0.8, 0.2], [0.3, 0.7]], 60, axis=0)
    data = LabelledPlaces(features, target, np.arange(120) % 10, np.ones(120))
    fit = fit_cell_types(data, ("a", "b"), FitSettings(members=2, balanced=False, penalties=(1e-4,)))
    np.testing.assert_allclose(fit.ensemble.predict(features[[0, -1]]).probability, target[[0, -1]], atol=0.02)


def test_a_place_of_weight_two_counts_as_two():
    data, _ = places(60)
    doubled = LabelledPlaces(
        np.concatenate([data.features, data.features[:20]]),
        np.concatenate([data.target, data.target[:20]]),
        np.concatenate([data.unit, data.unit[:20]]),
        np.ones(80),
    )
    weight = np.where(np.arange(60) < 20, 2.0, 1.0)
    np.testing.assert_allclose(class_weights(data.target, weight), class_weights(doubled.target, doubled.weight))


def test_balanced_heads_are_corrected_to_the_shares_of_training_or_left_at_equal_ones():
    data, code = places(600, share=(0.9, 0.07, 0.03), shift=0.0)  # features say nothing: the prior is all there is
    options = {"members": 2, "penalties": (10.0,)}
    training = fit_cell_types(data, CLASSES, FitSettings(**options)).ensemble.predict(data.features).probability
    equal = fit_cell_types(data, CLASSES, FitSettings(prior="equal", **options))
    assert training.mean(axis=0) == pytest.approx(np.bincount(code) / 600, abs=0.03)
    assert equal.ensemble.predict(data.features).probability.mean(axis=0) == pytest.approx(np.full(3, 1 / 3), abs=0.1)


def test_weights_of_classes_undo_their_shares_within_a_limit():
    target = np.eye(3)[np.repeat([0, 1, 2], [500, 499, 1])]
    found = class_weights(target, np.ones(1000))
    assert found == pytest.approx([1000 / 1500, 1000 / 1497, 20.0])
    assert class_weights(target[:, [0, 1]].clip(0)[:999], np.ones(999)).shape == (2,)


def test_out_of_fold_probabilities_come_from_heads_that_did_not_see_the_unit():
    data, _ = places(120)
    marked = data.features.copy()
    marked[:, 3] = 0
    marked[data.unit == 5, 3] = 50.0  # a feature that gives unit 5 away, whose labels are then exchanged
    target = data.target.copy()
    target[data.unit == 5] = np.roll(target[data.unit == 5], 1, axis=1)
    fit = fit_cell_types(
        LabelledPlaces(marked, target, data.unit, data.weight),
        CLASSES,
        FitSettings(members=2, penalties=(1e-3,), folds=12),
    )
    unseen = fit.out_of_fold[data.unit == 5]
    assert (unseen.argmax(axis=1) == target[data.unit == 5].argmax(axis=1)).mean() < 0.5
    assert fit.out_of_fold.sum(axis=1) == pytest.approx(np.ones(120))


def test_the_temperature_that_spoiled_the_logits_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 4000, 3)) * 1.5
    code = np.array([rng.choice(3, p=row) for row in softmax(logits[0], axis=-1)])
    found = fit_temperature(logits * 3, np.eye(3)[code], np.ones(4000))
    assert found == pytest.approx(3, rel=0.08)


def test_the_penalty_with_the_least_loss_is_taken_and_equal_seeds_give_equal_heads():
    data, _ = places(120, shift=0.3)
    settings = FitSettings(members=2, penalties=(1e-4, 1.0))
    one, two = (fit_cell_types(data, CLASSES, settings) for _ in range(2))
    assert one.losses[one.penalty] == min(one.losses.values())
    assert one.penalty == 1.0
    np.testing.assert_array_equal(one.ensemble.heads.weight, two.ensemble.heads.weight)


def test_members_differ_by_their_bootstrap():
    data, _ = places(120)
    weight = fit_cell_types(data, CLASSES, FitSettings(members=3, penalties=(0.01,))).ensemble.heads.weight
    assert np.abs(weight[0] - weight[1]).max() > 1e-3


def test_nonsense_is_refused():
    data, _ = places(24)
    with pytest.raises(ValueError, match="at least two classes in two units, found 3 in 1"):
        fit_cell_types(
            LabelledPlaces(data.features, data.target, np.zeros(24, int), data.weight), CLASSES, FitSettings()
        )
    with pytest.raises(ValueError, match="expected targets that sum to 1"):
        LabelledPlaces(data.features, data.target * 2, data.unit, data.weight)
    with pytest.raises(ValueError, match="at least one member"):
        FitSettings(members=0)
