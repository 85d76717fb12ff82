"""Pseudobulk and its uncertainty: by hand, and against simulated fields of counts and ensembles."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.clinical.pseudobulk import PseudobulkSum, effective_windows


def summed(groups, *blocks, windows):
    genes = blocks[0][1].shape[1]
    total = PseudobulkSum(groups, genes)
    for member, mean, aleatoric, epistemic in blocks:
        total.add(member, mean=mean, aleatoric=aleatoric, epistemic=epistemic)
    return total.result(np.asarray(windows, dtype=float))


def test_means_and_variances_by_hand():
    mean = np.array([[1, 10], [3, 20], [5, 60]], np.float32)
    variance = np.array([[4, 1], [16, 1], [4, 4]], np.float32)
    member = np.array([[True, True], [True, False], [True, False]])
    found = summed(("", "Tumor"), (member, mean, variance, variance), windows=[2, 1])
    assert found.mean.tolist() == [[3, 30], [1, 10]]
    assert found.epistemic_sd == pytest.approx(np.array([[(2 + 4 + 2) / 3, (1 + 1 + 2) / 3], [2, 1]]))
    assert found.aleatoric == pytest.approx(np.array([[24 / 3 / 2, 6 / 3 / 2], [4, 1]]))
    assert found.sd[1] == pytest.approx(np.sqrt([8, 2]))
    assert found.nuclei.tolist() == [3, 1]


def test_blocks_do_not_matter_and_nuclei_without_prediction_do_not_count():
    rng = np.random.default_rng(0)
    mean = rng.gamma(2, 2, (50, 3)).astype(np.float32)
    mean[7] = np.nan
    member = np.column_stack([np.ones(50, bool), rng.random(50) < 0.5])
    whole = summed(("", "a"), (member, mean, mean, mean), windows=[3, 3])
    parts = [(member[s], mean[s], mean[s], mean[s]) for s in (slice(0, 7), slice(7, 8), slice(8, 50))]
    split = summed(("", "a"), *parts, windows=[3, 3])
    assert whole.nuclei[0] == 49
    assert whole.mean == pytest.approx(split.mean)
    assert whole.mean[0] == pytest.approx(np.nanmean(mean, axis=0))


def test_a_group_without_nuclei_has_no_value():
    found = summed(("", "none"), (np.array([[True, False]]), *[np.ones((1, 1), np.float32)] * 3), windows=[1, np.nan])
    assert np.isnan(found.mean[1]).all()
    assert found.nuclei.tolist() == [1, 0]


@pytest.mark.parametrize(("windows_across", "tolerance"), [(10, 0.06), (25, 0.05)])
def test_evenly_spread_nuclei_have_area_over_window_area_of_windows(windows_across, tolerance):
    rng = np.random.default_rng(1)
    side, window = 1000.0 * windows_across / 10, 100.0
    positions = rng.uniform(0, side, (20_000, 2))
    expected = windows_across**2
    # at the rim a window has fewer neighbours: E(1 - |dx| / L)+ over a side of k windows is 1/k - 1/(3 k^2)
    rim = (1 / windows_across - 1 / (3 * windows_across**2)) ** 2
    found = effective_windows(positions, window)
    assert found == pytest.approx(1 / rim, rel=tolerance)
    assert found == pytest.approx(expected, rel=0.1)


def test_windows_lie_between_one_and_the_number_of_nuclei():
    here = np.full((50, 2), 3.0)
    assert effective_windows(here, 100.0) == 1.0
    apart = np.column_stack([np.arange(40) * 1000.0, np.zeros(40)])
    assert effective_windows(apart, 100.0) == pytest.approx(40)
    assert np.isnan(effective_windows(np.empty((0, 2)), 100.0))


def test_overlap_is_that_of_all_pairs():
    rng = np.random.default_rng(2)
    positions = rng.normal(0, 150, (300, 2))
    apart = np.abs(positions[:, None] - positions[None])
    overlap = np.maximum(0, 1 - apart / 200.0).prod(axis=2).mean()
    assert effective_windows(positions, 200.0) == pytest.approx(1 / overlap, rel=0.03)


def test_aleatoric_part_is_that_of_a_simulated_field_of_counts():
    """Counts scatter independently over small squares of tissue; each nucleus sees those of its window."""
    rng = np.random.default_rng(4)
    squares, window = 48, 8  # squares along a side, and of a window
    corner = rng.integers(0, squares - window, (150, 2))  # clustered towards nothing: any places do
    corner[:100] //= 3  # two thirds of the nuclei crowd in one corner
    rate, replicates = 2.0, 4000
    field = rng.poisson(rate, (replicates, squares, squares)).astype(float)
    total = np.zeros((replicates, squares + 1, squares + 1))
    total[:, 1:, 1:] = field.cumsum(axis=1).cumsum(axis=2)
    r, c = corner.T
    seen = total[:, r + window, c + window] - total[:, r, c + window] - total[:, r + window, c] + total[:, r, c]
    simulated = seen.mean(axis=1).var()
    per_nucleus = rate * window**2
    estimated = per_nucleus / effective_windows(corner.astype(float), float(window))
    assert estimated == pytest.approx(simulated, rel=0.12)
    assert estimated > 15 * per_nucleus / len(corner)  # nuclei taken as independent would be far too sure


def test_epistemic_part_bounds_the_spread_of_simulated_members():
    """Members that disagree alike everywhere reach the bound; members that disagree at random stay below."""
    rng = np.random.default_rng(6)
    base = rng.uniform(5, 10, 400)
    alike = base * (1 + rng.normal(0, 0.2, (30, 1)))
    at_random = base * (1 + rng.normal(0, 0.2, (30, 400)))
    for members, reaches in ((alike, True), (at_random, False)):
        epistemic = members.var(axis=0)[:, None].astype(np.float32)
        mean = members.mean(axis=0)[:, None].astype(np.float32)
        found = summed(("",), (np.ones((400, 1), bool), mean, np.zeros_like(mean), epistemic), windows=[1])
        true = members.mean(axis=1).std()
        assert true <= found.sd[0, 0] * 1.0001
        assert (true > 0.99 * found.sd[0, 0]) == reaches


def test_intervals_of_simulated_patients_hold_what_is_then_counted():
    """The truth is one more member; each patient's tissue is counted once. Nuclei taken as independent fail."""
    rng = np.random.default_rng(8)
    squares, window, rate, members, patients = 40, 8, 3.0, 20, 400
    held, held_if_independent = 0, 0
    for _ in range(patients):
        corner = rng.integers(0, squares - window, (200, 2))
        per_window = rate * window**2 * np.exp(rng.normal(0, 0.02, members + 1))
        truth, ensemble = per_window[0], per_window[1:]
        total = np.zeros((squares + 1, squares + 1))
        total[1:, 1:] = rng.poisson(truth / window**2, (squares, squares)).cumsum(axis=0).cumsum(axis=1)
        r, c = corner.T
        counted = total[r + window, c + window] - total[r, c + window] - total[r + window, c] + total[r, c]
        parts = [np.full((200, 1), value, np.float32) for value in (ensemble.mean(), ensemble.mean(), ensemble.var())]
        windows = effective_windows(corner.astype(float), float(window))
        found = summed(("",), (np.ones((200, 1), bool), *parts), windows=[windows])
        off = abs(counted.mean() - found.mean[0, 0])
        held += off < 1.96 * found.sd[0, 0]
        held_if_independent += off < 1.96 * np.sqrt((ensemble.mean() + ensemble.var()) / 200)
    assert 0.90 < held / patients < 0.98  # 20 members know the spread a little less than all
    assert held_if_independent / patients < 0.45
