"""Intervals of a count distribution on log values: far from what they claim, by construction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stimage_qupath.validation.log_counts import LogCounts


def test_coverage_is_that_of_scipys_quantiles_on_log_values():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 3))
    counts = rng.poisson(np.exp(1 + features[:, :2])).astype(float)
    fitted = LogCounts.fit(features[:300], counts[:300], np.arange(300) % 3)
    found = fitted.coverage(features[300:], counts[300:])
    mean = np.maximum(fitted.mean(features[300:]), 1e-3)
    of = stats.nbinom(fitted.total_count, fitted.total_count / (fitted.total_count + mean))
    low, high = of.ppf(0.05), of.ppf(0.95)
    logs = np.log1p(counts[300:])
    assert found["0.9"]["found"] == pytest.approx(((logs >= low) & (logs <= high)).mean())
    assert found["0.9"]["expected"] > 0.9
    # A Poisson-like spread of one on values that hardly vary: everything lies inside "50 %".
    assert found["0.5"]["found"] > 0.6


def test_genes_can_be_taken():
    rng = np.random.default_rng(1)
    features, counts = rng.normal(size=(60, 2)), rng.poisson(3, (60, 4)).astype(float)
    fitted = LogCounts.fit(features, counts, np.arange(60) % 2)
    some = fitted.of_genes(np.array([3, 1]))
    np.testing.assert_allclose(some.mean(features), fitted.mean(features)[:, [3, 1]])
    assert some.total_count.shape == (2,)
