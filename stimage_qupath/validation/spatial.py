"""Whether a gene is patterned in space, whether two go together, and where the clusters are.

Symbols: ``z`` values about their mean, ``w`` neighbours with every row summing to 1, ``n`` places, ``m2`` the mean of
``z^2``. Global ``I = sum_i z_i (w z)_i / sum_i z_i^2`` (P. A. P. Moran, Biometrika 37:17-23, 1950) with its variance
under randomisation (A. D. Cliff and J. K. Ord, Spatial Processes, 1981); bivariate
``I_xy = sum_i x_i (w y)_i / sqrt(sum x^2 sum y^2)`` (D. Wartenberg, Geogr. Anal. 17:263-283, 1985); local
``I_i = (n - 1) / n z_i (w z)_i / m2`` (L. Anselin, Geogr. Anal. 27:93-115, 1995), tested by conditional permutation.
All are those of esda, which the tests hold them to; its compiler alone takes longer than a section takes here.

Predictions of neighbouring nuclei share most of their input, so that theirs are patterned whatever the tissue is like.
:func:`ring_weights` gives neighbours that are farther apart than the model's window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from stimage_qupath.spots.residuals import CONSTANT_VARIANCE
from stimage_qupath.spots.spatial_genes import morans_i, neighbour_weights

__all__ = ["ClusterMap", "MoranTest", "bivariate_moran", "local_clusters", "moran_test", "neighbour_weights",
           "ring_weights"]  # fmt: skip

Float = NDArray[np.float64]

NUCLEUS_NEIGHBOURS: Final = 10
CLUSTERS: Final = ("not significant", "high among high", "low among low", "high among low", "low among high")
"""What the codes of a :class:`ClusterMap` mean."""
CANDIDATES: Final = 64
"""Places drawn for each one while its partners in a ring are sought."""
ROWS: Final = 4096
"""Places whose candidates are in memory at once."""


@dataclass(frozen=True, slots=True)
class MoranTest:
    """Moran's I of several genes.

    Attributes
    ----------
    value
        (gene,); 0 where a gene is constant.
    expected
        Without a pattern: ``-1 / (n - 1)``.
    z
        (gene,) distance from it in standard deviations under randomisation; NaN where a gene is constant.
    q
        (gene,) two-sided p of ``z``, adjusted over the genes after Benjamini and Hochberg; 1 where a gene is constant.
    """

    value: Float
    expected: float
    z: Float
    q: Float


def moran_test(values: Float, weights: sparse.csr_matrix) -> MoranTest:
    """Return Moran's I of each column of ``values``, (place, gene), with its test by the normal approximation.

    Parameters
    ----------
    values
        (place, gene), finite; at least four places.
    weights
        (place, place), every row summing to 1 and nothing on the diagonal.

    Raises
    ------
    ValueError
        There are fewer than four places.
    """
    n = len(values)
    if n < 4:
        msg = f"expected at least four places for a test of Moran's I, found {n}"
        raise ValueError(msg)
    value, expected = morans_i(values, weights), -1 / (n - 1)
    centred = values - values.mean(axis=0)
    m2, m4 = (centred**2).mean(axis=0), (centred**4).mean(axis=0)
    varies = m2 > CONSTANT_VARIANCE
    kurtosis = np.divide(m4, m2**2, out=np.full_like(m2, 3.0), where=varies)
    sd = np.sqrt(_randomised_variance(weights, kurtosis))
    z = np.where(varies, (value - expected) / sd, np.nan)
    p = np.where(varies, 2 * stats.norm.sf(np.abs(z)), 1.0)
    return MoranTest(value, expected, z, np.asarray(stats.false_discovery_control(p)) if len(p) else p)


def _randomised_variance(weights: sparse.csr_matrix, kurtosis: Float) -> Float:
    """Return the variance of I over all permutations of the values (Cliff and Ord 1981, p. 21)."""
    n = weights.shape[0]
    s0 = float(weights.sum())
    s1 = float((weights + weights.T).power(2).sum()) / 2
    sums = np.asarray(weights.sum(axis=0)).ravel() + np.asarray(weights.sum(axis=1)).ravel()
    s2 = float((sums**2).sum())
    first = n * ((n**2 - 3 * n + 3) * s1 - n * s2 + 3 * s0**2)
    second = kurtosis * ((n**2 - n) * s1 - 2 * n * s2 + 6 * s0**2)
    return np.asarray((first - second) / ((n - 1) * (n - 2) * (n - 3) * s0**2) - 1 / (n - 1) ** 2)


def bivariate_moran(first: Float, second: Float, weights: sparse.csr_matrix) -> Float:
    """Return how far the neighbours' ``second`` follows a place's ``first``, column by column, (gene,).

    It has no test here: two maps that are each smooth agree by chance far more often than permuted values do.

    Parameters
    ----------
    first, second
        (place, gene).
    weights
        (place, place), every row summing to 1.
    """
    x, y = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    shared = np.einsum("ij,ij->j", x, weights @ y)
    return np.asarray(np.divide(shared, scale, out=np.zeros_like(scale), where=scale > CONSTANT_VARIANCE * len(x)))


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """Local clusters of one gene.

    Attributes
    ----------
    value
        (place,) local Moran's I.
    p
        (place,) two-sided pseudo p, ``min(1, 2 (b + 1) / (B + 1))``.
    code
        (place,) place in :data:`CLUSTERS`; anything but 0 is significant after the control of false discoveries.
    """

    value: Float
    p: Float
    code: NDArray[np.uint8]


def local_clusters(
    values: Float, weights: sparse.csr_matrix, *, permutations: int = 999, seed: int = 0, rate: float = 0.05
) -> ClusterMap:
    """Return where high values stand among high ones and low among low.

    The null of a place: its neighbours hold any others of the values. The same draws serve all places, as in esda.

    Parameters
    ----------
    values
        (place,), finite.
    weights
        (place, place), the same number of equal weights in every row, as :func:`neighbour_weights` makes them.
    permutations, seed
        Draws of neighbours and their seed.
    rate
        Share of false discoveries among the places that are called clusters.
    """
    n = len(values)
    z = values - values.mean()
    m2 = float((z**2).mean())
    if m2 <= CONSTANT_VARIANCE:
        return ClusterMap(np.zeros(n), np.ones(n), np.zeros(n, dtype=np.uint8))
    lag = weights @ z
    above = _draws_above(z, lag, int(np.diff(weights.indptr)[0]), permutations, seed)
    least = np.minimum(above, permutations - above)
    p = np.minimum(1.0, 2 * (least + 1) / (permutations + 1))
    significant = stats.false_discovery_control(p) <= rate
    quadrant = np.where(z > 0, np.where(lag > 0, 1, 3), np.where(lag > 0, 4, 2))
    local = (n - 1) / n * z * lag / m2
    return ClusterMap(local, p, np.where(significant, quadrant, 0).astype(np.uint8))


def _draws_above(z: Float, lag: Float, neighbours: int, permutations: int, seed: int) -> NDArray[np.intp]:
    """Return how many draws of neighbours have a local I at least as large as that of each place, (place,).

    A draw is of places among the n - 1 others: number j is place j, or place j + 1 for those at j and before. So the
    mean of a draw takes only neighbours + 1 different values, by how many of its numbers come before the place itself.
    """
    n = len(z)
    rng = np.random.default_rng(seed)
    above = np.zeros(n, dtype=np.intp)
    places = np.arange(n)
    own = z * lag
    tolerance = 1e-12 * max(float(np.abs(own).max()), 1e-300)  # sums in another order are the same sum
    for _ in range(permutations):
        drawn = np.sort(rng.choice(n - 1, neighbours, replace=False))
        before = np.concatenate([[0.0], np.cumsum(z[drawn])])
        after = np.concatenate([np.cumsum(z[drawn + 1][::-1])[::-1], [0.0]])
        mean = (before + after) / neighbours
        above += z * mean[np.searchsorted(drawn, places)] >= own - tolerance
    return above


def ring_weights(
    positions_um: Float, *, inner_um: float, outer_um: float, neighbours: int = NUCLEUS_NEIGHBOURS, seed: int = 0
) -> sparse.csr_matrix | None:
    """Return weights between places that lie ``inner_um`` to ``outer_um`` apart, drawn at random.

    Parameters
    ----------
    positions_um
        (place, 2).
    inner_um, outer_um
        Distances.
    neighbours
        At most so many for each place.
    seed
        Of the draws.

    Returns
    -------
    csr_matrix or None
        All rows with a partner sum to the same, and all together to the number of places, as Moran's I needs it; None
        where fewer than half of the places have a partner.
    """
    n = len(positions_um)
    rng = np.random.default_rng(seed)
    rows, columns = [], []
    for start in range(0, n, ROWS):
        here = np.arange(start, min(start + ROWS, n))
        others = rng.integers(0, n, size=(len(here), CANDIDATES))
        distance = np.linalg.norm(positions_um[others] - positions_um[here, None], axis=2)
        fits = (distance >= inner_um) & (distance <= outer_um)
        fits &= np.cumsum(fits, axis=1) <= neighbours
        row, column = np.nonzero(fits)
        rows.append(here[row])
        columns.append(others[row, column])
    row, column = np.concatenate(rows), np.concatenate(columns)
    count = np.bincount(row, minlength=n)
    partnered = int((count > 0).sum())
    if partnered < n / 2:
        return None
    return sparse.csr_matrix((n / partnered / count[row], (row, column)), shape=(n, n))
