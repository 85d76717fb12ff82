"""From encoded sections to an ensemble: penalty, rank, dispersion by out-of-fold prediction; members by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.models.ensemble import Ensemble, Heads
from stimage_qupath.models.high_low import HighLow
from stimage_qupath.models.recalibration import Recalibration
from stimage_qupath.models.uncertainty import OutlierScore
from stimage_qupath.results import CancelCheck, Panel, ProgressCallback, stop_if
from stimage_qupath.spots.residuals import column_pearson
from stimage_qupath.spots.splits import BLOCK_UM, bootstrap_weights, leave_one_out, spatial_blocks
from stimage_qupath.training.dataset import EncodedSection
from stimage_qupath.training.factors import ResidualRidge, Spots, factor_scores, folds, out_of_fold_scores
from stimage_qupath.training.fit import fit_loadings, fit_total_count
from stimage_qupath.training.objectives import make_term
from stimage_qupath.training.recalibrate import Method, fit_recalibration

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge of the residuals, in units of the features' mean square; the inner split chooses among them."""
RANKS = (1, 2, 3, 4, 6, 8, 12)
"""Factors that all genes share; the inner split chooses."""
LOADING_PRECISION = 10.0
"""Of the prior on loadings: a factor's SD changes most genes by less than a third."""
LEAST_SD = 0.05
"""Floor of a feature's SD, in median SDs: what hardly varies in training must not be magnified on another slide."""
SPLIT_BLOCK_UM = 2 * BLOCK_UM
"""Blocks that stand for sections where there is only one section to split."""
POISSON_LOG_TOTAL_COUNT = 14.0
"""log r at which a negative binomial is a Poisson distribution to one part in a million."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the inner split chose.

    Attributes
    ----------
    penalty, rank
        The pair with the best score.
    scores
        Out-of-fold ``pcc_residual`` of each pair tried.
    """

    penalty: float
    rank: int
    scores: dict[tuple[float, int], float]


@dataclass(frozen=True, slots=True)
class Trained:
    """An ensemble and what the card says of how it came about.

    Attributes
    ----------
    ensemble
        The members.
    reference_total
        Median training total, at which means are meant.
    rates
        (gene,) share of each gene in the training counts.
    choice
        Penalty and rank, and what was tried.
    bootstrap_level
        What the members resample.
    out_of_fold
        For each training section, (spot, gene) mean at reference depth by a model that did not see the section.
    same_patient
        For each training section, whether that model had seen its patient.
    choices
        What the inner split chose for each encoder; ``choice`` is the first.
    """

    ensemble: Ensemble
    reference_total: float
    rates: NDArray[np.float64]
    choice: Choice
    bootstrap_level: str
    out_of_fold: list[NDArray[np.float32]]
    same_patient: list[bool]
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an ensemble is fitted.

    Attributes
    ----------
    members, seed
        Size of the ensemble, and of its bootstrap.
    likelihood
        ``nb``, or ``poisson`` for comparison.
    recalibration
        ``conformal``, ``temperature`` or ``both``, learnt on out-of-fold predictions; ``none`` leaves the intervals as
        they are.
    blocks
        Number of features of each of several encoders, in their order; members take turns with the encoders and see
        the features of their own alone. Empty: one encoder.
    """

    members: int
    seed: int
    likelihood: str = "nb"
    recalibration: Method | Literal["none"] = "conformal"
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an encoder without a member."""
        if self.members < len(self.blocks):
            msg = (
                f"expected a member for each of {len(self.blocks)} encoders, found {self.members}; "
                f"pass --members {len(self.blocks)} or more"
            )
            raise UsageError(msg)


def train_ensemble(
    sections: Sequence[EncodedSection],
    panel: Panel,
    recipe: Recipe,
    *,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> Trained:
    """Fit an ensemble to sections; nothing outside ``sections`` enters.

    Parameters
    ----------
    sections
        Training sections with features.
    panel
        Genes to fit.
    recipe
        How.
    on_progress, cancelled
        Called with the stage ``fit``.
    """
    spots, feature_mean, feature_sd = _gather(sections, panel)
    reference = float(np.median(spots.totals))
    log_depth = np.log(spots.totals / reference).astype(np.float32)
    log_r = _log_total_count(recipe, spots.counts, _section_rate_mean(spots))
    splits = folds(spots)
    steps = len(splits) + 2
    on_progress("fit", 0, steps, "choosing penalty and rank")
    blocks = _blocks(recipe, spots.features.shape[1])
    choices = [_choose(replace(spots, features=spots.features[:, block]), cancelled) for block in blocks]

    # One member an encoder: the ensemble is their mixture.
    log_mean = np.empty((len(blocks), *spots.counts.shape), dtype=np.float32)
    for done, (train, test) in enumerate(splits, start=1):
        stop_if(cancelled)
        on_progress("fit", done, steps, "predicting unseen sections")
        alone = np.ones((len(blocks), len(train)), dtype=np.float32)
        seen = _fit_members(spots.take(train), log_depth[train], alone, blocks, choices, recipe.likelihood, log_r)
        unseen = spots.take(test)
        for number, projection in enumerate(seen.projection):
            log_mean[number, test] = factor_scores(unseen, projection) @ seen.loading[number] + seen.bias[number]
    # r from predictions of unseen sections: fitted means follow their own spots too closely and would make it too big.
    log_r = _log_total_count(recipe, spots.counts, np.exp(log_mean + log_depth[:, None]).mean(axis=0))

    stop_if(cancelled)
    on_progress("fit", steps - 1, steps, f"{recipe.members} members")
    weights, level = _member_weights(sections, members=recipe.members, seed=recipe.seed)
    fitted = _fit_members(spots, log_depth, weights, blocks, choices, recipe.likelihood, log_r)
    heads = Heads(
        feature_mean=feature_mean,
        feature_sd=feature_sd,
        projection=fitted.projection,
        loading=fitted.loading,
        bias=fitted.bias,
        log_total_count=np.repeat(log_r[None], recipe.members, axis=0),
    )
    ensemble = Ensemble(
        panel=panel,
        heads=heads,
        outliers=OutlierScore.fit(spots.features),
        recalibration=_recalibration(recipe, sections, spots, log_mean, log_depth, log_r),
        high_low=HighLow.fit(np.exp(heads.log_mean(spots.features)).mean(axis=0), spots.counts),
    )
    patients = [s.section.patient for s in sections]
    whole = leave_one_out(patients, "section")
    on_progress("fit", steps, steps, "")
    return Trained(
        ensemble=ensemble,
        reference_total=reference,
        rates=spots.rates,
        choice=choices[0],
        bootstrap_level=level,
        out_of_fold=[np.exp(log_mean[:, spots.section == i]).mean(axis=0) for i in range(len(sections))],
        same_patient=[fold.same_patient for fold in whole] if whole else [True] * len(sections),
        choices=tuple(choices),
    )


def _blocks(recipe: Recipe, width: int) -> list[slice]:
    """Return the features of each encoder."""
    ends = np.cumsum(recipe.blocks or (width,)).tolist()
    if ends[-1] != width:
        msg = f"expected {ends[-1]} features of {len(ends)} encoders, found {width}"
        raise ValueError(msg)
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, slots=True)
class _Members:
    """Fitted members: projection (member, feature, factor), loading (member, factor, gene), bias (member, gene)."""

    projection: NDArray[np.float32]
    loading: NDArray[np.float32]
    bias: NDArray[np.float32]


def _fit_members(
    spots: Spots,
    log_depth: NDArray[np.float32],
    weights: NDArray[np.float32],
    blocks: Sequence[slice],
    choices: Sequence[Choice],
    likelihood: str,
    log_r: NDArray[np.float32],
) -> _Members:
    """Fit every member's factors on the block of features that is its turn, then all their loadings together.

    ``weights`` is (member, spot); projections are 0 outside a member's block.
    """
    rank = max(choice.rank for choice in choices)
    by_block = [replace(spots, features=spots.features[:, block]) for block in blocks]
    projections = np.zeros((len(weights), spots.features.shape[1], rank), dtype=np.float32)
    scores = []
    for number, member in enumerate(weights.astype(np.float64)):
        turn = number % len(blocks)
        seen, choice = by_block[turn], choices[turn]
        projection, basis = ResidualRidge(seen, member).factors(choice.penalty, choice.rank)
        unseen = out_of_fold_scores(seen, member, choice.penalty, basis)
        spread = np.sqrt(np.average(unseen**2, axis=0, weights=member))
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        projections[number, blocks[turn]] = _as_wide(projection * scale, rank)
        scores.append(_as_wide(unseen * scale, rank))
    term = make_term(likelihood, spots.counts, log_depth, {"log_total_count": log_r} if likelihood == "nb" else {})
    fitted = fit_loadings(
        term, np.stack(scores), section=spots.section, spot_weights=weights, precision=LOADING_PRECISION
    )
    return _Members(projections, fitted.weight, fitted.bias)


def _as_wide(columns: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Fill up to ``rank`` columns with zeros, where the data hold fewer factors than were asked for."""
    return np.pad(columns, ((0, 0), (0, rank - columns.shape[1])))


def _choose(spots: Spots, cancelled: CancelCheck) -> Choice:
    """Return the penalty and rank whose predictions of unseen sections agree best with their residuals."""
    scores: dict[tuple[float, int], list[float]] = {(p, k): [] for p in PENALTIES for k in RANKS}
    for train, test in folds(spots):
        stop_if(cancelled)
        seen, unseen = spots.take(train), spots.take(test)
        ridge = ResidualRidge(seen)
        residuals = unseen.residuals(seen.rates)
        for penalty in PENALTIES:
            projection, basis = ridge.factors(penalty, max(RANKS))
            z = factor_scores(unseen, projection)
            for rank in RANKS:
                r = column_pearson(residuals, z[:, :rank] @ basis[:, :rank].T)
                scores[penalty, rank].append(float(np.nanmean(r)) if np.isfinite(r).any() else 0.0)
    mean = {pair: float(np.mean(values)) for pair, values in scores.items()}
    penalty, rank = max(mean, key=lambda pair: mean[pair])
    return Choice(penalty, rank, mean)


def _gather(sections: Sequence[EncodedSection], panel: Panel) -> tuple[Spots, NDArray[np.float32], NDArray[np.float32]]:
    """Return all training spots in one table, and mean and SD of their features."""
    features = np.concatenate([s.features for s in sections])
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.maximum(sd, LEAST_SD * np.median(sd) + 1e-12).astype(np.float32)
    spots = Spots(
        features=((features - mean) / sd).astype(np.float32),
        counts=np.concatenate([s.section.counts_of(panel.genes) for s in sections]).astype(np.float32),
        totals=np.concatenate([s.section.totals for s in sections]),
        section=np.repeat(np.arange(len(sections)), [len(s.features) for s in sections]),
        block=np.concatenate([spatial_blocks(s.positions_um, SPLIT_BLOCK_UM) for s in sections]),
    )
    return spots, mean.astype(np.float32), sd


def _section_rate_mean(spots: Spots) -> NDArray[np.float32]:
    """Return the mean under "same share everywhere in the section", (spot, gene)."""
    mean = np.empty_like(spots.counts)
    for section in np.unique(spots.section):
        rows = spots.section == section
        share = spots.counts[rows].sum(axis=0) / spots.totals[rows].sum()
        mean[rows] = spots.totals[rows, None] * share
    return mean


def _log_total_count(recipe: Recipe, counts: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    if recipe.likelihood == "poisson":
        return np.full(counts.shape[1], POISSON_LOG_TOTAL_COUNT, dtype=np.float32)
    return fit_total_count(counts, mean)


def _recalibration(
    recipe: Recipe,
    sections: Sequence[EncodedSection],
    spots: Spots,
    log_mean: NDArray[np.float32],
    log_depth: NDArray[np.float32],
    log_r: NDArray[np.float32],
) -> Recalibration:
    """Return what the predictions of unseen training sections say of the intervals."""
    if recipe.recalibration == "none":
        return Recalibration.none(spots.counts.shape[1])
    return fit_recalibration(
        counts=spots.counts,
        log_mean_members=log_mean,
        log_depth=log_depth,
        log_total_count=log_r,
        training_mean=spots.rates * float(np.median(spots.totals)),
        patients=len({s.section.patient for s in sections}),
        method=recipe.recalibration,
        seed=recipe.seed,
    )


def _member_weights(sections: Sequence[EncodedSection], *, members: int, seed: int) -> tuple[NDArray[np.float32], str]:
    lengths = [len(s.features) for s in sections]
    return bootstrap_weights(
        patients=np.repeat([s.section.patient for s in sections], lengths),
        sections=np.repeat([s.section.name for s in sections], lengths),
        blocks=np.concatenate([spatial_blocks(s.positions_um) for s in sections]),
        members=members,
        seed=seed,
    )
