"""Point metrics of predicted against measured expression, each with a spatial-block bootstrap interval.

Symbols: ``y`` (spot, gene) raw counts; ``l`` (spot,) measured total of the spot over all genes; ``L`` the model's
reference total; ``p`` (gene,) share of the gene in the pooled training counts; ``m`` (spot, gene) predicted mean at
reference depth. Nothing predicted may depend on ``y`` or ``l``; both appear on the measured side alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from stimage_qupath.spots.residuals import RESIDUAL_THETA, column_pearson, pearson_residuals
from stimage_qupath.validation.bootstrap import BlockBootstrap, Column, Interval, mean_over_genes, resampled_pearson

__all__ = ["Interval", "Measured", "Scorer", "gene_residual_pcc", "partial_pearson", "point_metrics"]

Float = NDArray[np.float64]

KEPT_ABOVE = 0.1
"""STimage averages only over genes whose correlation is above this; we print it for comparison alone."""
LEAST_SHARE_OF_RATE = 0.01
"""Floor of a mean in the deviance, in gene means: a prediction of exactly 0 has an infinite one."""


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

    counts: Float
    totals: Float
    positions_um: Float

    def __post_init__(self) -> None:
        """Refuse arrays of different length and spots without counts."""
        n = len(self.counts)
        if len(self.totals) != n or self.positions_um.shape != (n, 2):
            msg = f"expected {n} totals and positions, found {len(self.totals)} and {self.positions_um.shape}"
            raise ValueError(msg)
        if n and self.totals.min() <= 0:
            msg = "expected spots with at least one count, found a total of 0; drop such spots first"
            raise ValueError(msg)


def depth_normalised(counts: Float, totals: Float, reference: float) -> Float:
    """Return counts scaled to the reference total, (spot, gene)."""
    return counts * (reference / totals)[:, None]


def partial_pearson(a: Float, b: Float, given: Float, weights: Float | None = None) -> Float:
    """Return the correlation of the columns of ``a`` and ``b`` after a straight line in ``given`` is taken out of both.

    ``(r_ab - r_ag r_bg) / sqrt((1 - r_ag^2)(1 - r_bg^2))``, (gene,); 0 and NaN as in :func:`column_pearson`.
    """
    covariate = np.broadcast_to(given[:, None], a.shape)
    return _partial(
        column_pearson(a, b, weights), column_pearson(a, covariate, weights), column_pearson(b, covariate, weights)
    )


def _partial(r_ab: Float, r_ag: Float, r_bg: Float) -> Float:
    r_ag, r_bg = np.nan_to_num(r_ag), np.nan_to_num(r_bg)
    rest = (1 - r_ag**2) * (1 - r_bg**2)
    top = np.nan_to_num(r_ab) - r_ag * r_bg
    r = np.divide(top, np.sqrt(np.maximum(rest, 0)), out=np.zeros_like(top), where=rest > 1e-12)
    return np.where(np.isnan(r_ab), np.nan, np.clip(r, -1, 1))


def column_spearman(a: Float, b: Float) -> Float:
    """Return the rank correlation of each column, ties averaged, (gene,)."""
    return column_pearson(stats.rankdata(a, axis=0), stats.rankdata(b, axis=0))


def nb_deviance(counts: Float, mean: Float, total_count: float = RESIDUAL_THETA) -> Float:
    """Return the unit deviance of each count, ``2 [y log(y / m) - (y + r) log((y + r) / (m + r))]``.

    The dispersion is held at that of the null for every method, so that methods differ by their means alone.
    """
    ratio = (counts + total_count) * np.log((counts + total_count) / (mean + total_count))
    return np.asarray(2 * (special.xlogy(counts, counts / mean) - ratio))


@dataclass(frozen=True, slots=True)
class Scorer:
    """The measured side of a section, prepared once for all methods that are scored on it.

    Parameters
    ----------
    measured
        Held-out counts.
    rates
        (gene,) shares in the training counts.
    reference_total
        Total at which means are meant.
    replicates, seed
        Of the bootstrap over spatial blocks.
    """

    measured: Measured
    rates: Float
    reference_total: float
    replicates: int = 1000
    seed: int = 0
    bootstrap: BlockBootstrap = field(init=False)
    _normalised: Column = field(init=False)
    _raw: Column = field(init=False)
    _residual: Column = field(init=False)
    _ranks: Column = field(init=False)
    _log_total: Column = field(init=False)

    def __post_init__(self) -> None:
        """Compute what does not depend on the prediction."""
        m = self.measured
        bootstrap = BlockBootstrap.draw(m.positions_um, replicates=self.replicates, seed=self.seed)
        normalised = np.log1p(depth_normalised(m.counts, m.totals, self.reference_total))
        prepared = {
            "_normalised": normalised,
            "_raw": np.log1p(m.counts),
            "_residual": pearson_residuals(m.counts, m.totals, self.rates),
            "_ranks": stats.rankdata(normalised, axis=0),
            "_log_total": np.log(m.totals)[:, None],
        }
        object.__setattr__(self, "bootstrap", bootstrap)
        for name, values in prepared.items():
            object.__setattr__(self, name, Column.of(bootstrap, values))

    def point(self, predicted_mean: Float, *, predicted_residual: Float | None = None) -> dict[str, Interval]:
        """Return the protocol's figures, each over genes; see :func:`point_metrics`."""
        boot = self.bootstrap
        log_mean = np.log1p(predicted_mean)
        said = log_rate(predicted_mean) if predicted_residual is None else predicted_residual
        line, ranks = Column.of(boot, log_mean), Column.of(boot, stats.rankdata(log_mean, axis=0))
        normalised = resampled_pearson(boot, self._normalised, line)
        with_depth = (resampled_pearson(boot, c, self._log_total) for c in (self._normalised, line))
        raw = resampled_pearson(boot, self._raw, line)
        per_gene = {
            "pcc_residual_mean": resampled_pearson(boot, self._residual, Column.of(boot, said)),
            "pcc_partial_depth_mean": _partial(normalised, *with_depth),
            "pcc_normalised_mean": normalised,
            "pcc_log1p_raw_mean": raw,
        }
        figures = {name: Interval.of(mean_over_genes(values)) for name, values in per_gene.items()}
        figures["pcc_log1p_raw_median_above_0.1"] = Interval.of(_median_above(raw))
        figures["spearman_mean"] = Interval.of(mean_over_genes(resampled_pearson(boot, self._ranks, ranks)))
        return figures | self._errors(predicted_mean)

    def _errors(self, predicted_mean: Float) -> dict[str, Interval]:
        """Return the errors of the mean: of log1p normalised counts, and the NB deviance at the measured depth."""
        m = self.measured
        truth = np.log1p(depth_normalised(m.counts, m.totals, self.reference_total))
        squared = self.bootstrap.means((truth - np.log1p(predicted_mean)) ** 2)
        floor = LEAST_SHARE_OF_RATE * np.maximum(self.rates, 1e-12) * self.reference_total
        at_depth = np.maximum(predicted_mean, floor) * (m.totals / self.reference_total)[:, None]
        return {
            "rmse_normalised_mean": Interval.of(mean_over_genes(np.sqrt(np.maximum(squared, 0)))),
            "nb_deviance_mean": self.bootstrap.figure(nb_deviance(m.counts, at_depth)),
        }

    def residual_by_gene(self, predicted_mean: Float, *, predicted_residual: Float | None = None) -> Float:
        """Return ``pcc_residual`` of each gene in each resample, (1 + replicate, gene); NaN where it has no truth."""
        said = log_rate(predicted_mean) if predicted_residual is None else predicted_residual
        return resampled_pearson(self.bootstrap, self._residual, Column.of(self.bootstrap, said))

    def kept_above(self, predicted_mean: Float) -> int:
        """Return how many genes ``pcc_log1p_raw_median_above_0.1`` is over."""
        raw = column_pearson(np.log1p(self.measured.counts), np.log1p(predicted_mean))
        return int((np.nan_to_num(raw) > KEPT_ABOVE).sum())


def log_rate(predicted_mean: Float) -> Float:
    """Return the log of predicted means, kept finite."""
    return np.log(np.maximum(predicted_mean, 1e-12))


def point_metrics(
    measured: Measured,
    predicted_mean: Float,
    *,
    rates: Float,
    reference_total: float,
    predicted_residual: Float | None = None,
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
        ``pcc_log1p_raw_median_above_0.1``, ``spearman_mean``, ``rmse_normalised_mean`` and ``nb_deviance_mean``.
    """
    scorer = Scorer(measured, rates, reference_total, replicates, seed)
    return scorer.point(predicted_mean, predicted_residual=predicted_residual)


def gene_residual_pcc(
    measured: Measured, predicted_mean: Float, *, rates: Float, replicates: int = 500, seed: int = 0
) -> tuple[Float, Float]:
    """Return each gene's ``pcc_residual`` and its resamples, (gene,) and (replicate, gene); 0 for constants."""
    boot = BlockBootstrap.draw(measured.positions_um, replicates=replicates, seed=seed)
    truth = Column.of(boot, pearson_residuals(measured.counts, measured.totals, rates))
    found = np.nan_to_num(resampled_pearson(boot, truth, Column.of(boot, log_rate(predicted_mean))))
    return found[0], found[1:]


def _median_above(r: Float) -> Float:
    """Return the median of each row's values above 0.1, 0 where there is none."""
    kept = np.where(np.nan_to_num(r) > KEPT_ABOVE, r, np.nan)
    some = np.isfinite(kept).any(axis=1)
    out = np.zeros(len(r))
    out[some] = np.nanmedian(kept[some], axis=1)
    return out
