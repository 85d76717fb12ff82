"""Coverage of counts whose distribution is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stimage_qupath.validation.calibration import coverage, coverage_by_stratum, pit_histogram, randomised_pit


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(0, 2, (400, 50)))
    distribution = stats.nbinom(3.0, 3.0 / (3.0 + mean))
    return mean, distribution, rng.negative_binomial(3.0, 3.0 / (3.0 + mean))


def pit_of(distribution, counts):
    return randomised_pit(distribution.cdf(counts), distribution.cdf(counts - 1), seed=1)


def test_the_true_distribution_is_covered_exactly_however_small_the_counts(truth):
    _, distribution, counts = truth
    pit = pit_of(distribution, counts)
    for level, share in coverage(pit).items():
        assert share == pytest.approx(float(level), abs=0.012)
    np.testing.assert_allclose(pit_histogram(pit), 0.05, atol=0.006)
    assert stats.kstest(pit.ravel(), "uniform").pvalue > 1e-3


def test_too_narrow_a_distribution_covers_too_little(truth):
    mean, _, counts = truth
    assert coverage(pit_of(stats.poisson(mean), counts))["0.9"] < 0.8


def test_strata_are_by_the_mean_of_the_gene():
    pit = np.array([[0.5, 0.01, 0.5, 0.5], [0.5, 0.99, 0.5, 0.5]])
    found = coverage_by_stratum(pit, np.array([0.05, 0.5, 0.7, 10.0]))
    assert set(found) == {"0-0.1", "0.1-1", "10-inf"}
    assert (found["0.1-1"]["genes"], found["0.1-1"]["0.9"]) == (2, 0.5)
    assert found["0-0.1"]["0.5"] == 1
