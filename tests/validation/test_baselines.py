"""Baselines on spots whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from stimage_qupath.spots.residuals import column_pearson, pearson_residuals
from stimage_qupath.validation.baseline_arrays import from_arrays, to_arrays
from stimage_qupath.validation.baselines import (
    NEIGHBOURS,
    Outline,
    Spots,
    fit_baselines,
    nearest_mean,
    predict_baselines,
)


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
    assert score["nb_glm"] > 0.6
    assert abs(score["permuted_features"]) < 0.1
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


def test_neighbours_are_scikit_learns(pair):
    train, test = pair
    expected = KNeighborsRegressor(NEIGHBOURS).fit(train.features, train.counts).predict(test.features)
    np.testing.assert_allclose(nearest_mean(train.features, train.counts, test.features), expected, rtol=1e-10)


@pytest.fixture(scope="module")
def placed():
    """Two sections of one block whose expression is a formula of the place; the second is turned and shifted."""
    x, y = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    mask = (((x - 20) / 17) ** 2 + ((y - 15) / 9) ** 2 < 1) & ~((x > 26) & (y < 14))
    rng = np.random.default_rng(3)
    place = np.argwhere(mask)[:, ::-1] * 100.0 + 50
    place = place[rng.permutation(len(place))[:150]]
    counts = rng.poisson(2000 * np.stack([place[:, 0] / 4000, 1 - place[:, 0] / 4000], axis=1) * 0.1).astype(float)
    features, totals = rng.normal(size=(150, 3)), np.full(150, 2000.0)
    here = Spots(features, counts, totals, np.zeros(150, int), None, place, (Outline("P", mask),))
    turned = np.rot90(mask, -1)  # clockwise: the point (x, y) goes to (height - y, x)
    moved = np.stack([3000 - place[:, 1], place[:, 0]], axis=1)
    there = Spots(features, counts, totals, np.zeros(150, int), None, moved, (Outline("P", turned),))
    return here, there


def test_position_follows_serial_sections_and_no_others(placed):
    here, there = placed
    fitted = fit_baselines(here, reference_total=2000.0)
    found = fitted.predict(there, seed=0)
    log = np.log1p(there.counts)
    assert np.corrcoef(np.log1p(found["position"].mean)[:, 0], log[:, 0])[0, 1] > 0.9
    assert abs(np.corrcoef(np.log1p(found["nearest_feature"].mean)[:, 0], log[:, 0])[0, 1]) < 0.9
    other = replace(there, outlines=(Outline("Q", there.outlines[0].mask),))
    assert "position" not in fitted.predict(other, seed=0)
    assert "position" not in fitted.predict(replace(there, positions_um=None), seed=0)


def test_colour_is_a_ridge_of_its_own(pair):
    train, test = pair
    blind = [
        replace(s, features=np.random.default_rng(8).normal(size=s.features.shape), colour=s.features) for s in pair
    ]
    found = predict_baselines(blind[0], blind[1], reference_total=3000.0, seed=0)
    seeing = predict_baselines(train, test, reference_total=3000.0, seed=0)
    np.testing.assert_allclose(found["colour_ridge"].residual, seeing["ridge"].residual, rtol=1e-8)
    assert "colour_ridge" not in seeing
    assert residual_pcc(blind[0], blind[1], found["ridge"]) < 0.1


def test_what_a_model_folder_keeps_predicts_the_same(pair):
    train, test = pair
    fitted = fit_baselines(train, reference_total=3000.0)
    arrays, facts = to_arrays(fitted, train, seed=0)
    again = from_arrays(arrays, json.loads(json.dumps(facts)))
    for name, prediction in fitted.predict(test, seed=0).items():
        kept = again.predict(test, seed=0)[name]
        assert residual_pcc(train, test, kept) == pytest.approx(residual_pcc(train, test, prediction), abs=0.02), name
    genes = np.array([5, 2])
    some = again.of_genes(genes).predict(replace(test, counts=test.counts[:, genes]), seed=0)
    np.testing.assert_allclose(some["ridge"].mean, again.predict(test, seed=0)["ridge"].mean[:, genes])
    del arrays["ridge.left"]
    with pytest.raises(ValueError, match="found them without"):
        from_arrays(arrays, facts)


def test_many_training_spots_are_thinned(pair):
    train, _ = pair
    small = fit_baselines(train, reference_total=3000.0).reduced(train, rank=4, most_spots=50, seed=0)
    assert small.components.shape[0] == small.normalised.shape[0] == len(small.section) == 50
