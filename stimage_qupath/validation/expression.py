"""Point metrics of predicted against measured expression, each with a spatial-block bootstrap interval.

Symbols: ``y`` (spot, gene) raw counts; ``l`` (spot,) measured total of the spot over all genes; ``L`` the model's
reference total; ``p`` (gene,) share of the gene in the pooled training counts; ``m`` (spot, gene) predicted mean at
reference depth. Nothing predicted may depend on ``y`` or ``l``; both appear on the measured side alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stimage_qupath.spots.residuals import column_pearson, pearson_residuals
from stimage_qupath.spots.splits import BLOCK_UM, spatial_blocks

KEPT_ABOVE = 0.1
"""STimage averages only over genes whose correlation is above this; we print it for comparison alone."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Counts of one section and where they were taken.

    Attributes
    ----------
    counts
        (spot, gene) raw counts of the scored genes.
    totals
        (spot,) total counts over all genes of the assay.
    positions_um
        (spot, 2) x and y.
    """

    counts: NDArray[np.float64]
    totals: NDArray[np.float64]
    positions_um: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse arrays of different length and spots without counts."""
        n = len(self.counts)
        if len(self.totals) != n or self.positions_um.shape != (n, 2):
            msg = f"expected {n} totals and positions, found {len(self.totals)} and {self.positions_um.shape}"
            raise ValueError(msg)
        if n and self.totals.min() <= 0:
            msg = "expected spots with at least one count, found a total of 0; drop such spots first"
            raise ValueError(msg)


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
    replicates: NDArray[np.float64] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, float | list[float]]:
        """Return value and interval as JSON has them."""
        return {"value": self.value, "ci": list(self.ci)}

    def minus(self, other: Interval) -> Interval:
        """Return the paired difference to a figure from the same resamples."""
        return _interval(self.value - other.value, self.replicates - other.replicates)


def depth_normalised(counts: NDArray[np.float64], totals: NDArray[np.float64], reference: float) -> NDArray[np.float64]:
    """Return counts scaled to the reference total, (spot, gene)."""
    return counts * (reference / totals)[:, None]


def partial_pearson(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    given: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the correlation of the columns of ``a`` and ``b`` after a straight line in ``given`` is taken out of both.

    ``(r_ab - r_ag r_bg) / sqrt((1 - r_ag^2)(1 - r_bg^2))``, (gene,); 0 and NaN as in :func:`column_pearson`.
    """
    covariate = np.broadcast_to(given[:, None], a.shape)
    r_ab = column_pearson(a, b, weights)
    r_ag = np.nan_to_num(column_pearson(a, covariate, weights))
    r_bg = np.nan_to_num(column_pearson(b, covariate, weights))
    rest = (1 - r_ag**2) * (1 - r_bg**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(rest > 1e-12, (r_ab - r_ag * r_bg) / np.sqrt(rest), 0.0)
    return np.where(np.isnan(r_ab), np.nan, np.clip(r, -1, 1))


def column_spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank correlation of each column, ties averaged, (gene,)."""
    return column_pearson(stats.rankdata(a, axis=0), stats.rankdata(b, axis=0))


def point_metrics(
    measured: Measured,
    predicted_mean: NDArray[np.float64],
    *,
    rates: NDArray[np.float64],
    reference_total: float,
    predicted_residual: NDArray[np.float64] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the protocol's figures for one section, each a mean (or median) over genes.

    Parameters
    ----------
    measured
        Held-out counts.
    predicted_mean
        (spot, gene) predicted mean at reference depth.
    rates
        (gene,) shares in the training counts.
    reference_total
        Total at which ``predicted_mean`` is meant.
    predicted_residual
        (spot, gene) residuals where a method predicts those directly; else the log of the mean stands for them.
    replicates, seed
        Of the bootstrap over spatial blocks.

    Returns
    -------
    dict
        ``pcc_residual_mean``, ``pcc_partial_depth_mean``, ``pcc_normalised_mean``, ``pcc_log1p_raw_mean``,
        ``pcc_log1p_raw_median_above_0.1`` and ``spearman_mean``.
    """
    normalised = np.log1p(depth_normalised(measured.counts, measured.totals, reference_total))
    raw = np.log1p(measured.counts)
    residual = pearson_residuals(measured.counts, measured.totals, rates)
    log_mean = np.log1p(predicted_mean)
    log_residual = np.log(np.maximum(predicted_mean, 1e-12)) if predicted_residual is None else predicted_residual
    log_total = np.log(measured.totals)
    ranks = stats.rankdata(normalised, axis=0), stats.rankdata(log_mean, axis=0)

    figures: Mapping[str, Callable[[NDArray[np.float64] | None], float]] = {
        "pcc_residual_mean": lambda w: _mean(column_pearson(residual, log_residual, w)),
        "pcc_partial_depth_mean": lambda w: _mean(partial_pearson(normalised, log_mean, log_total, w)),
        "pcc_normalised_mean": lambda w: _mean(column_pearson(normalised, log_mean, w)),
        "pcc_log1p_raw_mean": lambda w: _mean(column_pearson(raw, log_mean, w)),
        "pcc_log1p_raw_median_above_0.1": lambda w: _median_above(column_pearson(raw, log_mean, w)),
        "spearman_mean": lambda w: _mean(column_pearson(ranks[0], ranks[1], w)),
    }
    weights = block_weights(measured.positions_um, replicates=replicates, seed=seed)
    return {name: _interval(figure(None), np.array([figure(w) for w in weights])) for name, figure in figures.items()}


def gene_residual_pcc(
    measured: Measured,
    predicted_mean: NDArray[np.float64],
    *,
    rates: NDArray[np.float64],
    replicates: int = 500,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each gene's ``pcc_residual`` and its resamples, (gene,) and (replicate, gene); 0 for constants."""
    residual = pearson_residuals(measured.counts, measured.totals, rates)
    log_mean = np.log(np.maximum(predicted_mean, 1e-12))
    weights = block_weights(measured.positions_um, replicates=replicates, seed=seed)
    resampled = np.stack([column_pearson(residual, log_mean, w) for w in weights])
    return np.nan_to_num(column_pearson(residual, log_mean)), np.nan_to_num(resampled)


def block_weights(
    positions_um: NDArray[np.float64], *, replicates: int, seed: int, block_um: float = BLOCK_UM
) -> NDArray[np.float64]:
    """Return how often each spot appears in each bootstrap sample of spatial blocks, (replicate, spot).

    Neighbouring spots are alike, so that resampling single spots would give intervals that are too narrow.
    """
    block = spatial_blocks(positions_um, block_um)
    n = int(block.max()) + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(n, np.full(n, 1 / n), size=replicates)
    return times[:, block].astype(np.float64)


def _mean(r: NDArray[np.float64]) -> float:
    return float(np.nanmean(r)) if np.isfinite(r).any() else 0.0


def _median_above(r: NDArray[np.float64]) -> float:
    kept = r[np.isfinite(r) & (r > KEPT_ABOVE)]
    return float(np.median(kept)) if kept.size else 0.0


def _interval(value: float, replicates: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(replicates, [2.5, 97.5])
    return Interval(value=value, ci=(float(low), float(high)), replicates=replicates)
