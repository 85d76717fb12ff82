"""High or low: how well a probability tells spots above a gene's threshold from those below.

A spot is *high* where its depth-normalised count is above the threshold that was set on the training spots; the label
carries the noise of sequencing. AUROC and average precision (AUPRC) ask for the order alone, the Brier score and the
expected calibration error (ECE) for the probability itself. Each figure is a mean over genes, and each interval is over
resampled spatial blocks.

Whether a count of 0 or 1 is above the threshold is mostly a matter of sequencing depth, so that depth alone gets an
AUROC far above one half. ``auroc_given_depth`` compares only spots of the same tenth of measured depth: there it gets
next to nothing, and what is above one half is signal of the gene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stimage_qupath.validation.bootstrap import BlockBootstrap, Interval, mean_over_genes
from stimage_qupath.validation.rank_test import pair_wins

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

TENTHS = 10
"""Parts of equal size by measured depth, within which ``auroc_given_depth`` compares spots."""
FIGURES = ("auroc_given_depth", "auroc", "auprc", "brier", "ece")
BINS = 10
"""Equal parts of 0 to 1 within which the ECE compares probability and share."""


def is_high(counts: NDArray[np.number], size: Float, threshold: NDArray[np.floating]) -> Bool:
    """Return which spots are high, (spot, gene); genes without a threshold (NaN) are low everywhere.

    Parameters
    ----------
    counts
        (spot, gene) measured.
    size
        (spot,) depth in reference depths.
    threshold
        (gene,) counts at reference depth.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(np.asarray(counts) > size[:, None] * threshold)


def chance_above(
    mean: NDArray[np.floating], total_count: NDArray[np.floating], size: Float, threshold: NDArray[np.floating]
) -> Float:
    """Return the chance that a spot's depth-normalised count is above a threshold, (spot, gene).

    ``P(Y > k) = I_p(k + 1, r)`` with ``p = s mu / (s mu + r)`` and ``k`` the largest count that is not above ``s t``;
    the mean over members.

    Parameters
    ----------
    mean
        (member, spot, gene) at reference depth.
    total_count
        (member, gene).
    size
        (spot,) depth in reference depths.
    threshold
        (gene,) counts at reference depth, none of them NaN.
    """
    least = np.floor(size[:, None] * threshold.astype(np.float64)) + 1.0
    found = np.zeros(mean.shape[1:])
    for mu, r in zip(mean.astype(np.float64), total_count.astype(np.float64), strict=True):
        scaled = size[:, None] * mu
        found += special.betainc(least, r, scaled / (scaled + r))
    return found / len(mean)


@dataclass(frozen=True, slots=True)
class HighFigures:
    """Figures of one method on one section.

    Attributes
    ----------
    auroc_given_depth, auroc, auprc, brier, ece
        Means over the genes that are high in some spots and low in others.
    """

    auroc_given_depth: Interval
    auroc: Interval
    auprc: Interval
    brier: Interval
    ece: Interval

    def to_dict(self) -> dict[str, dict[str, float | list[float]]]:
        """Return the figures as JSON has them."""
        return {name: getattr(self, name).to_dict() for name in FIGURES}

    def minus(self, other: HighFigures) -> HighFigures:
        """Return the paired differences to another method on the same spots."""
        return HighFigures(*(getattr(self, name).minus(getattr(other, name)) for name in FIGURES))


def high_figures(
    probability: NDArray[np.floating], high: Bool, depth: Float, bootstrap: BlockBootstrap
) -> HighFigures | None:
    """Score probabilities against labels; None where no gene has spots on both sides.

    Parameters
    ----------
    probability
        (spot, gene) within [0, 1].
    high
        (spot, gene).
    depth
        (spot,) measured.
    bootstrap
        Resamples of the section's blocks.
    """
    both = high.any(axis=0) & ~high.all(axis=0)
    if not both.any():
        return None
    chance, label = probability[:, both].astype(np.float64), high[:, both]
    tenth = np.argsort(np.argsort(depth, kind="stable"), kind="stable") * TENTHS // len(depth)
    whole = np.zeros(len(depth), dtype=np.int64)
    genes = range(label.shape[1])
    given = [resampled_auroc(chance[:, g], label[:, g], tenth, bootstrap) for g in genes]
    plain = [resampled_auroc(chance[:, g], label[:, g], whole, bootstrap) for g in genes]
    precision = [average_precision(chance[:, g], label[:, g], bootstrap.weights) for g in genes]
    return HighFigures(
        auroc_given_depth=_mean(given),
        auroc=_mean(plain),
        auprc=_mean(precision),
        brier=bootstrap.figure((chance - label) ** 2),
        ece=Interval.of(expected_calibration_error(chance, label, bootstrap)),
    )


def _mean(genes: list[Float]) -> Interval:
    return Interval.of(mean_over_genes(np.stack(genes, axis=1)))


def resampled_auroc(chance: Float, label: Bool, stratum: NDArray[np.int64], bootstrap: BlockBootstrap) -> Float:
    """Return the share of pairs of a high and a low spot of one stratum that are in order, ties one half, (resample,).

    NaN where a resample has no such pair.

    Parameters
    ----------
    chance, label
        (spot,) probability and truth.
    stratum
        (spot,) spots of different strata are not compared.
    bootstrap
        Resamples of blocks.
    """
    blocks = bootstrap.times.shape[1]
    won = np.zeros(len(bootstrap.times))
    pairs = np.zeros(len(bootstrap.times))
    for one in np.unique(stratum):
        rows = stratum == one
        unit = bootstrap.block[rows] + blocks * ~label[rows]  # the high spots of each block, then its low ones
        wins = pair_wins(chance[rows], unit, 2 * blocks)[:blocks, blocks:]
        high, low = np.bincount(unit, minlength=2 * blocks).reshape(2, blocks).astype(np.float64)
        won += ((bootstrap.times @ wins) * bootstrap.times).sum(axis=1)
        pairs += (bootstrap.times @ high) * (bootstrap.times @ low)
    return np.asarray(np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


def average_precision(chance: Float, label: Bool, weights: Float) -> Float:
    """Return ``sum_k (R_k - R_(k-1)) P_k`` over the different probabilities from high to low, (resample,).

    Parameters
    ----------
    chance, label
        (spot,) probability and truth.
    weights
        (resample, spot) how often each spot appears.
    """
    order = np.argsort(-chance, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(chance[order]) != 0, True))  # spots of equal probability enter together
    taken = weights[:, order]
    hits = np.cumsum(taken * label[order], axis=1)[:, ends]
    called = np.cumsum(taken, axis=1)[:, ends]
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    gained = np.diff(hits, axis=1, prepend=0.0)
    total = hits[:, -1]
    area = (gained * precision).sum(axis=1)
    return np.asarray(np.divide(area, total, out=np.full(len(total), np.nan), where=total > 0))


def expected_calibration_error(chance: Float, label: Bool, bootstrap: BlockBootstrap) -> Float:
    """Return ``sum_bins n_b / n |mean probability - share of high|`` over all spots and genes, (1 + replicate,)."""
    bin_of = np.minimum((chance * BINS).astype(np.int64), BINS - 1)
    gap = np.stack([((chance - label) * (bin_of == b)).sum(axis=1) for b in range(BINS)], axis=1)
    return np.asarray(np.abs(bootstrap.sums(gap)).sum(axis=1) / (bootstrap.size[:, 0] * label.shape[1]))
