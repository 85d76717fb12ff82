"""The batched fit against scipy's minimiser and against data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from stimage_qupath.training.fit import INTERCEPT_PRECISION, LOG_TOTAL_COUNT_PRIOR, Problem, fit_heads, fit_total_count


def simulate(*, spots=400, features=5, genes=6, sections=2, r=4.0, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(spots, features)).astype(np.float32)
    weight = rng.normal(0, 0.4, (features, genes))
    section = rng.integers(0, sections, spots)
    intercept = rng.normal(1.5, 0.5, (sections, genes))
    log_depth = rng.normal(0, 0.5, spots).astype(np.float32)
    mean = np.exp(intercept[section] + (z @ weight) + log_depth[:, None])
    counts = rng.negative_binomial(r, r / (r + mean)).astype(np.float32)
    return Problem(z, counts, log_depth, section.astype(np.int64)), weight


def scipy_fit(problem, weights, penalty, r, gene):
    """Minimise the same objective for one gene with scipy, in plain coordinates."""
    sections = problem.section.max() + 1
    centred = problem.features.astype(np.float64)
    for c in range(sections):
        centred[problem.section == c] -= centred[problem.section == c].mean(axis=0)
    y, width = problem.counts[:, gene].astype(np.float64), centred.shape[1]
    log_rate = np.log((y.sum() + 0.5) / np.exp(problem.log_depth).sum())

    def objective(x):
        w, b = x[:width], x[width:]
        mean = np.exp(centred @ w + log_rate + b[problem.section] + problem.log_depth)
        log_likelihood = stats.nbinom.logpmf(y, r, r / (r + mean))
        return -(weights * log_likelihood).sum() + penalty / 2 * w @ w + INTERCEPT_PRECISION / 2 * b @ b

    return optimize.minimize(objective, np.zeros(width + sections), method="BFGS", options={"gtol": 1e-6}).x[:width]


def test_every_member_and_gene_is_the_minimum_scipy_finds():
    problem, _ = simulate(spots=150, genes=3)
    rng = np.random.default_rng(1)
    spot_weights = rng.integers(0, 3, (2, 150)).astype(np.float32)
    penalty = np.array([5.0, 200.0], dtype=np.float32)
    r = np.array([1.0, 4.0, 20.0])
    solution = fit_heads(
        problem, spot_weights=spot_weights, penalty=penalty, log_total_count=np.log(r).astype(np.float32)
    )
    for member in range(2):
        for gene in range(3):
            truth = scipy_fit(problem, spot_weights[member], penalty[member], r[gene], gene)
            np.testing.assert_allclose(solution.weight[member, :, gene], truth, atol=2e-3)


def test_known_weights_are_found_again():
    problem, truth = simulate(spots=4000)
    ones = np.ones((1, 4000), dtype=np.float32)
    log_r = np.full(6, np.log(4.0), dtype=np.float32)
    solution = fit_heads(problem, spot_weights=ones, penalty=np.ones(1, dtype=np.float32), log_total_count=log_r)
    np.testing.assert_allclose(solution.weight[0], truth, atol=0.06)


def test_a_difference_between_sections_does_not_leak_into_the_weights():
    """Section 1 has other features and other expression; within a section the two are unrelated."""
    rng = np.random.default_rng(0)
    section = np.repeat([0, 1], 500)
    z = (rng.normal(size=(1000, 1)) + 3 * section[:, None]).astype(np.float32)
    counts = rng.poisson(np.exp(1.0 + 2.0 * section))[:, None].astype(np.float32)
    problem = Problem(z, counts, np.zeros(1000, dtype=np.float32), section)
    solution = fit_heads(
        problem,
        spot_weights=np.ones((1, 1000), dtype=np.float32),
        penalty=np.ones(1, dtype=np.float32),
        log_total_count=np.full(1, 5.0, dtype=np.float32),
    )
    assert abs(solution.weight[0, 0, 0]) < 0.03


def test_a_member_is_the_same_alone_and_in_company():
    problem, _ = simulate()
    rng = np.random.default_rng(2)
    weights = rng.integers(0, 3, (3, 400)).astype(np.float32)
    penalty = np.full(3, 50, dtype=np.float32)
    log_r = np.full(6, 1.0, dtype=np.float32)
    together = fit_heads(problem, spot_weights=weights, penalty=penalty, log_total_count=log_r)
    alone = fit_heads(problem, spot_weights=weights[1:2], penalty=penalty[1:2], log_total_count=log_r)
    np.testing.assert_allclose(together.weight[1], alone.weight[0], atol=2e-3)


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
