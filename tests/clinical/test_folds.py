"""A group is never on both sides, sizes and strata are even, and what breaks the rule is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stimage_qupath.clinical.folds import Fold, check_folds, grouped_folds
from stimage_qupath.errors import UsageError


@settings(deadline=None, max_examples=60)
@given(
    groups=st.lists(st.integers(0, 30), min_size=8, max_size=120),
    n_folds=st.integers(2, 5),
    seed=st.integers(0, 5),
)
def test_each_row_is_tested_once_and_no_group_is_on_both_sides(groups, n_folds, seed):
    groups = np.array(groups)
    if len(np.unique(groups)) < n_folds:
        with pytest.raises(UsageError, match="expected at least 2 folds and as many groups as folds"):
            grouped_folds(groups, n_folds, seed=seed)
        return
    folds = grouped_folds(groups, n_folds, seed=seed, stratify=np.arange(len(groups)) % 3)
    assert len(folds) == n_folds
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(len(groups)))
    for fold in folds:
        assert not set(groups[fold.train]) & set(groups[fold.test])
        assert len(fold.train) + len(fold.test) == len(groups)


@pytest.mark.parametrize("single", [True, False])
def test_strata_are_even_over_folds(single):
    rng = np.random.default_rng(0)
    event = rng.random(300) < 0.15
    groups = np.arange(300) if single else np.arange(300) // 2
    sizes = [(len(f.test), event[f.test].sum()) for f in grouped_folds(groups, 5, seed=1, stratify=event)]
    # sizes differ by one group at most, events by the two that a group of two rows may hold
    assert np.ptp([n for n, _ in sizes]) <= (1 if single else 4)
    assert np.ptp([d for _, d in sizes]) <= (1 if single else 2)


def test_equal_seeds_give_equal_folds_and_others_differ():
    groups = np.arange(50)
    first, again, other = (grouped_folds(groups, 5, seed=s) for s in (3, 3, 4))
    assert all(np.array_equal(a.test, b.test) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))


def test_folds_that_share_a_patient_are_refused():
    patients = np.array(["a", "b", "b", "c"])
    sides = [Fold(np.array([0, 1]), np.array([2, 3])), Fold(np.array([2, 3]), np.array([0, 1]))]
    with pytest.raises(ValueError, match="expected each group on one side of a fold, found b on both of fold 0"):
        check_folds(sides, patients)
    with pytest.raises(ValueError, match="expected each row in one test fold, found 2 rows"):
        check_folds(sides[:1], np.arange(4))
    with pytest.raises(ValueError, match="found common ones"):
        Fold(np.array([0, 1]), np.array([1]))
    with pytest.raises(ValueError, match="expected rows on both sides"):
        Fold(np.array([0]), np.array([], dtype=int))


def test_one_fold_is_no_cross_validation():
    with pytest.raises(UsageError, match="found 1 folds of 9 groups"):
        grouped_folds(np.arange(9), 1, seed=0)
