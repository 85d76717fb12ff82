"""Areas under sparsification curves, by hand and on errors whose spread is known."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.validation.bootstrap import BlockBootstrap
from stimage_qupath.validation.expression import Measured
from stimage_qupath.validation.sparsification import risk_coverage, squared_pearson


def grid(n):
    x, y = np.divmod(np.arange(n), 10)
    return np.stack([x, y], axis=1) * 200.0


def test_error_by_hand():
    """l = 1000, p = .01: null 10, variance 20; y = 16, predicted 8 at reference 500, so 16 at the spot's depth."""
    measured = Measured(np.array([[16.0], [10.0]]), np.array([1000.0, 1000.0]), np.zeros((2, 2)))
    found = squared_pearson(measured, np.array([[8.0], [8.0]]), rates=np.array([0.01]), reference_total=500.0)
    np.testing.assert_allclose(found[:, 0], [0, 36 / 20])


def test_areas_by_hand():
    """Errors 1, 2, 3: the oracle's curve is 1, 1.5, 2 (area 1.5), the flat one 2, the reverse 3, 2.5, 2 (2.5)."""
    errors = np.array([[1.0], [2.0], [3.0]])
    boot = BlockBootstrap.draw(np.array([[0.0, 0], [5000, 0], [9000, 0]]), replicates=20, seed=0)
    found = risk_coverage(errors, {"predicted_mean": errors, "total_sd": -errors}, boot, seed=0)
    assert found.ause["predicted_mean"].value == pytest.approx(0)
    assert found.ause["total_sd"].value == pytest.approx((2.5 - 1.5) / (2 - 1.5))
    assert found.lead.value == pytest.approx(-2)
    assert found.curves["oracle"][0] == pytest.approx(0.5)
    assert found.curves["oracle"][-1] == pytest.approx(1)


def test_resamples_are_those_of_repeated_spots():
    rng = np.random.default_rng(0)
    errors, by = rng.exponential(size=(60, 2)), rng.normal(size=(60, 2))
    boot = BlockBootstrap.draw(grid(60), replicates=25, seed=1)
    found = risk_coverage(errors, {"predicted_mean": by, "total_sd": by}, boot, seed=0)

    def area(e, order):
        curve = np.cumsum(e[order]) / np.arange(1, len(e) + 1)
        return curve.mean()

    for value, weights in zip(found.ause["total_sd"].replicates, boot.weights[1:], strict=True):
        rows = np.repeat(np.arange(60), weights.astype(int))
        expected = []
        for g in range(2):
            e, b = errors[rows, g], by[rows, g]
            best, own = area(e, np.argsort(e, kind="stable")), area(e, np.argsort(b, kind="stable"))
            expected.append((own - best) / (e.mean() - best))
        # Repeated spots stand at one place of the weighted curve and at several of the other.
        assert value == pytest.approx(np.mean(expected), abs=0.05)


def test_a_true_spread_beats_the_mean_and_a_false_one_does_not():
    rng = np.random.default_rng(2)
    spread, mean = np.exp(rng.normal(0, 1, (200, 60))), rng.normal(size=(200, 60))
    errors = (spread * rng.normal(size=spread.shape)) ** 2
    boot = BlockBootstrap.draw(grid(200), replicates=100, seed=3)
    right = risk_coverage(errors, {"predicted_mean": mean, "total_sd": spread}, boot, seed=0)
    assert right.lead.ci[0] > 0.2
    assert right.ause["predicted_mean"].value == pytest.approx(1, abs=0.05)
    assert right.ause["total_sd"].value < 0.7
    wrong = risk_coverage(errors, {"predicted_mean": mean, "total_sd": rng.normal(size=mean.shape)}, boot, seed=0)
    assert wrong.lead.ci[0] < 0 < wrong.lead.ci[1]


def test_ties_say_nothing_and_genes_without_error_do_not_count():
    rng = np.random.default_rng(4)
    errors = np.column_stack([rng.exponential(size=400), np.zeros(400)])
    errors[:200, 0] += 5  # a trend along the file must not leak through ties
    flat = np.ones_like(errors)
    found = risk_coverage(
        errors,
        {"predicted_mean": flat, "total_sd": flat},
        BlockBootstrap.draw(grid(400), replicates=20, seed=5),
        seed=6,
    )
    assert found.ause["total_sd"].value == pytest.approx(1, abs=0.15)
