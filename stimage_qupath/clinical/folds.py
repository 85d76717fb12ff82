"""Folds for cross-validation in which a group (patient, tissue source site, cell line) is never on both sides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError

Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows to fit on and rows to test on.

    Attributes
    ----------
    train, test
        Sorted row numbers.
    """

    train: Index
    test: Index

    def __post_init__(self) -> None:
        """Refuse a row on both sides, and a side without rows."""
        if not len(self.train) or not len(self.test):
            msg = (
                f"expected rows on both sides of a Fold, found {len(self.train)} to train and {len(self.test)} to test"
            )
            raise ValueError(msg)
        if len(np.intersect1d(self.train, self.test)):
            msg = "expected different rows to train and to test in a Fold, found common ones"
            raise ValueError(msg)


def grouped_folds(groups: NDArray[Any], n_folds: int, *, seed: int, stratify: NDArray[Any] | None = None) -> list[Fold]:
    """Return folds of about equal size in which each group is tested exactly once, as a whole.

    Groups are shuffled, large ones dealt first, each to the fold that holds the fewest rows of its stratum, then the
    fewest rows at all.

    Parameters
    ----------
    groups
        (row,) label of the unit that must stay together.
    n_folds
        Number of folds, 2 or more.
    seed
        Of the shuffle; equal seeds give equal folds.
    stratify
        (row,) small integers or labels, for example whether the event was observed, to be spread evenly; a group counts
        each of its rows. None spreads rows alone.

    Raises
    ------
    UsageError
        Fewer groups than folds, or fewer than two folds.
    """
    labels, group = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if n_folds < 2 or len(labels) < n_folds:
        msg = (
            f"expected at least 2 folds and as many groups as folds, found {n_folds} folds of {len(labels)} groups; "
            "ask for fewer folds or give more patients or sites"
        )
        raise UsageError(msg)
    stratum = np.zeros(len(group), dtype=np.intp)
    if stratify is not None:
        stratum = np.unique(np.asarray(stratify), return_inverse=True)[1]
    counts = np.zeros((len(labels), int(stratum.max()) + 1))
    np.add.at(counts, (group, stratum), 1)
    fold_of_row = _deal(counts, n_folds, np.random.default_rng(seed))[group]
    folds = [Fold(np.flatnonzero(fold_of_row != f), np.flatnonzero(fold_of_row == f)) for f in range(n_folds)]
    check_folds(folds, groups)
    return folds


def check_folds(folds: Iterable[Fold], groups: NDArray[Any]) -> None:
    """Refuse folds that share a group between their sides, or that do not test each row exactly once.

    Raises
    ------
    ValueError
        Names the groups that are on both sides.
    """
    labels = np.asarray(groups).astype(str)
    tested = np.zeros(len(labels), dtype=np.intp)
    for number, fold in enumerate(folds):
        shared = np.intersect1d(labels[fold.train], labels[fold.test])
        if len(shared):
            msg = f"expected each group on one side of a fold, found {', '.join(shared[:5])} on both of fold {number}"
            raise ValueError(msg)
        np.add.at(tested, fold.test, 1)
    if (tested != 1).any():
        msg = f"expected each row in one test fold, found {int((tested != 1).sum())} rows in none or in several"
        raise ValueError(msg)


def _deal(counts: NDArray[np.float64], n_folds: int, rng: np.random.Generator) -> Index:
    """Return the fold of each group; ``counts`` is (group, stratum) rows."""
    if (counts.sum(axis=1) == 1).all():
        return _deal_single(counts, n_folds, rng)
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]
    share = counts.sum(axis=0)
    held = np.zeros((n_folds, counts.shape[1]))
    fold = np.zeros(len(counts), dtype=np.intp)
    for group in order:
        # the fold whose strata would be filled the least, each stratum relative to its own size
        filled = ((held + counts[group]) / share) @ counts[group]
        best = np.lexsort((held.sum(axis=1), filled.round(12)))[0]
        fold[group] = best
        held[best] += counts[group]
    return fold


def _deal_single(counts: NDArray[np.float64], n_folds: int, rng: np.random.Generator) -> Index:
    """Return the folds of groups of one row: shuffled within strata, then dealt round in one go."""
    order = rng.permutation(len(counts))
    order = order[np.argsort(counts[order].argmax(axis=1), kind="stable")]
    fold = np.zeros(len(counts), dtype=np.intp)
    fold[order] = (np.arange(len(counts)) + rng.integers(n_folds)) % n_folds
    return fold
