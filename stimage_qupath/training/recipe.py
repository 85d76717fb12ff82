"""From encoded sections to an ensemble: penalty and dispersion by out-of-fold prediction, members by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.models.ensemble import Ensemble, Heads
from stimage_qupath.models.uncertainty import OutlierScore
from stimage_qupath.results import CancelCheck, Panel, ProgressCallback, stop_if
from stimage_qupath.spots.residuals import column_pearson, pearson_residuals
from stimage_qupath.spots.splits import BLOCK_UM, Fold, bootstrap_weights, leave_one_out, spatial_blocks
from stimage_qupath.training.dataset import EncodedSection
from stimage_qupath.training.fit import Problem, fit_heads, fit_total_count

PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Ridge on weights of standardised features; the inner split chooses among them."""
LEAST_SD = 0.05
"""Floor of a feature's SD, in median SDs: what hardly varies in training must not be magnified on another slide."""
SPLIT_BLOCK_UM = 2 * BLOCK_UM
"""Blocks that stand for sections where there is only one section to split."""


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
    penalty, bootstrap_level
        What was chosen.
    penalty_scores
        Out-of-fold ``pcc_residual`` of each penalty tried.
    out_of_fold
        For each training section, (spot, gene) mean at reference depth by a model that did not see the section.
    same_patient
        For each training section, whether that model had seen its patient.
    """

    ensemble: Ensemble
    reference_total: float
    rates: NDArray[np.float64]
    penalty: float
    bootstrap_level: str
    penalty_scores: dict[float, float]
    out_of_fold: list[NDArray[np.float32]]
    same_patient: list[bool]


@dataclass(frozen=True, slots=True)
class _Spots:
    """All training spots in one table, and where each section's rows are."""

    problem: Problem
    feature_mean: NDArray[np.float32]
    feature_sd: NDArray[np.float32]
    totals: NDArray[np.float64]
    reference_total: float

    def rows(self, sections: Sequence[int]) -> NDArray[np.intp]:
        return np.flatnonzero(np.isin(self.problem.section, sections))


def train_ensemble(
    sections: Sequence[EncodedSection],
    panel: Panel,
    *,
    members: int,
    seed: int,
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
    members
        Members of the ensemble.
    seed
        Of the bootstrap.
    on_progress, cancelled
        Called with the stage ``fit``.
    """
    spots = _gather(sections, panel)
    folds = leave_one_out([s.section.patient for s in sections], "section")
    working = fit_total_count(spots.problem.counts, _section_rate_mean(spots))
    out_of_fold = np.zeros((len(PENALTIES), *spots.problem.counts.shape), dtype=np.float32)
    row_folds = _row_folds(sections, spots, folds)
    for done, (train, test) in enumerate(row_folds):
        stop_if(cancelled)
        on_progress("fit", done, len(row_folds) + 1, "choosing the penalty")
        out_of_fold[:, test] = _predict_fold(spots, train, test, working)
    scores = {p: _residual_score(spots, out_of_fold[i]) for i, p in enumerate(PENALTIES)}
    penalty = max(scores, key=lambda p: scores[p])
    log_mean = out_of_fold[PENALTIES.index(penalty)]
    # r from predictions of unseen sections: fitted means follow their own spots too closely and would make it too big.
    log_total_count = fit_total_count(spots.problem.counts, np.exp(log_mean + spots.problem.log_depth[:, None]))

    stop_if(cancelled)
    on_progress("fit", len(row_folds), len(row_folds) + 1, f"{members} members")
    weights, level = _member_weights(sections, members=members, seed=seed)
    solution = fit_heads(
        spots.problem,
        spot_weights=weights,
        penalty=np.full(members, penalty, dtype=np.float32),
        log_total_count=log_total_count,
    )
    heads = Heads(
        feature_mean=spots.feature_mean,
        feature_sd=spots.feature_sd,
        weight=solution.weight,
        bias=solution.bias,
        log_total_count=np.repeat(log_total_count[None], members, axis=0),
    )
    on_progress("fit", len(row_folds) + 1, len(row_folds) + 1, "")
    return Trained(
        ensemble=Ensemble(panel=panel, heads=heads, outliers=OutlierScore.fit(spots.problem.features)),
        reference_total=spots.reference_total,
        rates=spots.problem.counts.sum(axis=0, dtype=np.float64) / spots.totals.sum(),
        penalty=penalty,
        bootstrap_level=level,
        penalty_scores=scores,
        out_of_fold=[np.exp(log_mean[spots.rows([i])]) for i in range(len(sections))],
        same_patient=[fold.same_patient for fold in folds] if folds else [True] * len(sections),
    )


def _gather(sections: Sequence[EncodedSection], panel: Panel) -> _Spots:
    features = np.concatenate([s.features for s in sections])
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.maximum(sd, LEAST_SD * np.median(sd) + 1e-12).astype(np.float32)
    totals = np.concatenate([s.section.totals for s in sections])
    reference = float(np.median(totals))
    problem = Problem(
        features=((features - mean) / sd).astype(np.float32),
        counts=np.concatenate([s.section.counts_of(panel.genes) for s in sections]).astype(np.float32),
        log_depth=np.log(totals / reference).astype(np.float32),
        section=np.repeat(np.arange(len(sections)), [len(s.features) for s in sections]),
    )
    return _Spots(problem, mean.astype(np.float32), sd, totals, reference)


def _section_rate_mean(spots: _Spots) -> NDArray[np.float32]:
    """Return the mean under "same share everywhere in the section", (spot, gene)."""
    mean = np.empty_like(spots.problem.counts)
    for section in np.unique(spots.problem.section):
        rows = spots.rows([section])
        share = spots.problem.counts[rows].sum(axis=0) / spots.totals[rows].sum()
        mean[rows] = spots.totals[rows, None] * share
    return mean


def _row_folds(
    sections: Sequence[EncodedSection], spots: _Spots, folds: Sequence[Fold]
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return training and test rows: sections left out, or spatial blocks where there is one section only."""
    if folds:
        return [(spots.rows(fold.train), spots.rows(fold.test)) for fold in folds]
    block = spatial_blocks(sections[0].positions_um, SPLIT_BLOCK_UM) % 5
    return [(np.flatnonzero(block != k), np.flatnonzero(block == k)) for k in np.unique(block)]


def _predict_fold(
    spots: _Spots, train: NDArray[np.intp], test: NDArray[np.intp], log_total_count: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the log mean of the test rows at reference depth for every penalty, (penalty, spot, gene)."""
    problem = spots.problem.take(train)
    solution = fit_heads(
        problem,
        spot_weights=np.ones((len(PENALTIES), len(train)), dtype=np.float32),
        penalty=np.array(PENALTIES, dtype=np.float32),
        log_total_count=log_total_count,
    )
    return solution.log_mean(spots.problem.features[test])


def _residual_score(spots: _Spots, log_mean: NDArray[np.float32]) -> float:
    """Return the protocol's residual correlation, mean over genes, then sections."""
    counts = spots.problem.counts.astype(np.float64)
    rates = counts.sum(axis=0) / spots.totals.sum()
    scores = []
    for section in np.unique(spots.problem.section):
        rows = spots.rows([section])
        residual = pearson_residuals(counts[rows], spots.totals[rows], rates)
        scores.append(np.nanmean(column_pearson(residual, log_mean[rows].astype(np.float64))))
    return float(np.mean(scores))


def _member_weights(sections: Sequence[EncodedSection], *, members: int, seed: int) -> tuple[NDArray[np.float32], str]:
    lengths = [len(s.features) for s in sections]
    return bootstrap_weights(
        patients=np.repeat([s.section.patient for s in sections], lengths),
        sections=np.repeat([s.section.name for s in sections], lengths),
        blocks=np.concatenate([spatial_blocks(s.positions_um) for s in sections]),
        members=members,
        seed=seed,
    )
