"""The batched fit against scipy's minimiser and against data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from stimage_qupath.training.fit import INTERCEPT_PRECISION, LOG_TOTAL_COUNT_PRIOR, fit_loadings, fit_total_count
from stimage_qupath.training.objectives import make_term


def simulate(*, spots=400, factors=3, genes=6, sections=2, r=4.0, seed=0):
    """Return scores (spot, factor), counts, log depth, section and the loadings that made the counts."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(spots, factors))
    loading = rng.normal(0, 0.4, (factors, genes))
    section = rng.integers(0, sections, spots)
    intercept = rng.normal(1.5, 0.5, (sections, genes))
    log_depth = rng.normal(0, 0.5, spots).astype(np.float32)
    mean = np.exp(intercept[section] + z @ loading + log_depth[:, None])
    counts = rng.negative_binomial(r, r / (r + mean)).astype(np.float32)
    return z, counts, log_depth, section.astype(np.int64), loading


def negative_binomial(counts, log_depth, r):
    return make_term("nb", counts, log_depth, {"log_total_count": np.log(r).astype(np.float32)})


def scipy_fit(z, counts, log_depth, section, *, weights, precision, r):
    """Minimise the same objective for one gene with scipy, in plain coordinates."""
    width, sections = z.shape[1], section.max() + 1
    y = counts.astype(np.float64)
    log_rate = np.log((y.sum() + 0.5) / np.exp(log_depth.astype(np.float64)).sum())

    def objective(x):
        w, b = x[:width], x[width:]
        mean = np.exp(z @ w + log_rate + b[section] + log_depth)
        log_likelihood = stats.nbinom.logpmf(y, r, r / (r + mean))
        return -(weights * log_likelihood).sum() + precision / 2 * w @ w + INTERCEPT_PRECISION / 2 * b @ b

    return optimize.minimize(objective, np.zeros(width + sections), method="BFGS", options={"gtol": 1e-6}).x[:width]


def test_every_member_and_gene_is_the_minimum_scipy_finds():
    z, counts, log_depth, section, _ = simulate(spots=150, genes=3)
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 3, (2, 150)).astype(np.float32)
    scores = np.stack([z, z + rng.normal(0, 0.3, z.shape)])
    r = np.array([1.0, 4.0, 20.0])
    term = negative_binomial(counts, log_depth, r)
    fitted = fit_loadings(term, scores, section=section, spot_weights=weights, precision=5.0)
    for member in range(2):
        for gene in range(3):
            truth = scipy_fit(
                scores[member],
                counts[:, gene],
                log_depth,
                section,
                weights=weights[member],
                precision=5.0,
                r=r[gene],
            )
            np.testing.assert_allclose(fitted.weight[member, :, gene], truth, atol=2e-3)


def test_known_loadings_are_found_again():
    z, counts, log_depth, section, truth = simulate(spots=4000)
    term = negative_binomial(counts, log_depth, np.full(6, 4.0))
    ones = np.ones((1, 4000), dtype=np.float32)
    fitted = fit_loadings(term, z[None], section=section, spot_weights=ones, precision=1.0)
    np.testing.assert_allclose(fitted.weight[0], truth, atol=0.06)


def test_a_difference_between_sections_does_not_leak_into_the_loadings():
    """Section 1 has other expression; within a section scores and expression are unrelated."""
    rng = np.random.default_rng(0)
    section = np.repeat([0, 1], 500)
    counts = rng.poisson(np.exp(1.0 + 2.0 * section))[:, None].astype(np.float32)
    term = make_term("poisson", counts, np.zeros(1000, dtype=np.float32), {})
    scores = (rng.normal(size=(1000, 1)) + 3 * section[:, None])[None]
    fitted = fit_loadings(
        term, scores, section=section, spot_weights=np.ones((1, 1000), dtype=np.float32), precision=1.0
    )
    assert abs(fitted.weight[0, 0, 0]) < 0.03


def test_a_member_is_the_same_alone_and_in_company():
    z, counts, log_depth, section, _ = simulate()
    weights = np.random.default_rng(2).integers(0, 3, (3, 400)).astype(np.float32)
    term = negative_binomial(counts, log_depth, np.full(6, np.e))
    shared = {"section": section, "precision": 5.0}
    together = fit_loadings(term, np.stack([z] * 3), spot_weights=weights, **shared)
    alone = fit_loadings(term, z[None], spot_weights=weights[1:2], **shared)
    np.testing.assert_allclose(together.weight[1], alone.weight[0], atol=2e-3)


def test_a_factor_without_scores_gets_no_loading():
    z, counts, log_depth, section, _ = simulate()
    term = negative_binomial(counts, log_depth, np.full(6, np.e))
    padded = np.pad(z, ((0, 0), (0, 1)))[None]
    ones = np.ones((1, 400), dtype=np.float32)
    fitted = fit_loadings(term, padded, section=section, spot_weights=ones, precision=5.0)
    assert not fitted.weight[0, -1].any()
    assert np.isfinite(fitted.weight).all()


def test_total_count_is_the_maximum_of_the_posterior():
    rng = np.random.default_rng(0)
    mean = rng.uniform(0.5, 20, (500, 3))
    r = np.array([0.5, 3.0, 15.0])
    counts = rng.negative_binomial(r, r / (r + mean)).astype(np.float32)
    centre, sd = LOG_TOTAL_COUNT_PRIOR

    def negative(log_r, gene):
        likelihood = stats.nbinom.logpmf(
            counts[:, gene], np.exp(log_r), np.exp(log_r) / (np.exp(log_r) + mean[:, gene])
        )
        return -likelihood.sum() + (log_r - centre) ** 2 / (2 * sd**2)

    truth = [optimize.minimize_scalar(negative, bounds=(-5, 8), args=(g,), method="bounded").x for g in range(3)]
    found = fit_total_count(counts, mean.astype(np.float32))
    np.testing.assert_allclose(found, truth, atol=2e-3)
    np.testing.assert_allclose(np.exp(found), r, rtol=0.35)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_total_count_of_constant_counts_is_finite(value):
    found = fit_total_count(np.full((50, 1), value, np.float32), np.full((50, 1), 0.4, np.float32))
    assert np.isfinite(found).all()
