"""Likelihoods of counts against scipy, torch.distributions, sums over all counts, and moments of samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from stimage_qupath.errors import UsageError
from stimage_qupath.models.count_head import CountHead
from stimage_qupath.models.likelihoods import PARAMETERS, distribution
from stimage_qupath.models.log_gaussian import LogGaussian
from stimage_qupath.models.negative_binomial import NegativeBinomial, mixture_cdf, mixture_quantile
from stimage_qupath.models.poisson import Poisson
from stimage_qupath.models.zero_inflated import ZeroInflatedNegativeBinomial

MEANS = np.array([1e-6, 1e-2, 0.7, 12.0, 900.0, 1e5])
TOTAL_COUNTS = np.array([1e-3, 0.5, 8.0, 1e3, 1e6])
NAMES = tuple(PARAMETERS)
SHAPES = {"log_total_count": 0.8, "zero_logit": -1.0, "log_sd": -0.4}


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def made(name, location, **changed):
    shapes = SHAPES | changed
    return distribution(name, tensor(location), {k: tensor(shapes[k]) for k in PARAMETERS[name]})


def scipy_nb(mean, r):
    return stats.nbinom(r, r / (r + mean))


def test_negative_binomial_is_scipys_far_out():
    mean, r, y = np.meshgrid(MEANS, TOTAL_COUNTS, np.array([0.0, 1, 30, 5000, 2e5]))
    ours = NegativeBinomial(tensor(np.log(mean)), tensor(np.log(r)))
    truth = scipy_nb(mean, r)
    # scipy takes r / (r + mean), which rounds to 1 where r is 1e9 times the mean: there the Poisson is the truth.
    log_pmf = np.where(r < 1e9 * mean, truth.logpmf(y), stats.poisson.logpmf(y, mean))
    clear = (r < 1e9 * mean) | (y < 1e-4 * r)
    np.testing.assert_allclose(ours.log_prob(tensor(y)).numpy()[clear], log_pmf[clear], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours.cdf(y), truth.cdf(y), atol=1e-8)
    np.testing.assert_allclose(ours.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(ours.variance, truth.var(), rtol=1e-4)


def test_negative_binomial_is_torchs():
    log_mean, log_r = torch.randn(40, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    y = torch.arange(40.0, dtype=torch.float64)
    torchs = torch.distributions.NegativeBinomial(total_count=log_r.exp(), logits=log_mean - log_r)
    ours = NegativeBinomial(log_mean, log_r)
    torch.testing.assert_close(ours.log_prob(y), torchs.log_prob(y))
    torch.testing.assert_close(ours.mean, torchs.mean)
    torch.testing.assert_close(ours.variance, torchs.variance)


def test_float32_keeps_its_digits_at_a_huge_total_count():
    """lgamma(1e6) is 1.3e7, of which float32 keeps no unit; the limit is the Poisson."""
    y, log_mean = torch.arange(20.0), torch.full((20,), float(np.log(7.0)))
    ours = NegativeBinomial(log_mean, torch.tensor(float(np.log(1e6)))).log_prob(y)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), stats.poisson.logpmf(np.arange(20), 7.0), rtol=2e-4)


def test_poisson_is_scipys():
    mean, y = np.meshgrid(MEANS, np.array([0.0, 1, 30, 5000]))
    ours = Poisson(tensor(np.log(mean)))
    np.testing.assert_allclose(ours.log_prob(tensor(y)).numpy(), stats.poisson.logpmf(y, mean), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.cdf(y), stats.poisson.cdf(y, mean), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours.variance, ours.mean)


def test_zero_inflated_is_the_two_part_formula():
    mean, r, share, y = 3.0, 2.0, 0.3, np.arange(60.0)
    ours = ZeroInflatedNegativeBinomial(tensor(np.log(mean)), tensor(np.log(r)), tensor(np.log(share / (1 - share))))
    part = scipy_nb(mean / (1 - share), r)
    by_hand = (1 - share) * part.pmf(y) + share * (y == 0)
    np.testing.assert_allclose(ours.log_prob(tensor(y)).exp(), by_hand, rtol=1e-9)
    np.testing.assert_allclose(ours.cdf(y), np.cumsum(by_hand), rtol=1e-9)


def test_zero_inflation_of_none_is_the_negative_binomial():
    log_mean, log_r, y = tensor(np.log(MEANS)), tensor(0.3), tensor(np.array([0.0, 0, 2, 9, 700, 2e5]))
    ours = ZeroInflatedNegativeBinomial(log_mean, log_r, tensor(-40.0))
    plain = NegativeBinomial(log_mean, log_r)
    torch.testing.assert_close(ours.log_prob(y), plain.log_prob(y))
    torch.testing.assert_close(ours.variance, plain.variance)


@pytest.mark.parametrize("depth", [0.3, 1.0, 4.0])
def test_log_gaussian_is_the_normal_between_half_counts(depth):
    location, sd, y = 0.9, 0.7, np.arange(40.0)
    ours = LogGaussian(tensor(location), tensor(np.log(sd)), tensor(np.log(depth)))
    normal = stats.norm(location, sd)
    upper = normal.cdf(np.log1p((y + 0.5) / depth))
    lower = np.where(y == 0, 0.0, normal.cdf(np.log1p(np.maximum(y - 0.5, 0) / depth)))
    np.testing.assert_allclose(ours.log_prob(tensor(y)).exp(), upper - lower, rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(ours.cdf(y), upper, rtol=1e-12)


def test_log_gaussian_keeps_its_digits_in_both_tails():
    """Against the density times the width of the count, where probabilities are 1e-200 or differ in the tenth digit."""
    y = np.array([3e4, 1e5])
    ours = LogGaussian(tensor(0.0), tensor(np.log(0.4)), tensor(0.0)).log_prob(tensor(y)).numpy()
    np.testing.assert_allclose(ours, stats.norm.logpdf(np.log1p(y), 0, 0.4) - np.log1p(y), rtol=1e-5)
    below = LogGaussian(tensor(14.0), tensor(np.log(0.4)), tensor(0.0)).log_prob(tensor(y)).numpy()
    np.testing.assert_allclose(below, stats.norm.logpdf(np.log1p(y), 14, 0.4) - np.log1p(y), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("location", [-3.0, 0.5, 3.5])
def test_probabilities_add_up_to_one_and_give_mean_and_variance(name, location):
    ours = made(name, location)
    y = np.arange(60_000.0)
    p = np.exp(ours.log_prob(tensor(y)).numpy())
    assert p.sum() == pytest.approx(1, abs=1e-6)
    mean = (p * y).sum()
    # The half count by which the log-normal's tail is integrated leaves parts in ten thousand.
    assert float(ours.mean) == pytest.approx(mean, rel=2e-4)
    assert float(ours.variance) == pytest.approx((p * (y - mean) ** 2).sum(), rel=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_moments_of_the_formula(name):
    ours = made(name, [-1.0, 1.0, 3.0]).at_depth(tensor(0.4))
    draws = ours.sample(np.random.default_rng(0), 200_000)
    assert draws.shape == (200_000, 3)
    error = 5 * np.sqrt(ours.variance.numpy() / len(draws))
    assert (np.abs(draws.mean(axis=0) - ours.mean.numpy()) < error).all()
    np.testing.assert_allclose(draws.var(axis=0), ours.variance.numpy(), rtol=0.12)


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_distribution_function(name):
    ours = made(name, [1.5])
    draws = ours.sample(np.random.default_rng(1), 100_000)[:, 0]
    for y in (-1.0, 0.0, 3.0, 11.0):
        assert (draws <= y).mean() == pytest.approx(float(ours.cdf(np.array([y]))[0]), abs=0.007)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0.05, 0.5, 0.975])
def test_a_quantile_is_the_first_count_that_reaches_the_level(name, level):
    ours = made(name, np.linspace(-6, 9, 40))
    quantile = ours.quantile(level)
    assert (ours.cdf(quantile) >= level).all()
    assert (ours.cdf(quantile - 1) < level).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    rng = np.random.default_rng(0)
    y = tensor(rng.integers(0, 12, 14).astype(float))
    inputs = [tensor(rng.normal(0.5, 1, 14)).requires_grad_()]
    inputs += [tensor(rng.normal(-0.3, 0.5, 14)).requires_grad_() for _ in PARAMETERS[name]]

    def log_prob(location, *shapes):
        return distribution(name, location, dict(zip(PARAMETERS[name], shapes, strict=True))).log_prob(y)

    assert torch.autograd.gradcheck(log_prob, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_stay_finite_far_out(name, dtype):
    """Means of 1e-6 to 1e5, total_counts of 1e-3 to 1e6, counts of 0 to 1e5, in every combination."""
    location, r, y = torch.meshgrid(
        torch.tensor(np.log(MEANS), dtype=dtype),
        torch.tensor(np.log(TOTAL_COUNTS), dtype=dtype),
        torch.tensor([0, 1, 40, 1e5], dtype=dtype),
        indexing="ij",
    )
    location, r = location.clone().requires_grad_(), r.clone().requires_grad_()
    shapes = {"log_total_count": r, "zero_logit": r / 4, "log_sd": r / 6}
    value = distribution(name, location, {k: shapes[k] for k in PARAMETERS[name]}).log_prob(y)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(location.grad).all()
    assert r.grad is None or torch.isfinite(r.grad).all()


def test_depth_scales_the_mean_and_not_the_total_count():
    deeper = made("nb", 1.0).at_depth(tensor(np.log(5.0)))
    mu, r = 5 * np.e, np.exp(SHAPES["log_total_count"])
    assert float(deeper.mean) == pytest.approx(mu)
    assert float(deeper.variance) == pytest.approx(mu + mu**2 / r)


def test_an_unknown_likelihood_is_refused_with_the_names():
    with pytest.raises(UsageError, match=r"expected a likelihood out of nb, poisson, zinb, gaussian-log, found 'beta'"):
        distribution("beta", tensor(0.0), {})


def test_parameters_of_another_likelihood_are_refused():
    with pytest.raises(
        ValueError, match=r"expected the parameters \['log_total_count'\] of likelihood 'nb', found \[\]"
    ):
        distribution("nb", tensor(0.0), {})


def test_mixture_quantiles_by_sums_and_by_bisection_agree():
    """Means on both sides of where the method changes, one level a place, p(0) tiny or near 1."""
    rng = np.random.default_rng(2)
    mean = np.exp(rng.uniform(-6, 8, (5, 900)))
    mean[:, ::2] = mean[:1, ::2] * np.exp(rng.normal(0, 0.1, (5, 450)))
    r = np.exp(rng.uniform(-6, 13, (5, 900)))
    level = rng.uniform(0.01, 0.99, 900)
    quantile = mixture_quantile(level, mean, r)
    assert (mixture_cdf(quantile, mean, r) >= level - 1e-9).all()
    assert (mixture_cdf(quantile - 1, mean, r) < level + 1e-9).all()


@pytest.mark.parametrize("spot_wise", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_head_starts_at_the_gene_means_and_learns(name, spot_wise):
    torch.manual_seed(0)
    x = torch.randn(300, 4)
    y = torch.poisson(torch.exp(1.0 + x[:, :1].expand(-1, 3)))
    head = CountHead(4, 3, likelihood=name, spot_wise=spot_wise, start=torch.ones(3))
    depth = torch.zeros(300)
    before = -head(x, depth).log_prob(y).mean()
    assert before.shape == ()
    torch.testing.assert_close(head.location(x), torch.ones(300, 3))
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        loss = -head(x, depth).log_prob(y).mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < float(before.detach()) - 0.3
    assert (head.location.weight[:, 0] > 0.4).all()


def test_a_spot_wise_head_finds_that_total_count_differs_between_spots():
    rng = np.random.default_rng(0)
    x = np.repeat([[-1.0], [1.0]], 1500, axis=0)
    r = np.where(x > 0, 20.0, 0.5)
    y = rng.poisson(rng.gamma(r, 6.0 / r))
    head = CountHead(1, 1, spot_wise=True, start=torch.log(torch.tensor([6.0])))
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    features, counts = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    for _ in range(200):
        optimiser.zero_grad()
        (-head(features, torch.zeros(3000)).log_prob(counts).mean()).backward()
        optimiser.step()
    found = head(torch.tensor([[-1.0], [1.0]]), torch.zeros(2)).log_total_count.exp().detach().numpy().ravel()
    np.testing.assert_allclose(found, [0.5, 20.0], rtol=0.3)
