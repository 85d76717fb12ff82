import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from stimage_qupath.validation import classifier
from stimage_qupath.validation.bootstrap import BlockBootstrap
from stimage_qupath.validation.classifier import L1_SHARE, PENALTIES, fit_classifier
from stimage_qupath.validation.high_low import average_precision, chance_above, high_figures, is_high, resampled_auroc


@pytest.fixture
def spots():
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 4000, (160, 2))
    chance = np.round(rng.uniform(0, 1, (160, 5)), 1)  # many ties
    return positions, chance, rng.uniform(0, 1, (160, 5)) < chance


def test_figures_agree_with_scikit_learn(spots):
    positions, chance, high = spots
    found = high_figures(chance, high, np.arange(160.0), BlockBootstrap.draw(positions, replicates=200, seed=0))
    genes = range(5)
    assert found.auroc.value == pytest.approx(np.mean([metrics.roc_auc_score(high[:, g], chance[:, g]) for g in genes]))
    assert found.auprc.value == pytest.approx(
        np.mean([metrics.average_precision_score(high[:, g], chance[:, g]) for g in genes])
    )
    assert found.brier.value == pytest.approx(metrics.brier_score_loss(high.ravel(), chance.ravel()))
    for figure in (found.auroc, found.auprc, found.brier, found.ece):
        assert figure.ci[0] <= figure.value <= figure.ci[1] or figure is found.ece  # folded at 0: resamples lie above


def test_resamples_weigh_spots(spots):
    _, chance, high = spots
    weights = np.random.default_rng(0).integers(0, 3, (4, 160)).astype(float)
    expected = [metrics.average_precision_score(high[:, 0], chance[:, 0], sample_weight=w) for w in weights]
    np.testing.assert_allclose(average_precision(chance[:, 0], high[:, 0], weights), expected, rtol=1e-12)


def test_resampled_auroc_is_that_of_the_repeated_spots(spots):
    positions, chance, high = spots
    bootstrap = BlockBootstrap.draw(positions, replicates=3, seed=1)
    found = high_figures(chance[:, :1], high[:, :1], np.arange(160.0), bootstrap)
    again = [
        metrics.roc_auc_score(np.repeat(high[:, 0], w), np.repeat(chance[:, 0], w))
        for w in bootstrap.weights[1:].astype(int)
    ]
    np.testing.assert_allclose(found.auroc.replicates, again, rtol=1e-12)


def test_within_strata_only_their_own_pairs_count(spots):
    positions, chance, high = spots
    stratum = np.arange(160) // 40
    found = resampled_auroc(chance[:, 0], high[:, 0], stratum, BlockBootstrap.draw(positions, replicates=2, seed=0))
    c, h = chance[:, 0], high[:, 0]
    pairs = [(c[i] > c[j]) + 0.5 * (c[i] == c[j]) for i in range(160) for j in range(160)
             if h[i] and not h[j] and stratum[i] == stratum[j]]  # fmt: skip
    assert found[0] == pytest.approx(np.mean(pairs))


def test_what_follows_depth_alone_says_nothing_within_tenths_of_it():
    rng = np.random.default_rng(5)
    depth = rng.uniform(0.2, 3, 1500)
    counts = rng.poisson(0.6 * depth[:, None], (1500, 20))  # the same rate everywhere
    high = is_high(counts, depth, np.full(20, 0.5))
    bootstrap = BlockBootstrap.draw(rng.uniform(0, 6000, (1500, 2)), replicates=100, seed=0)
    found = high_figures(np.repeat(depth[:, None] / 3, 20, axis=1), high, depth, bootstrap)
    assert found.auroc.value > 0.57
    assert abs(found.auroc_given_depth.value - 0.5) < 0.025


def test_calibrated_probabilities_have_a_small_ece_and_shifted_ones_their_shift():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.05, 0.75, (4000, 3))
    high = rng.uniform(0, 1, chance.shape) < chance
    bootstrap = BlockBootstrap.draw(rng.uniform(0, 5000, (4000, 2)), replicates=100, seed=0)
    assert high_figures(chance, high, np.arange(4000.0), bootstrap).ece.value < 0.02
    assert high_figures(chance + 0.2, high, np.arange(4000.0), bootstrap).ece.value == pytest.approx(0.2, abs=0.02)


def test_without_both_sides_there_is_no_figure(spots):
    positions, chance, _ = spots
    bootstrap = BlockBootstrap.draw(positions, replicates=100, seed=0)
    assert high_figures(chance, np.zeros(chance.shape, dtype=bool), np.arange(160.0), bootstrap) is None


def test_chance_above_is_that_of_the_negative_binomial():
    mean, r = np.array([[[3.0, 0.5]], [[5.0, 0.7]]]), np.array([[2.0, 9.0], [4.0, 1.0]])
    size, threshold = np.array([1.7]), np.array([2.2, 0.4])
    expected = [
        np.mean(
            [stats.nbinom.sf(np.floor(1.7 * t), r[m, g], r[m, g] / (r[m, g] + 1.7 * mean[m, 0, g])) for m in (0, 1)]
        )
        for g, t in enumerate(threshold)
    ]
    np.testing.assert_allclose(chance_above(mean, r, size, threshold)[0], expected, rtol=1e-12)
    assert is_high(np.array([[4, 0], [3, 1]]), np.array([1.7, 1.7]), threshold).tolist() == [
        [True, False],
        [False, True],
    ]


def test_classifier_agrees_with_scikit_learn(monkeypatch):
    monkeypatch.setattr(classifier, "TOLERANCE", 1e-9)
    monkeypatch.setattr(classifier, "MOST_STEPS", 20_000)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(90, 12))
    high = rng.uniform(size=(90, 2)) < 1 / (1 + np.exp(-(x[:, :2] * 2 - 1)))
    found = fit_classifier(x, high, np.arange(90) // 30)
    assert found.penalty in PENALTIES
    for g in range(2):
        library = LogisticRegression(
            C=1 / (90 * found.penalty), l1_ratio=L1_SHARE, solver="saga", max_iter=100_000, tol=1e-9
        ).fit(x, high[:, g])
        np.testing.assert_allclose(found.coefficients[:, g], library.coef_[0], atol=1e-4)
        np.testing.assert_allclose(found.intercept[g], library.intercept_[0], atol=1e-4)


def test_noise_gets_the_strongest_penalty():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(120, 60))
    found = fit_classifier(x, rng.uniform(size=(120, 3)) < 0.4, np.arange(120) // 40)
    assert found.penalty == PENALTIES[0]
    assert not found.coefficients.any()
    np.testing.assert_allclose(found.probability(x).std(axis=0), 0, atol=1e-12)
