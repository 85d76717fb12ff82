"""AUROC and the permutation of units against scikit-learn, plain loops and a simulated null."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from stimage_qupath.validation.rank_test import auroc, pair_wins, permutation_p, resample_units, weighted_auroc


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=80))
def test_auroc_is_that_of_scikit_learn_ties_and_all(rows):
    values, positive = np.array([v for v, _ in rows], dtype=float), np.array([p for _, p in rows])
    if positive.all() or not positive.any():
        with pytest.raises(ValueError, match=r"expected nuclei on both sides of an AUROC"):
            auroc(values, positive)
        return
    assert auroc(values, positive) == pytest.approx(roc_auc_score(positive, values), abs=1e-12)


def test_auroc_of_many_nuclei_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    values, positive = np.round(rng.normal(size=50_000), 2), rng.random(50_000) < 0.3
    values[positive] += 0.4
    assert auroc(values, positive) == pytest.approx(roc_auc_score(positive, values), abs=1e-12)


def test_wins_of_units_are_those_of_a_plain_loop_over_pairs():
    rng = np.random.default_rng(2)
    values, unit = rng.integers(0, 6, 60).astype(float), rng.integers(0, 4, 60)
    expected = np.zeros((4, 4))
    for i in range(60):
        for j in range(60):
            expected[unit[i], unit[j]] += (values[i] > values[j]) + 0.5 * (values[i] == values[j])
    np.testing.assert_array_equal(pair_wins(values, unit, 4), expected)


def test_wins_do_not_depend_on_how_many_values_are_taken_at_once(monkeypatch):
    rng = np.random.default_rng(3)
    values, unit = rng.normal(size=500), rng.integers(0, 7, 500)
    whole = pair_wins(values, unit, 7)
    monkeypatch.setattr("stimage_qupath.validation.rank_test.VALUES_AT_ONCE", 11)
    np.testing.assert_array_equal(pair_wins(values, unit, 7), whole)


def test_a_resample_is_the_auroc_of_the_nuclei_repeated():
    rng = np.random.default_rng(4)
    values, unit = rng.normal(size=200).round(1), rng.integers(0, 8, 200)
    wins, sizes = pair_wins(values, unit, 8), np.bincount(unit).astype(float)
    member = np.arange(8) < 3
    inside = resample_units(member, replicates=5, seed=0)
    outside = resample_units(~member, replicates=5, seed=1)
    assert (inside.sum(axis=1) == 3).all()
    assert (inside[:, ~member] == 0).all()
    for found, first, second in zip(weighted_auroc(wins, sizes, inside, outside), inside, outside, strict=True):
        times = (first + second)[unit].astype(int)
        again = np.repeat(np.arange(200), times)
        assert found == pytest.approx(roc_auc_score(member[unit[again]], values[again]), abs=1e-12)


def _p(seed, effect=0.0, units=40):
    """Return the p of units whose nuclei share a random level, half of them of the class."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), rng.integers(3, 12, units))
    positive = rng.permuted(np.arange(units) < units // 2)
    values = rng.normal(size=units)[unit] + effect * positive[unit] + 0.5 * rng.normal(size=len(unit))
    sizes = np.bincount(unit).astype(float)
    return permutation_p(pair_wins(values, unit, units), sizes, positive, permutations=199, seed=seed)


def test_p_is_uniform_where_labels_mean_nothing():
    p = np.array([_p(seed) for seed in range(400)])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p <= 0.05) < 0.09  # single nuclei instead of units would give several times 0.05


def test_p_is_as_small_as_it_can_be_where_labels_mean_everything():
    assert _p(0, effect=20) == 1 / 200
