"""Scores of counts against scipy, simulation and the definition of each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stimage_qupath.validation.predictive import (
    TOLERANCE,
    CountMixture,
    cumulative,
    marginal_over_depth,
    score_counts,
)


def members(mixture):
    """Return scipy's distribution of each member."""
    r = np.broadcast_to(mixture.total_count, mixture.mean.shape)
    return stats.nbinom(r, r / (r + mixture.mean))


def make(seed, shape=(3, 12, 40), top=4.0):
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.uniform(-4, top, shape))
    total_count = np.exp(rng.uniform(-1, 4, (shape[0], 1, shape[2])))
    counts = rng.poisson(mean[0]).astype(float)
    counts[0] = 0
    return CountMixture(mean, total_count), counts


def test_distribution_functions_are_scipys():
    mixture, counts = make(0)
    scored = score_counts(mixture, counts)
    np.testing.assert_allclose(scored.cdf, members(mixture).cdf(counts).mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(scored.cdf_below, members(mixture).cdf(counts - 1).mean(axis=0), atol=1e-10)
    at, below = cumulative(mixture, counts)
    np.testing.assert_allclose(at, scored.cdf, atol=1e-12)
    np.testing.assert_allclose(below, scored.cdf_below, atol=1e-12)


def test_disagreement_of_members_is_the_sd_of_their_log_means_and_knows_no_depth():
    mixture, _ = make(1)
    found = mixture.epistemic_log_sd
    np.testing.assert_allclose(found[2, 5], np.std([np.log(mixture.mean[m, 2, 5]) for m in range(3)]))
    np.testing.assert_allclose(found, CountMixture(7.5 * mixture.mean, mixture.total_count).epistemic_log_sd)


def test_far_out_means_neither_underflow_nor_run_away():
    mixture = CountMixture(np.array([[[1e-8, 3000.0]]]), np.array([[[1e-2, 9000.0]]]))
    counts = np.array([[0.0, 3050.0]])
    scored = score_counts(mixture, counts)
    np.testing.assert_allclose(scored.cdf, members(mixture).cdf(counts)[0], atol=1e-9)
    assert np.isfinite(scored.crps).all()


def test_crps_is_its_energy_form_by_simulation():
    """``E|X - y| - E|X - X'| / 2`` (Gneiting and Raftery 2007, equation 21)."""
    mixture, counts = make(1, shape=(3, 2, 3), top=2.0)
    rng = np.random.default_rng(2)
    draws = 400_000
    member = rng.integers(0, 3, (2, draws))
    found = score_counts(mixture, counts).crps
    r = np.broadcast_to(mixture.total_count, mixture.mean.shape)
    for s in range(2):
        for g in range(3):
            x, y = (
                rng.negative_binomial(r[m, s, g], r[m, s, g] / (r[m, s, g] + mixture.mean[m, s, g])) for m in member
            )
            expected = np.abs(x - counts[s, g]).mean() - np.abs(x - y).mean() / 2
            assert found[s, g] == pytest.approx(expected, abs=5 * (x.std() + 0.1) / np.sqrt(draws))


def test_crps_is_the_sum_over_the_support():
    """The arithmetic of ``properscoring.crps_ensemble`` for a distribution given by its function on a grid."""
    mixture, counts = make(3, shape=(2, 5, 7), top=3.0)
    k = np.arange(4000.0)
    found = score_counts(mixture, counts).crps
    for s in range(5):
        for g in range(7):
            r = mixture.total_count[:, 0, g]
            f = stats.nbinom.cdf(k[:, None], r, r / (r + mixture.mean[:, s, g])).mean(axis=1)
            expected = ((f - (k >= counts[s, g])) ** 2).sum()
            assert found[s, g] == pytest.approx(expected, abs=TOLERANCE * (1 + expected))


@settings(deadline=None, max_examples=25)
@given(
    mean=st.floats(0.001, 50), r=st.floats(0.05, 500), count=st.integers(0, 80), level=st.sampled_from([0.5, 0.8, 0.95])
)
def test_intervals_are_between_quantiles(mean, r, count, level):
    mixture = CountMixture(np.array([[[mean]]]), np.array([[[r]]]))
    scored = score_counts(mixture, np.array([[float(count)]]), levels=(level,))
    of = stats.nbinom(r, r / (r + mean))
    low, high = of.ppf((1 - level) / 2 - 1e-13), of.ppf((1 + level) / 2 - 1e-13)
    assert scored.inside[level][0, 0] == (low <= count <= high)
    assert scored.expected_inside[level][0, 0] == pytest.approx(of.cdf(high) - of.cdf(low - 1), abs=1e-8)


def test_plain_coverage_of_the_true_model_is_what_it_expects():
    rng = np.random.default_rng(4)
    mean = np.exp(rng.uniform(-2, 3, (1, 300, 30)))
    counts = rng.negative_binomial(2.0, 2.0 / (2.0 + mean[0])).astype(float)
    scored = score_counts(CountMixture(mean, np.full((1, 1, 30), 2.0)), counts)
    for level in scored.inside:
        assert scored.inside[level].mean() == pytest.approx(scored.expected_inside[level].mean(), abs=0.01)
        assert scored.expected_inside[level].mean() > level + 0.01


def test_a_level_map_changes_every_score_that_reads_levels():
    mixture, counts = make(5)
    squared = score_counts(mixture, counts, level_map=lambda f, genes: f**2)
    plain = score_counts(mixture, counts)
    np.testing.assert_allclose(squared.cdf, plain.cdf**2, atol=1e-12)
    np.testing.assert_allclose(squared.cdf_below, plain.cdf_below**2, atol=1e-12)


def test_variances_add_up_to_that_of_the_mixture():
    mixture, _ = make(6, shape=(4, 1, 2), top=2.0)
    rng = np.random.default_rng(7)
    r = np.broadcast_to(mixture.total_count, mixture.mean.shape)[:, 0]
    draws = rng.negative_binomial(r[:, None], (r / (r + mixture.mean[:, 0]))[:, None], (4, 300_000, 2))
    pooled = draws.reshape(-1, 2)
    np.testing.assert_allclose((mixture.aleatoric + mixture.epistemic)[0], pooled.var(axis=0), rtol=0.03)
    np.testing.assert_allclose(mixture.expected[0], pooled.mean(axis=0), rtol=0.01)


def test_depth_scales_the_mean_and_the_marginal_is_a_mean_over_depths():
    mixture, counts = make(8)
    sizes = np.array([0.5, 1.0, 3.0])
    deep = mixture.at_depth(np.linspace(1, 2, 12))
    np.testing.assert_allclose(deep.mean[:, 11], 2 * mixture.mean[:, 11])
    at, below = marginal_over_depth(mixture, counts, sizes)
    expected = np.mean([members(mixture.at_depth(np.full(12, s))).cdf(counts).mean(axis=0) for s in sizes], axis=0)
    np.testing.assert_allclose(at, expected, atol=1e-9)
    assert (below <= at).all()


def test_what_is_no_mixture_of_counts_is_refused():
    mixture, counts = make(9)
    with pytest.raises(ValueError, match="expected whole counts of at least 0, found others"):
        score_counts(mixture, counts + 0.5)
    with pytest.raises(ValueError, match="expected counts of shape"):
        score_counts(mixture, counts[:, :3])
    with pytest.raises(ValueError, match="expected means and total_count above 0"):
        CountMixture(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    with pytest.raises(ValueError, match="expected total_count of shape"):
        CountMixture(np.ones((2, 3, 4)), np.ones((2, 2, 4)))
