"""Linear maps against scikit-learn, and their low-rank form."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from stimage_qupath.validation.linear import PENALTIES, LinearMap, fit_ridge


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(120, 9)), rng.normal(size=(9, 14))
    return features, features @ weight + rng.normal(0, 2, (120, 14)), np.arange(120) % 3


def test_the_ridge_is_scikit_learns_at_one_of_the_penalties(data):
    features, targets, section = data
    new = np.random.default_rng(1).normal(size=(20, 9))
    found = fit_ridge(features, targets, section)(new)
    distances = [np.abs(found - Ridge(alpha=alpha).fit(features, targets).predict(new)).max() for alpha in PENALTIES]
    assert min(distances) < 1e-9


def test_a_strong_signal_takes_a_small_penalty_and_none_a_large_one(data):
    features, _, section = data
    weak = np.random.default_rng(2).normal(size=(120, 14))
    strong = features @ np.ones((9, 14))
    assert np.abs(fit_ridge(features, strong, section)(features) - strong).max() < 2
    assert fit_ridge(features, weak, np.zeros(120, int))(features).var() < 0.1 * weak.var()


def test_full_rank_is_the_same_map_and_low_rank_the_nearest(data):
    features, targets, section = data
    whole = fit_ridge(features, targets, section)
    np.testing.assert_allclose(whole.reduced(features, 99)(features), whole(features), atol=1e-9)
    fitted = whole(features) - whole.mean
    u, s, v = np.linalg.svd(fitted, full_matrices=False)
    small = whole.reduced(features, 2)
    assert small.left.shape == (9, 2)
    np.testing.assert_allclose(np.linalg.norm(small.left, axis=0), 1)
    np.testing.assert_allclose(small(features) - whole.mean, u[:, :2] * s[:2] @ v[:2], atol=1e-8)


def test_parts_must_fit():
    with pytest.raises(ValueError, match="expected left and right of shapes"):
        LinearMap(np.zeros(3), np.zeros((4, 2)), np.zeros((2, 5)), np.zeros(5))
