"""Point metrics against numpy, scipy and hand arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stimage_qupath.spots.residuals import column_pearson, pearson_residuals
from stimage_qupath.validation.expression import (
    Measured,
    depth_normalised,
    gene_residual_pcc,
    partial_pearson,
    point_metrics,
)


@pytest.fixture
def measured():
    rng = np.random.default_rng(0)
    totals = rng.integers(500, 5000, 60).astype(float)
    counts = rng.poisson(totals[:, None] * np.array([0.001, 0.004, 0.01])).astype(float)
    x, y = np.divmod(np.arange(60), 10)
    return Measured(counts, totals, np.stack([x, y], axis=1) * 200.0)


def stats_logpmf(counts, mean):
    """Return scipy's log probability at the dispersion of the null."""
    return stats.nbinom.logpmf(counts, 10.0, 10.0 / (10.0 + mean))


def test_column_pearson_is_numpys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    expected = [np.corrcoef(a[:, j], b[:, j])[0, 1] for j in range(4)]
    np.testing.assert_allclose(column_pearson(a, b), expected, rtol=1e-12)


def test_weights_stand_for_repeated_rows():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    weights = rng.integers(0, 4, 20)
    rows = np.repeat(np.arange(20), weights)
    np.testing.assert_allclose(
        column_pearson(a, b, weights.astype(float)), column_pearson(a[rows], b[rows]), rtol=1e-10
    )


def test_a_constant_prediction_counts_as_0_and_a_constant_gene_cannot_be_scored():
    varying, constant = np.arange(5.0)[:, None], np.full((5, 1), 7.3)
    assert column_pearson(varying, constant)[0] == 0
    assert np.isnan(column_pearson(constant, varying)[0])
    assert partial_pearson(varying, constant, np.arange(5.0) ** 2)[0] == 0


def test_partial_correlation_is_that_of_the_residuals_of_two_regressions():
    rng = np.random.default_rng(3)
    given = rng.normal(size=50)
    a, b = rng.normal(size=(50, 2)) + given[:, None], rng.normal(size=(50, 2)) - 2 * given[:, None]
    line = np.stack([np.ones(50), given], axis=1)
    rest = [v - line @ np.linalg.lstsq(line, v, rcond=None)[0] for v in (a, b)]
    np.testing.assert_allclose(partial_pearson(a, b, given), column_pearson(*rest), rtol=1e-10)


def test_pearson_residual_by_hand():
    """l = 1000, p = .01: expected 10, variance 10 + 100 / 10 = 20; (16 - 10) / sqrt(20)."""
    residual = pearson_residuals(np.array([[16.0]]), np.array([1000.0]), np.array([0.01]))
    assert residual[0, 0] == pytest.approx(6 / np.sqrt(20))
    assert pearson_residuals(np.array([[1e6]]), np.array([1000.0]), np.array([0.01]))[0, 0] == 10


def test_metrics_by_their_definitions(measured):
    rng = np.random.default_rng(4)
    mean = rng.uniform(0.1, 5, measured.counts.shape)
    rates = measured.counts.sum(axis=0) / measured.totals.sum()
    got = point_metrics(measured, mean, rates=rates, reference_total=2000, replicates=20)
    normalised = np.log1p(depth_normalised(measured.counts, measured.totals, 2000))
    assert got["pcc_normalised_mean"].value == pytest.approx(column_pearson(normalised, np.log1p(mean)).mean())
    residual = pearson_residuals(measured.counts, measured.totals, rates)
    assert got["pcc_residual_mean"].value == pytest.approx(column_pearson(residual, np.log(mean)).mean())
    raw = column_pearson(np.log1p(measured.counts), np.log1p(mean))
    assert got["pcc_log1p_raw_mean"].value == pytest.approx(raw.mean())
    kept = raw[raw > 0.1]
    assert got["pcc_log1p_raw_median_above_0.1"].value == pytest.approx(np.median(kept) if kept.size else 0.0)
    rmse = np.sqrt(((normalised - np.log1p(mean)) ** 2).mean(axis=0)).mean()
    assert got["rmse_normalised_mean"].value == pytest.approx(rmse)
    # A mean under a hundredth of the gene's is held there.
    m = np.maximum(mean, 0.01 * rates * 2000) * measured.totals[:, None] / 2000
    best = stats_logpmf(measured.counts, np.maximum(measured.counts, 1e-12))
    deviance = 2 * (best - stats_logpmf(measured.counts, m))
    assert got["nb_deviance_mean"].value == pytest.approx(deviance.mean(), rel=1e-4)
    spearman = [stats.spearmanr(normalised[:, g], mean[:, g]).statistic for g in range(3)]
    assert got["spearman_mean"].value == pytest.approx(np.mean(spearman))


def test_depth_alone_scores_on_raw_counts_but_not_on_residuals():
    """What the protocol is for: a prediction that is nothing but depth must not look like gene signal."""
    rng = np.random.default_rng(5)
    totals = np.exp(rng.normal(8, 1, 400))
    rates = np.full(50, 0.002)
    counts = rng.poisson(totals[:, None] * rates).astype(float)
    x, y = np.divmod(np.arange(400), 20)
    measured = Measured(counts, totals, np.stack([x, y], axis=1) * 200.0)
    depth = np.repeat(totals[:, None] / totals.mean(), 50, axis=1)
    got = point_metrics(measured, depth, rates=rates, reference_total=float(np.median(totals)), replicates=20)
    assert got["pcc_log1p_raw_mean"].value > 0.7
    assert abs(got["pcc_residual_mean"].value) < 0.05
    # A straight line takes out most, not all: zeros of shallow spots bend the relation to depth.
    assert abs(got["pcc_partial_depth_mean"].value) < 0.2


def test_a_paired_difference_uses_the_same_resamples(measured):
    rates = measured.counts.sum(axis=0) / measured.totals.sum()
    mean = np.random.default_rng(6).uniform(0.1, 5, measured.counts.shape)
    one = point_metrics(measured, mean, rates=rates, reference_total=2000, replicates=30)["pcc_residual_mean"]
    difference = one.minus(one)
    assert (difference.value, difference.ci) == (0, (0, 0))


def test_the_interval_of_a_gene_holds_its_value(measured):
    rates = measured.counts.sum(axis=0) / measured.totals.sum()
    informative = measured.counts / measured.totals[:, None] + 1e-6
    value, resampled = gene_residual_pcc(measured, informative, rates=rates, replicates=200)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    assert (value > 0.5).all()
    assert ((low <= value) & (value <= high)).all()


def test_spots_without_counts_are_refused():
    with pytest.raises(ValueError, match="at least one count, found a total of 0"):
        Measured(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 2)))
