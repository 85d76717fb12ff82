"""What any model must beat, each fitted to the training spots alone and named as in the evaluation protocol.

Two of them know nothing of a gene but how it goes with sequencing depth: ``predicted_depth`` reads the depth off the
image, ``observed_depth`` is told it. Whatever they score is not gene signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.spots.residuals import column_pearson, pearson_residuals

Float = NDArray[np.float64]

PENALTIES = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0)
NEIGHBOURS = 10
ORACLES = ("observed_depth",)
"""Baselines that use the held-out spot's own counts; they show what a score is worth and meet no target."""


@dataclass(frozen=True, slots=True)
class Spots:
    """Spots as baselines see them.

    Attributes
    ----------
    features
        (spot, feature), standardised by the training spots.
    counts
        (spot, gene).
    totals
        (spot,) total counts over all genes.
    section
        (spot,) index of the section.
    """

    features: Float
    counts: Float
    totals: Float
    section: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BaselinePrediction:
    """What a baseline says of the held-out spots.

    Attributes
    ----------
    mean
        (spot, gene) mean at reference depth.
    residual
        (spot, gene) Pearson residuals where the baseline predicts those directly, else None.
    """

    mean: Float
    residual: Float | None = None


def predict_baselines(
    train: Spots, test: Spots, *, reference_total: float, seed: int
) -> Mapping[str, BaselinePrediction]:
    """Return the prediction of every baseline for the test spots.

    Parameters
    ----------
    train, test
        Spots to fit to and to predict.
    reference_total
        Total at which means are meant.
    seed
        Of the permutation control.
    """
    rates = train.counts.sum(axis=0) / train.totals.sum()
    gene_mean = np.broadcast_to(reference_total * rates, test.counts.shape)
    normalised = np.log1p(train.counts * (reference_total / train.totals)[:, None])
    depth = np.log(train.totals)
    predicted_depth = _ridge(train.features, depth[:, None], test.features, train.section)
    shuffled = test.features[np.random.default_rng(seed).permutation(len(test.features))]
    residuals = _section_residuals(train)
    return {
        "gene_mean": BaselinePrediction(gene_mean),
        "ridge": _residual_baseline(_ridge(train.features, residuals, test.features, train.section), gene_mean),
        "ridge_features_permuted": _residual_baseline(
            _ridge(train.features, residuals, shuffled, train.section), gene_mean
        ),
        "nearest_feature": BaselinePrediction(np.expm1(_nearest(train.features, normalised, test.features))),
        "predicted_depth": _along_depth(depth, normalised, predicted_depth[:, 0]),
        "observed_depth": _along_depth(depth, normalised, np.log(test.totals)),
    }


def _section_residuals(train: Spots) -> Float:
    """Return residuals against each section's own rates, so that no whole-section difference is learnt."""
    residuals = np.zeros_like(train.counts)
    for section in np.unique(train.section):
        rows = train.section == section
        rates = train.counts[rows].sum(axis=0) / train.totals[rows].sum()
        residuals[rows] = pearson_residuals(train.counts[rows], train.totals[rows], rates)
    return residuals


def _residual_baseline(residual: Float, gene_mean: Float) -> BaselinePrediction:
    """Turn a residual r at the null of mean m and variance m + m^2 / 10 into the mean m + r sd, never below 0."""
    spread = np.sqrt(gene_mean + gene_mean**2 / 10)
    return BaselinePrediction(np.maximum(gene_mean + residual * spread, 0), residual)


def _ridge(features: Float, targets: Float, wanted: Float, section: NDArray[np.int64]) -> Float:
    """Fit a ridge, its penalty chosen by leaving out one training section at a time (fifths of the rows of one)."""
    groups = section if len(np.unique(section)) > 1 else np.arange(len(section)) * 5 // len(section)
    scores = np.zeros(len(PENALTIES))
    for group in np.unique(groups):
        rows = groups == group
        for k, fitted in enumerate(_ridge_path(features[~rows], targets[~rows], features[rows])):
            scores[k] += np.nan_to_num(column_pearson(targets[rows], fitted)).mean()
    return _ridge_path(features, targets, wanted)[int(scores.argmax())]


def _ridge_path(features: Float, targets: Float, wanted: Float) -> Sequence[Float]:
    """Return the ridge prediction at every penalty, from one singular value decomposition."""
    centre, mean = features.mean(axis=0), targets.mean(axis=0)
    left, singular, right = np.linalg.svd(features - centre, full_matrices=False)
    projected = left.T @ (targets - mean)
    rotated = (wanted - centre) @ right.T
    return [mean + (rotated * (singular / (singular**2 + penalty))) @ projected for penalty in PENALTIES]


def _nearest(features: Float, targets: Float, wanted: Float) -> Float:
    """Return the mean target of the nearest training spots in feature space."""
    distance = (wanted**2).sum(axis=1)[:, None] - 2 * wanted @ features.T + (features**2).sum(axis=1)
    nearest = np.argpartition(distance, min(NEIGHBOURS, len(features)) - 1, axis=1)[:, :NEIGHBOURS]
    return np.asarray(targets[nearest].mean(axis=1))


def _along_depth(depth: Float, normalised: Float, at: Float) -> BaselinePrediction:
    """Fit a straight line of each gene's log normalised counts along log depth, and read it off at some depths."""
    centred = depth - depth.mean()
    slope = centred @ (normalised - normalised.mean(axis=0)) / (centred @ centred)
    log_mean = normalised.mean(axis=0) + (at - depth.mean())[:, None] * slope
    return BaselinePrediction(np.maximum(np.expm1(log_mean), 0))
