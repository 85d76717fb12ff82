"""Patterns of predictions against those of the measurement."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.pipeline.spot_patterns import spot_patterns
from stimage_qupath.validation.expression import Measured
from stimage_qupath.validation.spatial import neighbour_weights


def section(seed=0):
    """Return 400 spots on a grid; gene 0 and 1 follow x, gene 2 and 3 nothing."""
    rng = np.random.default_rng(seed)
    x, y = (axis.ravel() * 100.0 for axis in np.meshgrid(np.arange(20), np.arange(20)))
    totals = rng.integers(500, 3000, 400).astype(float)
    share = np.column_stack([0.02 + 0.04 * x / 1900, 0.06 - 0.04 * x / 1900, np.full(400, 0.04), np.full(400, 0.03)])
    counts = rng.poisson(totals[:, None] * share)
    return Measured(counts, totals, np.column_stack([x, y])), share


def test_a_right_prediction_has_the_patterns_of_the_measurement():
    measured, share = section()
    rates = measured.counts.sum(axis=0) / measured.totals.sum()
    found = spot_patterns(measured, rates, share * 1000)
    assert found.patterned.tolist() == [True, True, False, False]
    assert (found.measured[:2] > 0.4).all()
    assert (found.predicted[:2] > 0.9).all()
    assert (found.both[:2] > 0.5).all()
    assert np.abs(found.both[2:]).max() < 0.1
    turned = spot_patterns(measured, rates, share[:, [1, 0, 2, 3]] * 1000)
    assert turned.both[:2] == pytest.approx(-found.both[:2], rel=0.2)
    figures = found.figures()
    assert figures["moran_measured_mean"] == pytest.approx(found.measured.mean())
    assert figures["measured_patterned"] == 0.5
    assert figures["agreement"] > 0.7


def test_the_bivariate_figure_by_hand():
    measured, share = section(3)
    rates = measured.counts.sum(axis=0) / measured.totals.sum()
    found = spot_patterns(measured, rates, share * 1000)
    expected = measured.totals * rates[0]
    residual = np.clip((measured.counts[:, 0] - expected) / np.sqrt(expected + expected**2 / 10), -10, 10)
    x, y = np.log(share[:, 0]) - np.log(share[:, 0]).mean(), residual - residual.mean()
    lag = neighbour_weights(measured.positions_um).toarray() @ y
    assert found.both[0] == pytest.approx((x * lag).sum() / np.sqrt((x**2).sum() * (y**2).sum()), abs=1e-9)


def test_a_handful_of_spots_has_no_neighbours():
    measured, share = section()
    few = Measured(measured.counts[:7], measured.totals[:7], measured.positions_um[:7])
    assert spot_patterns(few, share.mean(axis=0), share[:7]) is None
