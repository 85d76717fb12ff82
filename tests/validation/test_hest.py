"""HEST-Benchmark's steps against scikit-learn and hand arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from stimage_qupath.validation import hest
from stimage_qupath.validation.bootstrap import BlockBootstrap


def test_prediction_is_scaler_components_and_ridge_of_scikit_learn():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(400, 300)), rng.normal(size=(60, 300))
    train[:, 7] = 3.0  # a feature without spread
    counts = rng.poisson(np.exp(train[:, :12])).astype(float)
    scale = StandardScaler().fit(train)
    reduce = PCA(256, svd_solver="full").fit(scale.transform(train))
    x, new = (reduce.transform(scale.transform(v)) for v in (train, test))
    ridge = Ridge(alpha=100 / (256 * 12), fit_intercept=False).fit(x, np.log1p(counts))
    np.testing.assert_allclose(hest.predict(train, counts, test), ridge.predict(new), atol=1e-6)


def test_penalty():
    assert hest.penalty(256, 50) == pytest.approx(100 / 12_800)


def test_variable_genes_stand_out_among_genes_of_like_mean():
    rng = np.random.default_rng(1)
    mean = np.repeat(np.exp(np.linspace(0, 3, 10)), 10)
    counts = rng.poisson(mean, (300, 100)).astype(float)
    wild = np.arange(3, 100, 10)
    counts[:, wild] = rng.negative_binomial(1.0, 1 / (1 + mean[wild]), (300, 10))
    names = tuple(f"G{i:03d}" for i in range(100))
    assert hest.variable_genes([counts[:150], counts[150:]], names, number=10) == tuple(names[i] for i in wild)


def test_a_gene_that_one_section_lacks_is_not_eligible():
    rng = np.random.default_rng(2)
    counts = [rng.poisson(5.0, (50, 30)).astype(float) for _ in range(2)]
    counts[0][:, 4] *= 7
    counts[1][:, 4] = 0
    names = tuple(f"G{i:02d}" for i in range(30))
    assert "G04" not in hest.variable_genes(counts, names, number=29)


def test_a_fold_is_the_mean_correlation_of_log_counts():
    rng = np.random.default_rng(3)
    counts, predicted = rng.poisson(4, (80, 3)).astype(float), rng.normal(size=(80, 3))
    x, y = np.divmod(np.arange(80), 10)
    boot = BlockBootstrap.draw(np.stack([x, y], axis=1) * 200.0, replicates=20, seed=0)
    found = hest.score_fold(predicted, counts, boot)
    expected = [stats.pearsonr(np.log1p(counts[:, g]), predicted[:, g]).statistic for g in range(3)]
    np.testing.assert_allclose(found.pcc, expected)
    assert found.mean.value == pytest.approx(np.mean(expected))
