"""The negative binomial against scipy, at means from 1e-6 to 1e5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from stimage_qupath.models.negative_binomial import cdf, log_prob, mixture_cdf, mixture_quantile

MEANS = np.array([1e-6, 1e-3, 0.3, 7.0, 400.0, 1e5])
TOTAL_COUNTS = np.array([0.05, 1.0, 30.0])


def scipy_nb(mean, total_count):
    return stats.nbinom(total_count, total_count / (total_count + mean))


@pytest.mark.parametrize("count", [0, 1, 5, 300, 100_000])
def test_log_prob_is_scipys(count):
    mean, r = np.meshgrid(MEANS, TOTAL_COUNTS)
    ours = log_prob(
        torch.tensor(float(count), dtype=torch.float64), torch.tensor(np.log(mean)), torch.tensor(np.log(r))
    ).numpy()
    np.testing.assert_allclose(ours, scipy_nb(mean, r).logpmf(count), rtol=1e-7, atol=1e-8)


def test_log_prob_stays_finite_in_float32():
    log_mean = torch.linspace(-20, 14, 50)[:, None]
    log_r = torch.linspace(-7, 10, 20)
    assert torch.isfinite(log_prob(torch.tensor(3.0), log_mean, log_r)).all()


def test_cdf_is_scipys_and_zero_below_zero():
    mean, r, count = np.meshgrid(MEANS, TOTAL_COUNTS, np.array([0, 2, 50, 90_000]))
    np.testing.assert_allclose(cdf(count, mean, r), scipy_nb(mean, r).cdf(count), rtol=1e-9, atol=1e-12)
    assert cdf(np.array(-1.0), np.array(2.0), np.array(1.0)) == 0


def test_mixture_cdf_is_the_mean_of_its_members():
    mean, r = np.array([[1.0], [9.0]]), np.array([[2.0], [4.0]])
    by_hand = (scipy_nb(1.0, 2.0).cdf(3) + scipy_nb(9.0, 4.0).cdf(3)) / 2
    assert mixture_cdf(np.array([3.0]), mean, r)[0] == pytest.approx(by_hand)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_mixture_quantile_is_the_first_count_that_reaches_the_level(level):
    rng = np.random.default_rng(0)
    mean, r = np.exp(rng.normal(0, 3, (4, 60))), np.exp(rng.normal(1, 1, (4, 60)))
    quantile = mixture_quantile(level, mean, r)
    assert (mixture_cdf(quantile, mean, r) >= level).all()
    assert (mixture_cdf(quantile - 1, mean, r) < level).all()


def test_a_quantile_of_one_member_is_scipys():
    mean = np.array([[0.2, 3.0, 250.0]])
    np.testing.assert_array_equal(mixture_quantile(0.95, mean, np.array([[2.0]])), scipy_nb(mean[0], 2.0).ppf(0.95))


@pytest.mark.parametrize("level", [0, 1, 1.5])
def test_a_level_outside_0_to_1_is_refused(level):
    with pytest.raises(ValueError, match="quantile level between 0 and 1"):
        mixture_quantile(level, np.ones((1, 1)), np.ones((1, 1)))
