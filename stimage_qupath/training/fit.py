"""Loadings of genes on factor scores by maximum penalised likelihood: all members, all genes, one batched problem.

For spot i of section c, gene g and member m::

    y_ig ~ NB(mean = s_i exp(b_mcg + z_mi L_mg), total_count = r_g)

``z`` are factor scores around their section's mean, ``s_i`` is the spot's total over the reference total. Every section
has its own intercept, because differences between whole sections (patient, stain, batch) would otherwise be explained
by the image and spoil what varies within a section. With ``r`` held, minus the log-likelihood is convex in ``b`` and
``L``; a ridge on ``L`` makes it strongly so. It is minimised by L-BFGS in coordinates scaled by the curvature, where it
is nearly round. The likelihood is exchangeable (:mod:`stimage_qupath.training.objectives`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.training.objectives import Term

INTERCEPT_PRECISION = 1.0
"""Of the normal prior that holds a section's intercept near the pooled log rate; matters only for unseen genes."""
MAX_ITERATIONS = 60
LOG_TOTAL_COUNT_PRIOR = (1.6, 2.0)
"""Mean and SD of the normal prior on log r: r near 5, within a factor of 50 either way at two SD."""
NEWTON_STEPS = 25


@dataclass(frozen=True, slots=True)
class Loadings:
    """Fitted loadings.

    Attributes
    ----------
    weight
        (member, factor, gene), change of the log mean for a unit of score.
    bias
        (member, gene), log of counts at reference depth where every score is 0, averaged over the sections' intercepts.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def fit_loadings(
    term: Term,
    scores: NDArray[np.float64],
    *,
    section: NDArray[np.int64],
    spot_weights: NDArray[np.float32],
    precision: float,
) -> Loadings:
    """Fit the loadings of all members at once.

    Parameters
    ----------
    term
        The likelihood of the training counts.
    scores
        (member, spot, factor).
    section
        (spot,) index of the section.
    spot_weights
        (member, spot) how often each member saw each spot.
    precision
        Of the normal prior on the loading of a score with unit SD.
    """
    objective = _Objective(term, scores, section, spot_weights, precision)
    objective.minimise()
    return objective.loadings()


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
        term: Term,
        scores: NDArray[np.float64],
        section: NDArray[np.int64],
        spot_weights: NDArray[np.float32],
        precision: float,
    ) -> None:
        # Double precision: the objective is a sum of millions of terms, and a line search reads its last digits.
        self.term, self.precision = term, precision
        self.weights = torch.from_numpy(spot_weights).double()[:, :, None]
        self.scores = torch.from_numpy(scores).double()  # (member, spot, factor)
        self.section = torch.nn.functional.one_hot(torch.from_numpy(section)).double()
        self.spots_in_section = self.section.sum(0)
        self.log_rate, curvature = term.null_location, term.null_curvature
        energy = (self.weights * self.scores.square()).sum(1)  # (member, factor)
        self.loading_scale = (curvature * energy[:, :, None] + precision).rsqrt()
        self.intercept_scale = (curvature * self.spots_in_section[:, None] + INTERCEPT_PRECISION).rsqrt()
        members, _, factors = scores.shape
        genes, sections = len(self.log_rate), len(self.spots_in_section)
        self.loading = torch.zeros(members, factors, genes, dtype=torch.float64, requires_grad=True)
        self.intercept = torch.zeros(members, sections, genes, dtype=torch.float64, requires_grad=True)

    def minimise(self) -> None:
        """Run L-BFGS with analytic gradients."""
        optimiser = torch.optim.LBFGS(
            [self.loading, self.intercept],
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
        loading = self.loading * self.loading_scale
        offset = self.intercept * self.intercept_scale
        value, slope = self.term.value_and_slope(self.scores @ loading + self.section @ (self.log_rate + offset))
        total = (self.weights * value).sum() + 0.5 * self.precision * loading.square().sum()
        total += 0.5 * INTERCEPT_PRECISION * offset.square().sum()
        slope = self.weights * slope
        self.loading.grad = (self.scores.mT @ slope + self.precision * loading) * self.loading_scale
        self.intercept.grad = (self.section.T @ slope + INTERCEPT_PRECISION * offset) * self.intercept_scale
        return torch.as_tensor(total)

    def loadings(self) -> Loadings:
        """Return the loadings, and the intercepts averaged over the training spots' sections."""
        with torch.no_grad():
            weight = self.loading * self.loading_scale
            intercept = self.log_rate + self.intercept * self.intercept_scale
            share = self.spots_in_section / self.spots_in_section.sum()
            bias = (share[:, None] * intercept).sum(dim=1)
        return Loadings(weight=weight.float().numpy(), bias=bias.float().numpy())
