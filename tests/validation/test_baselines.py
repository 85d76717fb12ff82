"""Baselines on spots whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from stimage_qupath.spots.residuals import column_pearson, pearson_residuals
from stimage_qupath.validation.baselines import NEIGHBOURS, PENALTIES, Spots, _nearest, _ridge_path, predict_baselines


def spots(seed, n=300, weight=None):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 6))
    weight = np.zeros((6, 8)) if weight is None else weight
    totals = np.exp(rng.normal(8, 0.7, n))
    mean = totals[:, None] * 0.002 * np.exp(features @ weight)
    return Spots(features, rng.poisson(mean).astype(float), totals, np.arange(n) % 3)


@pytest.fixture(scope="module")
def pair():
    weight = np.random.default_rng(9).normal(0, 0.3, (6, 8))
    return spots(0, weight=weight), spots(1, weight=weight)


def residual_pcc(train, test, prediction):
    rates = train.counts.sum(axis=0) / train.totals.sum()
    truth = pearson_residuals(test.counts, test.totals, rates)
    said = np.log(np.maximum(prediction.mean, 1e-12)) if prediction.residual is None else prediction.residual
    return np.nan_to_num(column_pearson(truth, said)).mean()


def test_each_scores_what_its_name_says(pair):
    train, test = pair
    found = predict_baselines(train, test, reference_total=3000.0, seed=0)
    score = {name: residual_pcc(train, test, prediction) for name, prediction in found.items()}
    assert score["gene_mean"] == 0
    assert score["ridge"] > 0.6
    assert score["nearest_feature"] > 0.4
    assert abs(score["ridge_features_permuted"]) < 0.1
    assert abs(score["predicted_depth"]) < 0.1
    assert abs(score["observed_depth"]) < 0.15


def test_only_the_oracle_looks_at_held_out_counts(pair):
    train, test = pair
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 50, test.counts.shape).astype(float)
    other = Spots(test.features, counts, rng.uniform(500, 5000, len(counts)), test.section)
    before, after = (predict_baselines(train, t, reference_total=3000.0, seed=0) for t in (test, other))
    changed = {name for name in before if not np.array_equal(before[name].mean, after[name].mean)}
    assert changed == {"observed_depth"}


def test_ridge_is_scikit_learns(pair):
    train, test = pair
    targets = np.log1p(train.counts)
    for penalty, found in zip(PENALTIES, _ridge_path(train.features, targets, test.features), strict=True):
        expected = Ridge(alpha=penalty).fit(train.features, targets).predict(test.features)
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_neighbours_are_scikit_learns(pair):
    train, test = pair
    expected = KNeighborsRegressor(NEIGHBOURS).fit(train.features, train.counts).predict(test.features)
    np.testing.assert_allclose(_nearest(train.features, train.counts, test.features), expected, rtol=1e-10)
