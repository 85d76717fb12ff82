"""Reduced-rank ridge against its closed form, and against data whose factors are known."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.spots.residuals import column_pearson
from stimage_qupath.training.factors import ResidualRidge, Spots, factor_scores, folds, out_of_fold_scores


def simulate(*, spots=240, features=30, genes=50, sections=3, factors=2, strength=0.5, seed=0):
    """Return spots whose log rates are a few factors of the features, and those factors (spot, factor)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(spots, features)).astype(np.float32)
    truth = x @ rng.normal(0, features**-0.5, (features, factors))
    section = np.sort(rng.integers(0, sections, spots))
    share = rng.dirichlet(np.ones(genes)) * np.exp(strength * truth @ rng.normal(size=(factors, genes)))
    totals = rng.uniform(2000, 8000, spots)
    counts = rng.poisson(share * totals[:, None] * 0.5).astype(np.float32)
    return Spots(x, counts, totals, section, rng.integers(0, 10, spots)), truth


def closed_form(spots, weights, penalty):
    """Return fitted residuals (scaled rows) and the full coefficients of weighted ridge, in feature space."""
    x, r = spots.features.astype(np.float64).copy(), spots.residuals(spots.rates)
    for c in np.unique(spots.section):
        rows = spots.section == c
        x[rows] -= np.average(x[rows], axis=0, weights=weights[rows])
        r[rows] -= np.average(r[rows], axis=0, weights=weights[rows])
    root = np.sqrt(weights)[:, None]
    x, r = x * root, r * root
    width = x.shape[1]
    coefficients = np.linalg.solve(x.T @ x / width + penalty * np.eye(width), x.T @ r / width)
    return x @ coefficients, coefficients


@pytest.mark.parametrize("penalty", [0.3, 5.0])
def test_factors_are_the_leading_directions_of_weighted_ridge(penalty):
    spots, _ = simulate()
    weights = np.random.default_rng(1).uniform(0.5, 2, 240)
    spots_rates = spots.rates
    projection, basis = ResidualRidge(spots, weights).factors(penalty, 4)
    fitted, coefficients = closed_form(spots, weights, penalty)
    right = np.linalg.svd(fitted, full_matrices=False)[2][:4]
    np.testing.assert_allclose(projection @ basis.T, coefficients @ right.T @ right, atol=1e-8)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-10)
    np.testing.assert_array_equal(spots.rates, spots_rates)


def test_a_spot_counted_twice_is_two_spots():
    spots, _ = simulate(spots=120)
    times = np.random.default_rng(2).integers(0, 3, 120)
    repeated = spots.take(np.repeat(np.arange(120), times))
    weighted = ResidualRidge(spots, times.astype(np.float64))
    projection, basis = weighted.factors(1.0, 3)
    # Rates are shares of the counts that enter, each spot once; the repeated table has its own.
    fitted, coefficients = closed_form(spots.take(np.flatnonzero(times)), times[times > 0].astype(float), 1.0)
    right = np.linalg.svd(fitted, full_matrices=False)[2][:3]
    np.testing.assert_allclose(projection @ basis.T, coefficients @ right.T @ right, atol=1e-8)
    assert len(repeated.totals) == times.sum()


def test_more_rank_never_changes_the_factors_before():
    spots, _ = simulate()
    ridge = ResidualRidge(spots)
    few, many = ridge.factors(1.0, 2), ridge.factors(1.0, 6)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_allclose(np.abs(a), np.abs(b[:, :2]), atol=1e-9)


def test_known_factors_are_found_in_unseen_sections():
    spots, truth = simulate(spots=900, strength=0.3)
    train, test = folds(spots)[0]
    projection, _ = ResidualRidge(spots.take(train)).factors(0.3, 2)
    found = factor_scores(spots.take(test), projection)
    unseen = truth[test] - truth[test].mean(axis=0)
    explained = 1 - np.linalg.lstsq(found, unseen, rcond=None)[1] / (unseen**2).sum(axis=0)
    assert (explained > 0.8).all()


def test_low_rank_beats_full_rank_where_genes_share_factors():
    """The reason for the method: a thousand noisy genes together point where one alone cannot."""
    spots, _ = simulate(spots=300, features=60, genes=200, strength=0.08, seed=3)
    train, test = folds(spots)[0]
    seen, unseen = spots.take(train), spots.take(test)
    residuals = unseen.residuals(seen.rates)

    def score(rank):
        projection, basis = ResidualRidge(seen).factors(1.0, rank)
        return np.nanmean(column_pearson(residuals, factor_scores(unseen, projection) @ basis.T))

    assert score(2) > score(100) + 0.01


def test_scores_of_a_section_come_from_a_ridge_that_did_not_see_it():
    spots, _ = simulate()
    weights = np.ones(240)
    _, basis = ResidualRidge(spots).factors(1.0, 2)
    scores = out_of_fold_scores(spots, weights, 1.0, basis)
    rows = spots.section == 1
    changed = spots.counts.copy()
    changed[rows] = np.random.default_rng(5).poisson(3, changed[rows].shape)
    others = Spots(spots.features, changed, spots.totals, spots.section, spots.block)
    np.testing.assert_array_equal(out_of_fold_scores(others, weights, 1.0, basis)[rows], scores[rows])
    assert (out_of_fold_scores(others, weights, 1.0, basis)[~rows] != scores[~rows]).any()


def test_one_section_is_split_by_blocks():
    spots, _ = simulate(sections=1)
    parts = folds(spots)
    assert len(parts) == 5
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(240))
    for train, test in parts:
        assert not set(spots.block[train] % 5) & set(spots.block[test] % 5)


def test_features_that_never_vary_give_scores_of_zero():
    spots, _ = simulate()
    flat = Spots(np.zeros_like(spots.features), spots.counts, spots.totals, spots.section, spots.block)
    projection, _ = ResidualRidge(flat).factors(1.0, 3)
    assert not factor_scores(flat, projection).any()
