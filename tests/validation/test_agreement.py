"""Overlap and kappa by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score, jaccard_score

from stimage_qupath.validation.agreement import Overlap, binary_kappa, cohen_kappa, confusion


def test_overlap_by_hand():
    a, b = np.array([1, 1, 1, 0, 0, 0], dtype=bool), np.array([0, 1, 1, 1, 0, 0], dtype=bool)
    found = Overlap.of(a, b)
    assert (found.iou, found.dice) == (2 / 4, 4 / 6)
    areas = np.array([10.0, 1, 2, 7, 100, 100])
    weighted = Overlap.of(a, b, areas)
    assert (weighted.iou, weighted.dice) == (3 / 20, 6 / 23)
    assert Overlap.from_sizes(both=1, a=4, b=2) == Overlap(iou=1 / 5, dice=2 / 6)
    assert np.isnan(Overlap.of(a & ~a, b & ~b).iou)


def test_overlap_and_kappa_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, 3000), rng.integers(0, 4, 3000)
    second[:1200] = first[:1200]
    table = confusion(first, second, 4)
    np.testing.assert_array_equal(table, confusion_matrix(first, second))
    assert cohen_kappa(table) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    a, b = first == 1, second == 1
    assert Overlap.of(a, b).iou == pytest.approx(jaccard_score(a, b), abs=1e-12)
    assert Overlap.of(a, b).dice == pytest.approx(f1_score(a, b), abs=1e-12)
    assert binary_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)


def test_kappa_of_nothing_and_of_one_label_is_no_number():
    assert np.isnan(cohen_kappa(np.zeros((2, 2), dtype=np.int64)))
    assert np.isnan(cohen_kappa(np.array([[5, 0], [0, 0]])))
