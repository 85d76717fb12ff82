"""The spatial-block bootstrap, as sums: each resample is a matrix product, however many genes there are.

Neighbouring spots are alike, so that resampling single spots would give intervals that are too narrow; blocks of
:data:`~stimage_qupath.spots.splits.BLOCK_UM` are drawn with replacement instead (Lahiri 2003, Resampling Methods for
Dependent Data). A figure that is a function of sums over spots needs the sums of each block only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stimage_qupath.spots.residuals import CONSTANT_VARIANCE
from stimage_qupath.spots.splits import BLOCK_UM, spatial_blocks

Float = NDArray[np.float64]

CONSTANT_SHARE = 1e-10
"""Share of a column's whole variance below which its variance in a resample is rounding error."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % bootstrap interval.

    Attributes
    ----------
    value
        The figure on all spots.
    ci
        2.5th and 97.5th percentile over resampled spatial blocks.
    replicates
        (replicate,) the figure in each resample, for paired differences; resamples are equal for equal seeds.
    """

    value: float
    ci: tuple[float, float]
    replicates: Float = field(repr=False, compare=False)

    @classmethod
    def of(cls, figures: Float) -> Self:
        """Return the interval of a figure whose first value is that of all spots, (1 + replicate,)."""
        low, high = np.percentile(figures[1:], [2.5, 97.5])
        return cls(value=float(figures[0]), ci=(float(low), float(high)), replicates=figures[1:])

    def to_dict(self) -> dict[str, float | list[float]]:
        """Return value and interval as JSON has them."""
        return {"value": self.value, "ci": list(self.ci)}

    def minus(self, other: Interval) -> Interval:
        """Return the paired difference to a figure from the same resamples."""
        return Interval.of(np.concatenate([[self.value - other.value], self.replicates - other.replicates]))

    @classmethod
    def mean_of(cls, intervals: list[Interval]) -> Self:
        """Return the mean of figures of different sections, whose resamples are independent of each other."""
        return cls.of(np.mean([np.concatenate([[i.value], i.replicates]) for i in intervals], axis=0))


@dataclass(frozen=True, slots=True)
class BlockBootstrap:
    """Resamples of the spatial blocks of one section.

    Attributes
    ----------
    times
        (1 + replicate, block) how often each block appears; the first row is the section as it is.
    block
        (spot,) index of each spot's block.
    """

    times: Float
    block: NDArray[np.int64]

    @classmethod
    def draw(cls, positions_um: Float, *, replicates: int, seed: int, block_um: float = BLOCK_UM) -> Self:
        """Draw resamples.

        Parameters
        ----------
        positions_um
            (spot, 2).
        replicates, seed
            Number of resamples and their seed.
        block_um
            Side of a block.
        """
        block = spatial_blocks(positions_um, block_um)
        n = int(block.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=replicates)
        return cls(times=np.concatenate([np.ones((1, n)), drawn]), block=block)

    @property
    def weights(self) -> Float:
        """How often each spot appears in each resample, (1 + replicate, spot)."""
        return self.times[:, self.block]

    @property
    def size(self) -> Float:
        """Spots in each resample, (1 + replicate, 1)."""
        return self.sums(np.ones((len(self.block), 1)))

    def sums(self, values: Float) -> Float:
        """Return the sum of each column over each resample, (1 + replicate, column)."""
        spots = np.arange(len(self.block))
        membership = sparse.csr_matrix((np.ones(len(spots)), (self.block, spots)))
        return np.asarray(self.times @ (membership @ values))

    def means(self, values: Float) -> Float:
        """Return the mean of each column over each resample, (1 + replicate, column)."""
        return self.sums(values) / self.size

    def figure(self, values: Float) -> Interval:
        """Return the mean over spots and columns with its interval; columns that are NaN throughout do not count."""
        return Interval.of(mean_over_genes(self.means(values)))


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one kind, (spot, gene), with what every correlation with them needs.

    Attributes
    ----------
    centred
        Values minus their mean over all spots.
    mean, variance
        (1 + replicate, gene) of the centred values; variance is 0 where it is rounding error.
    """

    centred: Float
    mean: Float
    variance: Float

    @classmethod
    def of(cls, bootstrap: BlockBootstrap, values: Float) -> Self:
        """Prepare values."""
        centred = values - values.mean(axis=0)
        mean = bootstrap.means(centred)
        variance = bootstrap.means(centred * centred) - mean**2
        whole = variance[0]
        nothing = (whole <= CONSTANT_VARIANCE) | (variance <= CONSTANT_SHARE * whole)
        return cls(centred, mean, np.where(nothing, 0.0, variance))


def resampled_pearson(bootstrap: BlockBootstrap, a: Column, b: Column) -> Float:
    """Return the correlation of each column in each resample, (1 + replicate, gene).

    0 where the prediction ``b`` is constant, NaN where the measurement ``a`` is.
    """
    covariance = bootstrap.means(a.centred * b.centred) - a.mean * b.mean
    scale = np.sqrt(a.variance * b.variance)
    r = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    return np.where(a.variance > 0, np.clip(r, -1, 1), np.nan)


def mean_over_genes(values: Float) -> Float:
    """Return the mean of each row over its finite values, 0 where there is none."""
    finite = np.isfinite(values)
    total = np.where(finite, values, 0.0).sum(axis=1)
    return np.asarray(total / np.maximum(finite.sum(axis=1), 1))
