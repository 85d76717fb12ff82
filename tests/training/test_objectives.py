"""Value and slope of each likelihood in the fit against its log probability and autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stimage_qupath.models.likelihoods import PARAMETERS, distribution
from stimage_qupath.training.fit import fit_total_count
from stimage_qupath.training.objectives import make_term
from stimage_qupath.training.shapes import PRIORS, fit_shapes

COUNTED = ("nb", "poisson", "zinb")


@pytest.fixture
def spots():
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(1.0, 0.2, (50, 4)).astype(np.float32)
    return counts, rng.normal(0, 0.6, 50).astype(np.float32)


def parameters(name):
    values = {
        "log_total_count": [-1.0, 0.0, 2.0, 6.0],
        "zero_logit": [-6.0, -2.0, 0.0, 1.0],
        "log_sd": [-1, -0.5, 0, 0.5],
    }
    return {key: np.array(values[key], dtype=np.float32) for key in PARAMETERS[name]}


@pytest.mark.parametrize("name", COUNTED)
def test_value_differs_from_minus_the_log_likelihood_by_a_constant(name, spots):
    counts, log_depth = spots
    term = make_term(name, counts, log_depth, parameters(name))
    shapes = {key: torch.from_numpy(v).double() for key, v in parameters(name).items()}
    location = torch.randn(3, 50, 4, dtype=torch.float64)
    value, _ = term.value_and_slope(location)
    law = distribution(name, location, shapes).at_depth(torch.from_numpy(log_depth).double()[:, None])
    left_out = value + law.log_prob(torch.from_numpy(counts).double())
    torch.testing.assert_close(left_out, left_out[:1].expand_as(left_out))


@pytest.mark.parametrize("name", tuple(PARAMETERS))
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_slope_is_the_derivative_of_the_value(name, scale, spots):
    """Also where a line search may look: locations of -30 to 30."""
    counts, log_depth = spots
    term = make_term(name, counts, log_depth, parameters(name))
    location = (scale * torch.randn(2, 50, 4, dtype=torch.float64)).requires_grad_()
    value, slope = term.value_and_slope(location)
    value.sum().backward()
    torch.testing.assert_close(slope, location.grad, rtol=1e-6, atol=1e-8)
    assert torch.isfinite(value).all()


def test_the_gaussian_fit_is_least_squares_on_log_values(spots):
    counts, log_depth = spots
    term = make_term("gaussian-log", counts, log_depth, parameters("gaussian-log"))
    _, slope = term.value_and_slope(torch.from_numpy(np.log1p(counts / np.exp(log_depth)[:, None])).double()[None])
    np.testing.assert_allclose(slope, 0, atol=1e-5)


@pytest.mark.parametrize("name", COUNTED)
def test_the_null_is_the_pooled_rate_and_its_curvature_positive(name, spots):
    counts, log_depth = spots
    term = make_term(name, counts, log_depth, parameters(name))
    np.testing.assert_allclose(term.null_location.exp(), (counts.sum(0) + 0.5) / np.exp(log_depth).sum(), rtol=1e-6)
    assert (term.null_curvature > 0).all()


@pytest.mark.parametrize("name", ["nb", "poisson"])
def test_the_null_curvature_is_the_expected_second_derivative(name):
    """Mean over simulated counts of the slope's derivative."""
    rng = np.random.default_rng(0)
    r = 2.0
    counts = rng.poisson(rng.gamma(r, 5 / r, (40_000, 1)) if name == "nb" else 5.0, (40_000, 1)).astype(np.float32)
    log_depth = np.zeros(40_000, dtype=np.float32)
    shapes = {"log_total_count": np.log([r]).astype(np.float32)} if name == "nb" else {}
    term = make_term(name, counts, log_depth, shapes)
    slopes = [term.value_and_slope(term.null_location + step)[1].mean() for step in (-1e-4, 1e-4)]
    assert float(slopes[1] - slopes[0]) / 2e-4 == pytest.approx(float(term.null_curvature[0]), rel=0.03)


def test_total_counts_are_those_of_the_newton_fit():
    rng = np.random.default_rng(0)
    r, mean = np.array([0.3, 2.0, 15.0]), np.exp(rng.normal(1.5, 0.7, (800, 3)))
    counts = rng.poisson(rng.gamma(r, mean / r)).astype(np.float32)
    log_depth = rng.normal(0, 0.3, 800).astype(np.float32)
    location = (np.log(mean) - log_depth[:, None]).astype(np.float32)
    found = fit_shapes("nb", counts, location, log_depth)["log_total_count"]
    np.testing.assert_allclose(found, fit_total_count(counts, mean.astype(np.float32)), atol=2e-3)


def test_zero_inflation_is_found_and_not_invented():
    rng = np.random.default_rng(1)
    share = np.array([0.0, 0.4])
    mean = np.exp(rng.normal(2.0, 0.5, (3000, 2)))
    counts = rng.poisson(rng.gamma(3.0, mean / (1 - share) / 3.0)) * (rng.random((3000, 2)) >= share)
    depth = np.zeros(3000, dtype=np.float32)
    found = fit_shapes("zinb", counts.astype(np.float32), np.log(mean).astype(np.float32), depth)
    inflated = 1 / (1 + np.exp(-found["zero_logit"]))
    np.testing.assert_allclose(inflated, share, atol=0.03)
    np.testing.assert_allclose(np.exp(found["log_total_count"]), 3.0, rtol=0.15)


def test_the_sd_of_log_values_is_found():
    rng = np.random.default_rng(2)
    location = np.full((4000, 1), 4.0, dtype=np.float32)
    counts = np.rint(np.expm1(rng.normal(location, 0.35))).astype(np.float32)
    found = fit_shapes("gaussian-log", counts, location, np.zeros(4000, dtype=np.float32))
    assert float(np.exp(found["log_sd"][0])) == pytest.approx(0.35, rel=0.04)


def test_without_data_the_prior_stays_and_poisson_has_nothing_to_fit():
    nothing = np.zeros((0, 2), dtype=np.float32)
    found = fit_shapes("zinb", nothing, nothing, np.zeros(0, dtype=np.float32))
    np.testing.assert_allclose(found["log_total_count"], PRIORS["log_total_count"][0])
    assert fit_shapes("poisson", nothing, nothing, np.zeros(0, dtype=np.float32)) == {}
