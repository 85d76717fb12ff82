"""Negative binomial heads on frozen features: all members, all genes, one batched convex problem.

For spot i of section c, gene g and member m::

    y_ig ~ NB(mean = s_i exp(b_mcg + (z_i - mean of z over section c) W_mg), total_count = r_g)

``s_i`` is the spot's total over the reference total. Features are centred within each section and every section has its
own intercept, because differences between whole sections (patient, stain, batch) would otherwise be explained by the
image and spoil what varies within a section. With ``r`` held, minus the log-likelihood is convex in ``b`` and ``W``;
a ridge on ``W`` makes it strongly so. It is minimised by L-BFGS in coordinates scaled by the curvature, where it is
nearly round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INTERCEPT_PRECISION = 1.0
"""Of the normal prior that holds a section's intercept near the pooled log rate; matters only for unseen genes."""
MAX_ITERATIONS = 60
LOG_TOTAL_COUNT_PRIOR = (1.6, 2.0)
"""Mean and SD of the normal prior on log r: r near 5, within a factor of 50 either way at two SD."""
NEWTON_STEPS = 25


@dataclass(frozen=True, slots=True)
class Problem:
    """Training spots as the fit sees them.

    Attributes
    ----------
    features
        (spot, feature) standardised.
    counts
        (spot, gene).
    log_depth
        (spot,) log of total over reference total.
    section
        (spot,) index of the section.
    """

    features: NDArray[np.float32]
    counts: NDArray[np.float32]
    log_depth: NDArray[np.float32]
    section: NDArray[np.int64]

    def take(self, index: NDArray[np.intp]) -> Problem:
        """Return some of the spots; sections are numbered anew."""
        _, section = np.unique(self.section[index], return_inverse=True)
        return Problem(self.features[index], self.counts[index], self.log_depth[index], section.ravel())


@dataclass(frozen=True, slots=True)
class Solution:
    """Fitted heads.

    Attributes
    ----------
    weight
        (member, feature, gene).
    bias
        (member, gene), log of counts at reference depth for mean features of training.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def log_mean(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the log mean at reference depth, (member, spot, gene)."""
        return np.asarray(features @ self.weight + self.bias[:, None, :], dtype=np.float32)


def fit_heads(
    problem: Problem,
    *,
    spot_weights: NDArray[np.float32],
    penalty: NDArray[np.float32],
    log_total_count: NDArray[np.float32],
) -> Solution:
    """Fit the heads of all members at once.

    Parameters
    ----------
    problem
        Training spots.
    spot_weights
        (member, spot) how often each member saw each spot.
    penalty
        (member,) ridge on the weights of standardised features.
    log_total_count
        (gene,) log r, held fixed.
    """
    objective = _Objective(problem, spot_weights, penalty, log_total_count)
    objective.minimise()
    return objective.solution()


def fit_total_count(
    counts: NDArray[np.float32], mean: NDArray[np.float32], *, weights: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return log r of each gene by maximum posterior, given the mean of each spot, (gene,).

    Newton steps on log r with digamma and trigamma, under a weak normal prior; the counts and means are (spot, gene).
    """
    y, mu = torch.from_numpy(counts).double(), torch.from_numpy(np.maximum(mean, 1e-8)).double()
    w = torch.ones(len(y), 1, dtype=torch.float64) if weights is None else torch.from_numpy(weights).double()[:, None]
    centre, sd = LOG_TOTAL_COUNT_PRIOR
    log_r = torch.full((y.shape[1],), centre, dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        r = log_r.exp()
        slope = torch.digamma(y + r) - torch.digamma(r) + torch.log(r / (r + mu)) + (mu - y) / (r + mu)
        bend = torch.polygamma(1, y + r) - torch.polygamma(1, r) + mu / (r * (r + mu)) + (y - mu) / (r + mu).square()
        gradient = r * (w * slope).sum(0) - (log_r - centre) / sd**2
        curvature = r.square() * (w * bend).sum(0) + r * (w * slope).sum(0) - 1 / sd**2
        # Where the posterior is not concave a plain step uphill; both are held to a factor of e.
        step = torch.where(curvature < 0, -gradient / curvature, gradient.sign())
        log_r = (log_r + step.clamp(-1, 1)).clamp(-6, 9)
    return np.asarray(log_r.float().numpy())


class _Objective:
    """Value and gradient of the batched problem, in coordinates scaled by the curvature."""

    def __init__(
        self,
        problem: Problem,
        spot_weights: NDArray[np.float32],
        penalty: NDArray[np.float32],
        log_total_count: NDArray[np.float32],
    ) -> None:
        self.members = len(spot_weights)
        self.weights = torch.from_numpy(spot_weights).double()[:, :, None]
        self.penalty = torch.from_numpy(penalty).double().view(-1, 1, 1)
        self.counts = torch.from_numpy(problem.counts).double()
        self.log_depth = torch.from_numpy(problem.log_depth).double()[:, None]
        self.r = torch.from_numpy(log_total_count).double().exp()
        self.section = torch.nn.functional.one_hot(torch.from_numpy(problem.section)).double()
        self.spots_in_section = self.section.sum(0)
        features = torch.from_numpy(problem.features).double()
        self.section_mean = self.section.T @ features / self.spots_in_section[:, None]
        _, singular, right = torch.linalg.svd(features - self.section @ self.section_mean, full_matrices=False)
        kept = singular > 1e-4 * singular[0]
        self.basis, energy = right[kept].T, singular[kept].square()
        self.scores = (features - self.section @ self.section_mean) @ self.basis

        pooled = (self.counts.sum(0) + 0.5) / self.log_depth.exp().sum()
        self.log_rate = pooled.log()
        expected = pooled * self.log_depth.exp()
        curvature = (expected * self.r / (expected + self.r)).mean(0)
        self.coefficient_scale = (curvature * energy[:, None] + self.penalty).rsqrt()
        self.intercept_scale = (curvature * self.spots_in_section[:, None] + INTERCEPT_PRECISION).rsqrt()
        shape = (self.members, len(energy), self.counts.shape[1])
        # Double precision: the objective is a sum of millions of terms, and a line search reads its last digits.
        self.coefficients = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        self.intercepts = torch.zeros(
            self.members, *self.intercept_scale.shape, dtype=torch.float64, requires_grad=True
        )

    def minimise(self) -> None:
        """Run L-BFGS with analytic gradients."""
        optimiser = torch.optim.LBFGS(
            [self.coefficients, self.intercepts],
            max_iter=MAX_ITERATIONS,
            history_size=8,
            tolerance_grad=1e-3,
            tolerance_change=1e-7,
            line_search_fn="strong_wolfe",
        )
        with torch.no_grad():
            optimiser.step(self._evaluate)

    def _evaluate(self) -> Tensor:
        """Return the objective and leave its gradient on the parameters."""
        weight = self.coefficients * self.coefficient_scale
        offset = self.intercepts * self.intercept_scale
        log_mean = self.scores @ weight + self.section @ (self.log_rate + offset) + self.log_depth
        mean = log_mean.clamp(max=20).exp()
        sums = mean + self.r
        value = (self.weights * ((self.counts + self.r) * sums.log() - self.counts * log_mean)).sum()
        value += 0.5 * (self.penalty * weight.square()).sum() + 0.5 * INTERCEPT_PRECISION * offset.square().sum()
        slope = self.weights * (mean - self.counts) * (self.r / sums)
        self.coefficients.grad = (self.scores.T @ slope + self.penalty * weight) * self.coefficient_scale
        self.intercepts.grad = (self.section.T @ slope + INTERCEPT_PRECISION * offset) * self.intercept_scale
        return torch.as_tensor(value)

    def solution(self) -> Solution:
        """Return weights of standardised features, and the bias averaged over the training spots' sections."""
        with torch.no_grad():
            weight = self.basis @ (self.coefficients * self.coefficient_scale)
            intercepts = self.log_rate + self.intercepts * self.intercept_scale
            at_origin = intercepts - self.section_mean @ weight
            share = self.spots_in_section / self.spots_in_section.sum()
            bias = (share[:, None] * at_origin).sum(dim=1)
        return Solution(weight=weight.float().numpy(), bias=bias.float().numpy())
