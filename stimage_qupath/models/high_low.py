"""The probability that a gene is high at a place: above the median of the rates fitted to the training spots.

The negative binomial says that a place's rate at reference depth is a gamma of shape ``r`` and mean ``mu``, of which
the count is a Poisson draw. Its chance of being above a threshold ``t`` is the gamma's upper tail, and an ensemble's is
the mean over members::

    P(high) = mean_m Q(r_m, r_m t / mu_m),        Q the regularised upper incomplete gamma function

So it holds what the image leaves open (``r``) and what the members disagree about (``mu_m``), and no noise of
sequencing. The gamma is skewed: where ``mu`` equals the threshold, P(high) is below one half, the more so the smaller
``r``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEAST_DETECTED = 0.2
"""Share of training spots in which a gene must be seen: below, its median rate is an extrapolation."""


@dataclass(frozen=True, slots=True)
class HighLow:
    """Thresholds between low and high.

    Attributes
    ----------
    threshold
        (gene,) counts at reference depth; NaN for genes seen in too few training spots.
    """

    threshold: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse thresholds that no rate could be compared with."""
        known = self.threshold[~np.isnan(self.threshold)]
        if self.threshold.ndim != 1 or not ((known > 0) & np.isfinite(known)).all():
            msg = f"expected one positive threshold (or NaN) a gene, found {self.threshold}"
            raise ValueError(msg)

    @classmethod
    def fit(cls, fitted: NDArray[np.floating], counts: NDArray[np.number]) -> HighLow:
        """Take each gene's median over the training spots.

        Parameters
        ----------
        fitted
            (spot, gene) fitted mean of the ensemble at reference depth, that is, depth-normalised.
        counts
            (spot, gene) measured, to see which genes were detected in at least 20 % of the spots.
        """
        if fitted.shape != counts.shape:
            msg = f"expected fitted means and counts of one shape, found {fitted.shape} and {counts.shape}"
            raise ValueError(msg)
        detected = (np.asarray(counts) > 0).mean(axis=0) >= LEAST_DETECTED
        return cls(np.where(detected, np.median(fitted, axis=0), np.nan).astype(np.float32))

    @property
    def offered(self) -> NDArray[np.bool_]:
        """(gene,) whether the gene has a threshold."""
        return ~np.isnan(self.threshold)

    def probability(self, mean: NDArray[np.floating], total_count: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return P(high) of each place and gene, NaN for genes without a threshold.

        Parameters
        ----------
        mean
            (member, place, gene) expected counts of each member at reference depth.
        total_count
            (member, gene).

        Returns
        -------
        ndarray
            (place, gene).
        """
        chance = np.full(mean.shape[1:], np.nan, dtype=np.float32)
        genes = self.offered
        limit = self.threshold[genes].astype(np.float64)
        members = [
            special.gammaincc(r, r * limit / np.maximum(mu, 1e-30))
            for mu, r in zip(
                mean[:, :, genes].astype(np.float64), total_count[:, None, genes].astype(np.float64), strict=True
            )
        ]
        chance[:, genes] = np.mean(members, axis=0)
        return chance

    def take(self, columns: NDArray[np.intp]) -> HighLow:
        """Return the thresholds of some genes, in that order."""
        return HighLow(self.threshold[columns])
