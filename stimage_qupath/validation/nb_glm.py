"""A negative binomial regression of each gene on a few principal components: counts as counts, without a network.

``y_ig ~ NB(l_i p_cg exp(a_g + z_i b_g), r_g)`` with ``l`` the spot's total, ``p_cg`` the gene's share in the spot's
section, ``z`` the components centred within the section, and ``r`` by moments. All genes are fitted at once by
iteratively reweighted least squares (McCullagh and Nelder 1989, Generalized Linear Models).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.validation.linear import LinearMap

Float = NDArray[np.float64]

COMPONENTS = 10
RIDGE = 1.0
"""Of standardised components: decides nothing but for genes of a handful of counts."""
ITERATIONS = 12
LARGEST_EFFECT = 5.0
"""Of a linear predictor; a factor of 150 up or down is separation of zeros, not expression."""
TOTAL_COUNT_RANGE = (1e-2, 1e4)


def moment_total_count(counts: Float, mean: Float) -> Float:
    """Return ``sum m^2 / sum((y - m)^2 - m)`` of each gene, held in a range, (gene,); Poisson where it is not above 0.

    Parameters
    ----------
    counts, mean
        (spot, gene).
    """
    excess = ((counts - mean) ** 2 - mean).sum(axis=0)
    square = (mean**2).sum(axis=0)
    found = np.divide(square, excess, out=np.full_like(square, TOTAL_COUNT_RANGE[1]), where=excess > 0)
    return np.asarray(np.clip(found, *TOTAL_COUNT_RANGE))


def section_means(counts: Float, totals: Float, section: NDArray[np.int64]) -> Float:
    """Return the mean under "the same share everywhere in the section", (spot, gene), just above 0 at least."""
    mean = np.empty_like(counts)
    for index in np.unique(section):
        rows = section == index
        mean[rows] = totals[rows, None] * (counts[rows].sum(axis=0) / totals[rows].sum())
    return np.maximum(mean, 1e-8)


def fit_nb_glm(
    features: Float, counts: Float, totals: Float, section: NDArray[np.int64], *, reference_total: float
) -> LinearMap:
    """Return the map from features to log means at reference depth.

    Parameters
    ----------
    features
        (spot, feature).
    counts, totals
        (spot, gene) and (spot,).
    section
        (spot,) index of the section.
    reference_total
        Depth at which means are meant.
    """
    null = section_means(counts, totals, section)
    r = moment_total_count(counts, null)
    within = features.copy()
    for index in np.unique(section):
        within[section == index] -= features[section == index].mean(axis=0)
    _, singular, right = np.linalg.svd(within, full_matrices=False)
    k = int(min(COMPONENTS, (singular > 1e-6 * singular[0]).sum()))
    directions = right[:k].T * (np.sqrt(len(features)) / singular[:k])
    beta = _reweighted(np.column_stack([np.ones(len(features)), within @ directions]), counts, null, r)
    rates = np.maximum(counts.sum(axis=0), 0.5) / totals.sum()
    return LinearMap(features.mean(axis=0), directions, beta[1:], np.log(reference_total * rates) + beta[0])


def _reweighted(design: Float, counts: Float, null: Float, r: Float) -> Float:
    """Return coefficients, (column, gene)."""
    columns = design.shape[1]
    # (spot, column^2): one product makes the normal equations of every gene.
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    penalty = RIDGE * np.eye(columns)
    beta: Float = np.zeros((columns, counts.shape[1]))
    for _ in range(ITERATIONS):
        effect = np.clip(design @ beta, -LARGEST_EFFECT, LARGEST_EFFECT)
        mean = null * np.exp(effect)
        weight = mean * r / (mean + r)
        working = effect + np.clip((counts - mean) / mean, -LARGEST_EFFECT, LARGEST_EFFECT)
        normal = (squares.T @ weight).T.reshape(-1, columns, columns) + penalty
        right: Float = (design.T @ (weight * working)).T
        beta = np.asarray(np.linalg.solve(normal, right[..., None])[..., 0].T, dtype=np.float64)
    return beta
