"""Detection against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from stimage_qupath.validation.bootstrap import BlockBootstrap
from stimage_qupath.validation.ood import auroc, detection, goes_with_error


def test_auroc_is_scikit_learns_with_ties_too():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 80).astype(float), rng.integers(3, 12, 50).astype(float)
    expected = roc_auc_score(np.r_[np.zeros(80), np.ones(50)], np.r_[a, b])
    assert auroc(a, b) == pytest.approx(expected)
    assert np.isnan(auroc(a, b[:0]))


def test_detection_counts_what_would_be_flagged():
    known = {"ood_score": np.array([0.2, 0.5, 1.2, 0.9]), "epistemic_log_sd": np.arange(4.0)}
    changed = {"ood_score": np.array([1.5, 0.4]), "epistemic_log_sd": np.array([9.0, 8.0])}
    found = detection(known, changed)
    assert (found["flagged"], found["flagged_unperturbed"], found["tiles"]) == (0.5, 0.25, 2)
    assert found["auroc_epistemic_log_sd"] == 1
    assert found["auroc_ood_score"] == pytest.approx((4 + 1) / 8)


def test_rank_correlation_is_scipys_and_a_constant_score_says_nothing():
    rng = np.random.default_rng(1)
    x, y = np.divmod(np.arange(90), 10)
    boot = BlockBootstrap.draw(np.stack([x, y], axis=1) * 200.0, replicates=50, seed=2)
    score = rng.normal(size=90)
    error = score + rng.normal(size=90)
    found = goes_with_error(score, error, boot)
    assert found.value == pytest.approx(stats.spearmanr(score, error).statistic)
    assert found.ci[0] < found.value < found.ci[1]
    assert goes_with_error(np.ones(90), error, boot).value == 0
