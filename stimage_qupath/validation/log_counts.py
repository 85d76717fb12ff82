"""A negative binomial fitted to log values, as STimage fits it, to show what its intervals are worth.

STimage (Tan et al. 2026, doi 10.1038/s41467-026-68487-0) gives ``log1p(counts)`` to a likelihood of counts. Here the
mean of ``log1p(y)`` is a ridge on the same features, and ``r`` is by moments. A negative binomial cannot have less
variance than its mean, logs of counts have, and they are not whole numbers: its intervals are those of other data. The
coverage found is that of the quantiles, which are whole numbers, on ``log1p`` of the held-out counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stimage_qupath.validation.linear import LinearMap, fit_ridge
from stimage_qupath.validation.nb_glm import moment_total_count
from stimage_qupath.validation.predictive import LEVELS

Float = NDArray[np.float64]

LEAST_MEAN = 1e-3


@dataclass(frozen=True, slots=True)
class LogCounts:
    """The fitted comparison.

    Attributes
    ----------
    mean
        From features to the mean of log1p counts, not normalised by depth.
    total_count
        (gene,).
    """

    mean: LinearMap
    total_count: Float

    @classmethod
    def fit(cls, features: Float, counts: Float, section: NDArray[np.int64]) -> LogCounts:
        """Fit to training spots: (spot, feature), raw (spot, gene), (spot,)."""
        logs = np.log1p(counts)
        mean = fit_ridge(features, logs, section)
        return cls(mean, moment_total_count(logs, np.maximum(mean(features), LEAST_MEAN)))

    def reduced(self, features: Float, rank: int) -> LogCounts:
        """Return the same with a map of low rank; see :meth:`LinearMap.reduced`."""
        return LogCounts(self.mean.reduced(features, rank), self.total_count)

    def of_genes(self, genes: NDArray[np.intp]) -> LogCounts:
        """Return the comparison for some genes."""
        mean = self.mean
        return LogCounts(
            LinearMap(mean.centre, mean.left, mean.right[:, genes], mean.mean[genes]), self.total_count[genes]
        )

    def coverage(self, features: Float, counts: Float) -> dict[str, dict[str, float]]:
        """Return the share of held-out ``log1p(counts)`` in each central interval, beside what it expects itself."""
        logs = np.log1p(counts)
        mean = np.maximum(self.mean(features), LEAST_MEAN)
        distribution = stats.nbinom(self.total_count, self.total_count / (self.total_count + mean))
        found = {}
        for level in LEVELS:
            low, high = distribution.ppf((1 - level) / 2), distribution.ppf((1 + level) / 2)
            inside = (logs >= low) & (logs <= high)
            expected = distribution.cdf(high) - distribution.cdf(low - 1)
            found[f"{level:g}"] = {"found": float(inside.mean()), "expected": float(expected.mean())}
        return found
