"""A few directions of the features that carry the expression of many genes: ridge on residuals, cut to low rank.

One gene's counts on some hundred spots say little; a thousand genes together say a lot about the few programmes
(tumour, stroma, immune, fat) that vary over a section. So the image is asked for a handful of factors that all genes
share.

Symbols, per member: ``X`` (spot, feature) standardised features and ``R`` (spot, gene) Pearson residuals of the counts,
both centred within each section; ``w`` (spot,) weights; ``K = X X' / features``. Ridge gives the fitted residuals
``F = K (K + lambda)^-1 R`` (rows scaled by the root of ``w``); ``V`` (gene, factor) are the leading right singular
vectors of ``F``, and factor scores are the fitted residuals along ``V`` (reduced-rank ridge regression: Mukherjee & Zhu
2011, doi 10.1002/sam.10138).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from stimage_qupath.spots.residuals import pearson_residuals

LEAST_SPREAD = 1e-6
"""Factors that spread less than this share of the first carry nothing."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spots:
    """Training spots as the fit sees them.

    Attributes
    ----------
    features
        (spot, feature) standardised.
    counts
        (spot, gene).
    totals
        (spot,) counts over all genes of the assay.
    section
        (spot,) index of the section.
    block
        (spot,) spatial block within the section; stands for the section where there is only one to split.
    """

    features: NDArray[np.float32]
    counts: NDArray[np.float32]
    totals: Array
    section: NDArray[np.int64]
    block: NDArray[np.int64]

    def take(self, index: NDArray[np.intp]) -> Spots:
        """Return some of the spots; sections are numbered anew."""
        _, section = np.unique(self.section[index], return_inverse=True)
        return Spots(self.features[index], self.counts[index], self.totals[index], section.ravel(), self.block[index])

    @property
    def rates(self) -> Array:
        """Share of each gene in the counts, (gene,)."""
        return np.asarray(self.counts.sum(axis=0, dtype=np.float64) / self.totals.sum())

    def residuals(self, rates: Array) -> Array:
        """Return the Pearson residuals at observed depth, (spot, gene)."""
        return pearson_residuals(self.counts.astype(np.float64), self.totals, rates)


FOLDS_OF_ONE_SECTION = 5


def folds(spots: Spots) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return training and test rows: each section left out, or spatial blocks where there is one section only."""
    several = spots.section.max() > 0
    label = spots.section if several else spots.block % FOLDS_OF_ONE_SECTION
    return [(np.flatnonzero(label != k), np.flatnonzero(label == k)) for k in np.unique(label)]


class ResidualRidge:
    """Ridge regression of residuals on features for every penalty at once, by one eigendecomposition.

    Parameters
    ----------
    spots
        Training spots.
    weights
        (spot,) how often each is counted; those with 0 do not enter.
    """

    def __init__(self, spots: Spots, weights: Array | None = None) -> None:
        used = np.arange(len(spots.totals)) if weights is None else np.flatnonzero(weights)
        w = np.ones(len(used)) if weights is None else np.asarray(weights, dtype=np.float64)[used]
        part = spots.take(used)
        root = np.sqrt(w)[:, None]
        x = _centre(part.features.astype(np.float64), part.section, w) * root
        residuals = _centre(part.residuals(part.rates), part.section, w) * root
        width = x.shape[1]
        values, vectors = linalg.eigh(x @ x.T / width, check_finite=False)
        self._values = np.maximum(values, 0)
        self._loadings = vectors.T @ residuals  # (spot, gene)
        self._map = x.T @ vectors / width  # (feature, spot): centred features to scores in the eigenbasis

    def factors(self, penalty: float, rank: int) -> tuple[Array, Array]:
        """Return the projection (feature, factor) and the basis ``V`` (gene, factor), strongest factor first."""
        coefficients = self._loadings / (self._values + penalty)[:, None]
        fitted = self._values[:, None] * coefficients
        size = len(fitted)
        spread, left = linalg.eigh(
            fitted @ fitted.T, subset_by_index=(max(size - rank, 0), size - 1), check_finite=False
        )
        kept = np.flatnonzero(spread > LEAST_SPREAD**2 * max(spread[-1], 1e-300))[::-1]
        basis = (fitted.T @ left[:, kept]) / np.sqrt(spread[kept])
        return self._map @ (coefficients @ basis), basis

    def projection(self, penalty: float, basis: Array) -> Array:
        """Return the projection (feature, factor) onto a basis found elsewhere."""
        return np.asarray(self._map @ ((self._loadings @ basis) / (self._values + penalty)[:, None]))


def factor_scores(spots: Spots, projection: Array) -> Array:
    """Return factor scores around each section's mean, (spot, factor)."""
    return _centre(spots.features.astype(np.float64), spots.section, np.ones(len(spots.totals))) @ projection


def out_of_fold_scores(spots: Spots, weights: Array, penalty: float, basis: Array) -> Array:
    """Return the scores that each section's spots get from a ridge that did not see the section, (spot, factor).

    Scores of the spots that a ridge was fitted to follow those spots' noise; loadings learnt from them would promise
    more than a new section keeps.
    """
    scores = np.zeros((len(spots.totals), basis.shape[1]))
    for train, test in folds(spots):
        # A bootstrap sample may hold nothing outside a section; then its own ridge has to do.
        rows = train if weights[train].any() else np.arange(len(weights))
        ridge = ResidualRidge(spots.take(rows), weights[rows])
        scores[test] = factor_scores(spots.take(test), ridge.projection(penalty, basis))
    return scores


def _centre(values: Array, section: NDArray[np.int64], weights: Array) -> Array:
    """Take each section's weighted mean off its rows."""
    member = section[None, :] == np.arange(section.max() + 1)[:, None]
    share = member * weights
    means = share @ values / share.sum(axis=1)[:, None]
    return np.asarray(values - means[section])
