"""Predicted distributions of counts, and every score of them that needs the distribution and not only its mean.

An ensemble says of each count a mixture of negative binomials with equal weights. All scores of a count come from one
walk over ``k = 0, 1, 2, ...``, in which the probability of ``k`` is one exponential a member and the distribution
function its running sum:

* ``F(y)`` and ``F(y - 1)``, of which the randomised probability integral transform is made;
* the continuous ranked probability score ``sum_k (F(k) - [k >= y])^2``, exact up to a bound. What lies beyond ``K`` is
  at most ``(1 - F(K)) sum_{k > K} (1 - F(k))``, and the last sum is the mean minus what was summed so far;
* central intervals of each level, whether they hold the count, and the probability the model itself gives them.
  Steps make a "90 %" interval of counts hold more than 90 %, so that plain coverage has to be compared with that.

References
----------
T. Gneiting and A. E. Raftery. Strictly proper scoring rules, prediction, and estimation. Journal of the American
Statistical Association 102:359-378, 2007 (the score of counts is that of Czado, Gneiting and Held 2009,
doi 10.1111/j.1541-0420.2009.01191.x).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

Float = NDArray[np.float64]
LevelMap: TypeAlias = Callable[[Float, NDArray[np.intp]], Float]
"""``(F, genes) -> G(F)``: a recalibration of distribution functions, (spot, some genes)."""

LEVELS = (0.5, 0.8, 0.9, 0.95)
TOLERANCE = 1e-4
"""Of a score, relative to one plus itself; its third decimal is never printed."""
MOST_STEPS = 100_000
"""Where a walk ends at the latest: a prediction that far out is wrong, and its score is then too small."""
AT_ONCE = 100_000
"""Probabilities that one step of a walk computes: enough to hide the price of a step, little enough for the cache."""
GENES_AT_ONCE = 32
"""Genes of like means walk together, so that a few abundant ones do not lengthen the walk of all."""


@dataclass(frozen=True, slots=True)
class CountMixture:
    """Equal mixture of negative binomials for each spot and gene.

    Attributes
    ----------
    mean
        (member, spot, gene) means.
    total_count
        (member, 1 or spot, gene); variance of a member is ``mean + mean^2 / total_count``.
    """

    mean: Float
    total_count: Float

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and values outside the family."""
        wanted = [(self.mean.shape[0], n, self.mean.shape[2]) for n in (1, self.mean.shape[1])]
        if self.total_count.shape not in wanted:
            msg = f"expected total_count of shape {wanted[0]} or {wanted[1]}, found {self.total_count.shape}"
            raise ValueError(msg)
        if not (self.mean > 0).all() or not (self.total_count > 0).all():
            msg = "expected means and total_count above 0, found others; hold log means within a range first"
            raise ValueError(msg)

    def at_depth(self, size: Float) -> CountMixture:
        """Return the mixture at sequencing depth ``size`` (spot,), in reference depths; total_count stays."""
        return CountMixture(self.mean * size[None, :, None], self.total_count)

    @property
    def expected(self) -> Float:
        """Mean of the mixture, (spot, gene)."""
        return np.asarray(self.mean.mean(axis=0))

    @property
    def aleatoric(self) -> Float:
        """Mean variance of the members, (spot, gene)."""
        return np.asarray((self.mean + self.mean**2 / self.total_count).mean(axis=0))

    @property
    def epistemic(self) -> Float:
        """Variance of the members' means, (spot, gene)."""
        return np.asarray(self.mean.var(axis=0))

    @property
    def epistemic_log_sd(self) -> Float:
        """Standard deviation of the members' log means, (spot, gene)."""
        return np.asarray(np.log(self.mean).std(axis=0))

    def of_genes(self, genes: NDArray[np.intp]) -> CountMixture:
        """Return the mixture of some genes."""
        return CountMixture(self.mean[:, :, genes], self.total_count[:, :, genes])


@dataclass(frozen=True, slots=True)
class Scored:
    """What one walk says of each count, all (spot, gene).

    Attributes
    ----------
    cdf, cdf_below
        ``F(y)`` and ``F(y - 1)``.
    crps
        Continuous ranked probability score, counts; less is better.
    inside
        Level to whether the central interval holds the count.
    expected_inside
        Level to the probability that the model gives its interval.
    """

    cdf: Float
    cdf_below: Float
    crps: Float
    inside: dict[float, NDArray[np.bool_]]
    expected_inside: dict[float, Float]


def score_counts(
    mixture: CountMixture, counts: Float, *, levels: tuple[float, ...] = LEVELS, level_map: LevelMap | None = None
) -> Scored:
    """Score each count by its predicted distribution at the depth it was measured at.

    Parameters
    ----------
    mixture
        At the depth of each spot.
    counts
        (spot, gene) whole numbers.
    levels
        Of the central intervals.
    level_map
        Recalibration that the distribution functions go through, or None.
    """
    _check(mixture, counts)
    cdf, below, crps = (np.empty(counts.shape) for _ in range(3))
    inside = {level: np.empty(counts.shape, dtype=bool) for level in levels}
    expected = {level: np.empty(counts.shape) for level in levels}
    for genes in _groups(mixture, counts):
        walk = _Walk(mixture.of_genes(genes), counts[:, genes], levels, _mapping(level_map, genes))
        walk.run()
        cdf[:, genes], below[:, genes], crps[:, genes] = walk.at, walk.below, walk.crps
        for i, level in enumerate(levels):
            (low, low_below), (high, high_at) = walk.quantile(2 * i), walk.quantile(2 * i + 1, after=True)
            inside[level][:, genes] = (counts[:, genes] >= low) & (counts[:, genes] <= high)
            expected[level][:, genes] = high_at - low_below
    return Scored(cdf, below, crps, inside, expected)


def _mapping(level_map: LevelMap | None, genes: NDArray[np.intp]) -> Callable[[Float], Float]:
    return (lambda values: values) if level_map is None else (lambda values: level_map(values, genes))


def cumulative(mixture: CountMixture, counts: Float, *, level_map: LevelMap | None = None) -> tuple[Float, Float]:
    """Return ``F(y)`` and ``F(y - 1)`` of each count, (spot, gene) each; arguments as :func:`score_counts`."""
    _check(mixture, counts)
    at, below = np.empty(counts.shape), np.empty(counts.shape)
    for genes in _groups(mixture, counts):
        walk = _Walk(mixture.of_genes(genes), counts[:, genes], (), _mapping(level_map, genes))
        walk.run(only_counts=True)
        at[:, genes], below[:, genes] = walk.at, walk.below
    return at, below


def marginal_over_depth(
    mixture: CountMixture, counts: Float, sizes: Float, *, level_map: LevelMap | None = None
) -> tuple[Float, Float]:
    """Return ``F(y)`` and ``F(y - 1)`` where the depth of a spot is not known, but drawn from training's.

    Parameters
    ----------
    mixture
        At reference depth.
    counts
        (spot, gene).
    sizes
        (node,) depths of equal probability, in reference depths.
    level_map
        As for :func:`score_counts`.
    """
    found = [cumulative(mixture.at_depth(np.full(len(counts), size)), counts, level_map=level_map) for size in sizes]
    return np.mean([at for at, _ in found], axis=0), np.mean([below for _, below in found], axis=0)


def _check(mixture: CountMixture, counts: Float) -> None:
    if counts.shape != mixture.mean.shape[1:]:
        msg = f"expected counts of shape {mixture.mean.shape[1:]}, found {counts.shape}"
        raise ValueError(msg)
    if counts.size and (counts.min() < 0 or (counts % 1).any()):
        msg = "expected whole counts of at least 0, found others; pass raw counts"
        raise ValueError(msg)


def _groups(mixture: CountMixture, counts: Float) -> Iterator[NDArray[np.intp]]:
    """Yield groups of genes whose walks are about as long."""
    reach = np.maximum(counts.max(axis=0, initial=0), mixture.mean.max(axis=(0, 1), initial=0))
    order = np.argsort(reach, kind="stable")
    for start in range(0, len(order), GENES_AT_ONCE):
        yield order[start : start + GENES_AT_ONCE]


class _Walk:
    """Sums over k for one group of genes."""

    def __init__(
        self, mixture: CountMixture, counts: Float, levels: tuple[float, ...], level_map: Callable[[Float], Float]
    ) -> None:
        mean, r = mixture.mean, mixture.total_count
        self.counts, self.r, self.map = counts, r, level_map
        self.log_start = -r * np.log1p(mean / r)
        self.log_ratio = -np.log1p(r / mean)
        self.left = mixture.expected  # of the sum of 1 - F
        self.sum, self.cdf, self.crps = (np.zeros(counts.shape) for _ in range(3))
        self.at, self.below = np.zeros(counts.shape), np.zeros(counts.shape)
        self.targets = np.array([t for level in levels for t in ((1 - level) / 2, (1 + level) / 2)])
        shape = (len(self.targets), *counts.shape)
        self.crossed, self.before, self.after = np.full(shape, np.inf), np.zeros(shape), np.ones(shape)

    def run(self, *, only_counts: bool = False) -> None:
        """Walk until every score is exact enough, or only as far as the greatest count."""
        last = int(self.counts.max(initial=0))
        stride = max(1, AT_ONCE // max(self.log_ratio.size, 1))
        for start in range(0, MOST_STEPS, stride):
            self._steps(start, stride, only_counts=only_counts)
            if start + stride > last and (only_counts or self._is_exact()):
                return

    def _steps(self, start: int, stride: int, *, only_counts: bool) -> None:
        """Add ``stride`` terms from ``start`` on; arrays are (term, spot, gene)."""
        k = np.arange(start, start + stride, dtype=np.float64)[:, None, None, None]
        log_choose = special.gammaln(k + self.r) - special.gammaln(self.r) - special.gammaln(k + 1)
        # In logs from the start: with a large mean and total_count the probability of 0 is below the smallest float.
        probability = np.exp(log_choose + self.log_start + k * self.log_ratio).mean(axis=1)
        sums = np.minimum(self.sum + np.cumsum(probability, axis=0), 1.0)
        cdf = self.map(sums)
        before = np.concatenate([self.cdf[None], cdf[:-1]])
        self.sum, self.cdf = sums[-1], cdf[-1]
        here = (self.counts >= start) & (self.counts < start + stride)
        index = np.where(here, self.counts - start, 0).astype(np.intp)[None]
        self.at = np.where(here, np.take_along_axis(cdf, index, axis=0)[0], self.at)
        self.below = np.where(here, np.take_along_axis(before, index, axis=0)[0], self.below)
        if only_counts:
            return
        self.crps += ((cdf - (self.counts <= k[:, 0])) ** 2).sum(axis=0)
        self.left = np.maximum(self.left - (1 - sums).sum(axis=0), 0)
        for i, target in enumerate(self.targets):
            now = (cdf[-1] >= target) & np.isinf(self.crossed[i])
            if now.any():
                first = (cdf >= target).argmax(axis=0)
                values = [start + first, *(np.take_along_axis(of, first[None], axis=0)[0] for of in (before, cdf))]
                for kept, value in zip((self.crossed[i], self.before[i], self.after[i]), values, strict=True):
                    kept[now] = value[now]

    def _is_exact(self) -> bool:
        rest = (1 - self.cdf) * self.left
        return bool((rest <= TOLERANCE * (1 + self.crps)).all() and np.isfinite(self.crossed).all())

    def quantile(self, index: int, *, after: bool = False) -> tuple[Float, Float]:
        """Return the smallest count that reaches a target, and F just before or at it."""
        return self.crossed[index], (self.after if after else self.before)[index]
