"""Controls are alike in what they are matched in, and as likely as the order that they control."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from stimage_qupath.attribution.matching import exchanged, matched_groups, standardised_difference


def test_groups_are_small_and_alike():
    rng = np.random.default_rng(0)
    covariates = np.stack([rng.lognormal(3, 1, 640), rng.normal(0, 1, 640), rng.uniform(0, 9, 640)], axis=1)
    group = matched_groups(covariates, largest=8)
    sizes = np.bincount(group)
    assert sizes.sum() == 640
    assert sizes.max() <= 8
    assert sizes.min() >= 4  # halved, never chipped at
    ranks = covariates.argsort(axis=0).argsort(axis=0)
    within = np.sqrt(np.mean([(ranks[group == g].std(axis=0)) ** 2 for g in range(len(sizes))], axis=0))
    assert (within < 0.3 * ranks.std(axis=0)).all()


def test_equal_nuclei_are_one_group_and_none_are_none():
    assert matched_groups(np.ones((5, 3))).tolist() == [0] * 5
    assert matched_groups(np.empty((0, 3))).tolist() == []


def test_an_exchanged_order_has_the_same_groups_at_the_same_places():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 4, 30)
    order = rng.permutation(30)
    other = exchanged(order, group, rng)
    assert sorted(other.tolist()) == list(range(30))
    assert (group[other] == group[order]).all()
    assert (other != order).any()


def test_all_exchanges_are_equally_likely():
    rng = np.random.default_rng(2)
    found = Counter(tuple(exchanged(np.array([3, 0, 1, 2]), np.array([0, 0, 0, 1]), rng).tolist()) for _ in range(6000))
    assert len(found) == 6  # three nuclei of one group in any order, the fourth where it is
    assert all(order[0] == 3 for order in found)
    assert max(abs(count - 1000) for count in found.values()) < 4 * np.sqrt(6000 * (1 / 6) * (5 / 6))


def test_the_difference_is_in_sds_of_all():
    covariates = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [6.0, 5.0]])
    apart = standardised_difference(covariates, np.array([3]), np.array([0, 1]))
    assert apart[0] == pytest.approx((6 - 1) / np.sqrt(5))
    assert apart[1] == 0
