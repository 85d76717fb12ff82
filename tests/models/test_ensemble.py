"""Ensemble predictions against hand arithmetic and simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from stimage_qupath.models.ensemble import Ensemble, Heads
from stimage_qupath.models.high_low import HighLow
from stimage_qupath.models.negative_binomial import mixture_quantile
from stimage_qupath.models.recalibration import Recalibration
from stimage_qupath.models.uncertainty import OutlierScore, total_variance
from stimage_qupath.results import Panel

CPU = torch.device("cpu")


@pytest.fixture
def ensemble():
    rng = np.random.default_rng(3)
    members, features, factors, genes = 4, 6, 3, 5
    heads = Heads(
        feature_mean=rng.normal(size=features).astype(np.float32),
        feature_sd=rng.uniform(0.5, 2, features).astype(np.float32),
        projection=rng.normal(0, 0.4, (members, features, factors)).astype(np.float32),
        loading=rng.normal(0, 0.5, (members, factors, genes)).astype(np.float32),
        bias=rng.normal(0, 1, (members, genes)).astype(np.float32),
        log_total_count=rng.normal(1, 1, (members, genes)).astype(np.float32),
    )
    outliers = OutlierScore.fit(rng.normal(size=(300, features)).astype(np.float32))
    return Ensemble(
        panel=Panel(("A", "B", "C", "D", "E")),
        heads=heads,
        outliers=outliers,
        recalibration=Recalibration.none(genes),
        high_low=HighLow(np.array([1, np.nan, 2, 3, 4], np.float32)),
    )


@pytest.fixture
def features():
    return np.random.default_rng(4).normal(size=(37, 6)).astype(np.float32)


def member_means(ensemble, features):
    heads = ensemble.heads
    z = np.clip((features - heads.feature_mean) / heads.feature_sd, -4, 4)
    return np.exp(np.einsum("pf,mfg->pmg", z.astype(np.float64), heads.weight) + heads.bias)


def test_prediction_is_the_formula_written_member_by_member(ensemble, features):
    mean, r = member_means(ensemble, features), np.exp(ensemble.heads.log_total_count)
    prediction = ensemble.predict(features, device=CPU)
    np.testing.assert_allclose(prediction.mean, mean.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(prediction.aleatoric, (mean + mean**2 / r).mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(prediction.epistemic, mean.var(axis=1), rtol=1e-3)


def test_features_far_outside_training_do_not_run_away(ensemble, features):
    far, farther = (ensemble.predict(features * scale, device=CPU) for scale in (1e4, 1e6))
    np.testing.assert_allclose(far.mean, farther.mean, rtol=1e-5)
    assert (farther.ood_score > 50 * far.ood_score).all()


def test_the_two_variances_add_up_to_that_of_the_simulated_mixture():
    mean, r = torch.tensor([[[2.0]], [[9.0]]]), torch.tensor([[1.5], [6.0]])
    rng = np.random.default_rng(0)
    n = 400_000
    draws = np.concatenate([rng.negative_binomial(k, k / (k + m), n) for m, k in ((2.0, 1.5), (9.0, 6.0))])
    expected, aleatoric, epistemic = (float(v) for v in total_variance(mean, r))
    assert expected == pytest.approx(5.5)
    assert epistemic == pytest.approx(3.5**2)
    assert draws.var() == pytest.approx(aleatoric + epistemic, rel=0.01)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(ensemble, features, batch_size):
    whole = ensemble.predict(features, device=CPU)
    parts = ensemble.predict(features, device=CPU, batch_size=batch_size)
    for name in ("mean", "aleatoric", "epistemic", "ood_score"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-7)


def test_intervals_are_those_of_the_mixture_for_the_genes_asked_for(ensemble, features):
    prediction = ensemble.predict(features, device=CPU, interval_genes=np.array([1, 3]))
    mean = member_means(ensemble, features).transpose(1, 0, 2)
    r = np.exp(ensemble.heads.log_total_count)[:, None, :]
    for name, level in (("p05", 0.05), ("p95", 0.95)):
        values = getattr(prediction, name)
        assert np.isnan(values[:, [0, 2, 4]]).all()
        differs = values[:, [1, 3]] != mixture_quantile(level, mean, r)[:, [1, 3]]
        assert differs.mean() < 0.02  # float32 against float64 may tip a count that sits on the level


def test_some_genes_are_the_same_as_all_genes_cut(ensemble, features):
    some = ensemble.take_genes(("D", "A")).predict(features, device=CPU)
    np.testing.assert_allclose(some.mean, ensemble.predict(features, device=CPU).mean[:, [3, 0]], rtol=1e-5)


def test_heads_that_do_not_fit_or_are_not_finite_are_refused(ensemble):
    h = ensemble.heads
    with pytest.raises(ValueError, match="expected heads that fit a projection"):
        replace(h, feature_mean=h.feature_mean[:2])
    with pytest.raises(ValueError, match="expected finite weights"):
        replace(h, loading=h.loading * np.nan)


def test_intervals_and_high_follow_the_recalibration(ensemble, features):
    """A temperature of 2 halves r; a gene without a threshold has no probability of being high."""
    genes = np.array([3, 1])
    warm = replace(ensemble.recalibration, log_temperature=np.full(5, np.log(2), np.float32))
    prediction = replace(ensemble, recalibration=warm).predict(features, device=CPU, interval_genes=genes)
    mean, r = member_means(ensemble, features), np.exp(ensemble.heads.log_total_count) / 2
    np.testing.assert_allclose(prediction.aleatoric, (mean + mean**2 / r).mean(axis=1), rtol=1e-4)
    tail = stats.gamma.sf(3.0, r[:, 3], scale=mean[:, :, 3] / r[:, 3]).mean(axis=1)
    np.testing.assert_allclose(prediction.high[:, 3], tail, rtol=1e-3, atol=1e-5)
    assert np.isnan(prediction.high[:, [0, 1, 2, 4]]).all()
    assert not np.isnan(prediction.p95[:, genes]).any()


def test_outlier_score_is_1_at_the_99th_percentile_of_training_and_does_not_saturate():
    rng = np.random.default_rng(1)
    training = rng.normal(size=(2000, 8)).astype(np.float32) @ rng.normal(size=(8, 8)).astype(np.float32)
    score = OutlierScore.fit(training)
    assert np.quantile(score(training), 0.99) == pytest.approx(1, abs=1e-4)
    far = training[:1] * np.array([[10.0], [100.0], [1000.0]], dtype=np.float32)
    np.testing.assert_allclose(score(far)[1:] / score(far)[:-1], 10, rtol=1e-3)


def test_outlier_score_sees_directions_that_training_never_took():
    rng = np.random.default_rng(2)
    training = np.zeros((500, 5), dtype=np.float32)
    training[:, :2] = rng.normal(size=(500, 2))
    training[:, 2:] = 1e-3 * rng.normal(size=(500, 3))
    odd = np.array([[0, 0, 0, 0, 1]], dtype=np.float32)
    assert OutlierScore.fit(training)(odd)[0] > 10


def test_outlier_distance_in_full_rank_is_mahalanobis():
    rng = np.random.default_rng(5)
    training = (rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3))).astype(np.float32)
    score = OutlierScore.fit(training)
    inverse = np.linalg.inv(training.T.astype(np.float64) @ training / len(training))
    distance = np.sqrt(np.einsum("pi,ij,pj->p", training, inverse, training))
    np.testing.assert_allclose(score(training), distance / np.quantile(distance, 0.99), rtol=1e-3)
