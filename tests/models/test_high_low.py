"""P(high) by simulation of what it claims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stimage_qupath.models.high_low import HighLow


def test_p_high_is_the_share_of_simulated_rates_above_the_threshold():
    """Members at random, then a gamma rate of the member's mean and total_count; sequencing plays no part."""
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(1, 0.5, (4, 3, 2)))
    r = np.exp(rng.normal(0.5, 1, (4, 2)))
    threshold = np.array([2.0, 4.0], dtype=np.float32)
    member = rng.integers(0, 4, 200_000)
    rate = rng.gamma(r[member][:, None], mean[member] / r[member][:, None])
    found = HighLow(threshold).probability(mean, r)
    np.testing.assert_allclose(found, (rate > threshold).mean(axis=0), atol=0.006)


def test_p_high_is_right_on_average_for_a_simulated_section():
    """Spots whose true rates are drawn from the model: of those told 70-80 %, 70-80 % are above the threshold."""
    rng = np.random.default_rng(1)
    mean = np.exp(rng.normal(1, 0.6, (1, 60_000, 1)))
    r = np.array([[3.0]])
    high_low = HighLow.fit(mean[0], rng.poisson(mean[0]))
    told = high_low.probability(mean, r)[:, 0]
    true = rng.gamma(3.0, mean[0, :, 0] / 3.0) > high_low.threshold[0]
    for low in (0.1, 0.4, 0.7):
        among = (told >= low) & (told < low + 0.1)
        assert true[among].mean() == pytest.approx(told[among].mean(), abs=0.02)


def test_where_the_mean_is_the_threshold_the_gamma_is_mostly_below():
    mean = np.full((1, 1, 1), 5.0)
    for r in (0.3, 2.0, 1e5):
        found = HighLow(np.array([5.0], dtype=np.float32)).probability(mean, np.array([[r]]))[0, 0]
        assert found == pytest.approx(stats.gamma(r, scale=5 / r).sf(5.0), rel=1e-4)
    assert found == pytest.approx(0.5, abs=0.01)


def test_the_threshold_is_the_median_and_rare_genes_have_none():
    counts = np.zeros((10, 3), dtype=int)
    counts[:2, 0], counts[:1, 1], counts[:, 2] = 1, 9, 4
    fitted = np.linspace(1, 2, 10)[:, None] * np.array([1.0, 1.0, 3.0])
    high_low = HighLow.fit(fitted, counts)
    np.testing.assert_allclose(high_low.threshold, [1.5, np.nan, 4.5], rtol=1e-6)
    np.testing.assert_array_equal(high_low.offered, [True, False, True])
    chance = high_low.probability(np.ones((2, 4, 3)), np.ones((2, 3)))
    assert chance.shape == (4, 3)
    assert np.isnan(chance[:, 1]).all()
    assert np.isfinite(chance[:, [0, 2]]).all()
    np.testing.assert_allclose(high_low.take(np.array([2, 0])).threshold, [4.5, 1.5], rtol=1e-6)


def test_extremes_stay_between_0_and_1():
    mean = np.array([1e-9, 1e-6, 1.0, 1e6]).reshape(1, 4, 1)
    chance = HighLow(np.array([1.0], dtype=np.float32)).probability(mean, np.array([[1e6]]))[:, 0]
    np.testing.assert_allclose(chance, [0, 0, 0.5, 1], atol=1e-3)


def test_impossible_thresholds_and_shapes_are_refused():
    with pytest.raises(ValueError, match="expected one positive threshold"):
        HighLow(np.array([1.0, -1.0], dtype=np.float32))
    with pytest.raises(ValueError, match=r"expected fitted means and counts of one shape, found \(3, 2\) and \(2, 2\)"):
        HighLow.fit(np.ones((3, 2)), np.ones((2, 2)))
