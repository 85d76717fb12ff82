"""Sign flips, effect sizes and Holm's correction, against arithmetic by hand and a second library."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from stimage_qupath.validation.block_effect import effect, holm, sign_flip_p


def test_sign_flips_agree_with_all_flips():
    values = np.array([0.9, 0.4, -0.2, 1.1, 0.3, 0.8, -0.1, 0.5])
    all_flips = np.array(list(itertools.product([-1, 1], repeat=8))) @ values
    exact = np.mean(np.abs(all_flips) >= abs(values.sum()) - 1e-12)
    assert sign_flip_p(values, flips=99_999, seed=0) == pytest.approx(exact, rel=0.05)
    assert sign_flip_p(np.zeros(25), seed=0) == 1.0
    assert sign_flip_p(np.ones(30), flips=999, seed=0) == 1 / 1000


def test_under_the_null_one_in_twenty_is_below_a_twentieth():
    rng = np.random.default_rng(4)
    found = [sign_flip_p(rng.standard_t(3, 25), flips=199, seed=k) for k in range(400)]
    low, high = stats.binom.interval(0.99, 400, 0.05)
    assert low <= sum(p <= 0.05 for p in found) <= high


def test_effects_are_mean_over_sd_with_blocks_as_the_unit():
    values = np.random.default_rng(5).normal(1, 2, 40)
    found = effect(values, seed=0)
    assert found.mean == pytest.approx(values.mean())
    assert found.size == pytest.approx(values.mean() / values.std(ddof=1))
    half = 1.96 * values.std(ddof=1) / np.sqrt(40)
    assert found.ci == pytest.approx((values.mean() - half, values.mean() + half), abs=0.12)
    assert found.size_ci[0] < found.size < found.size_ci[1]
    assert (found.blocks, found.above) == (40, int((values > 0).sum()))
    assert found.p is not None


def test_few_blocks_are_not_tested():
    assert effect(np.ones(19) + np.arange(19), seed=0).p is None
    assert effect(np.array([1.0]), seed=0).p is None
    assert effect(np.ones(20) + np.arange(20), seed=0).p < 0.01
    assert effect(np.zeros(20), seed=0).p == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([None]) == [None]
