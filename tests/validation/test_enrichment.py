"""Planted enrichment is found; fields that have nothing to do with each other are called enriched by chance alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from stimage_qupath.validation.annotations import Labelled
from stimage_qupath.validation.enrichment import between_blocks, high_nuclei, moran_range, within_blocks

SIDE_UM, CELL_UM = 6000.0, 20.0


def field(rng, scale_um):
    """Return a random field of mean 0 and variance 1 on cells of 20 um; neighbours within ``scale_um`` are alike."""
    size = int(SIDE_UM / CELL_UM)
    smooth = ndimage.gaussian_filter(rng.normal(size=(size, size)), scale_um / CELL_UM, mode="wrap")
    return smooth / smooth.std()


def at(values, positions):
    row, column = (positions / CELL_UM).astype(int).T
    return values[row, column]


def test_the_range_is_where_the_correlogram_of_a_known_field_ends():
    # White noise under a Gaussian of SD s has the correlogram exp(-d^2 / 4 s^2), a tenth of which is at 3.03 s.
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, SIDE_UM, (20_000, 2))
    for scale in (60.0, 150.0):
        found = np.mean([moran_range(at(field(rng, scale), positions), positions, seed=k) for k in range(5)])
        assert 0.75 * 3.03 * scale <= found <= 1.3 * 3.03 * scale + 50  # read off in bins of 50 um
    assert moran_range(rng.normal(size=20_000), positions, seed=0) == 50.0
    assert moran_range(np.ones(30), positions[:30], seed=0) == 50.0
    assert moran_range(positions[:, 0], positions, seed=0) > 2000  # a slope over the slide has no range


def test_high_are_the_highest_fifth_of_those_that_have_a_value():
    values = np.append(np.arange(100.0), [np.nan] * 20)
    high = high_nuclei(values)
    assert high.sum() == 20
    assert high[80:100].all()
    assert not high_nuclei(np.full(5, np.nan)).any()


def null(seed):
    """Return p of both tests, and of a test of single nuclei, where attribution and labels are unrelated."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, SIDE_UM, (4000, 2))
    values = at(field(rng, 120.0), positions)
    high, inside, mixed = (
        high_nuclei(values),
        at(field(rng, 120.0), positions) > 0.5,
        at(field(rng, 40.0), positions) > 0.5,
    )
    labelled = Labelled(("a",), np.where(inside, 0, -1), np.full(4000, -1), positions)
    # The range of the field is 3.03 x 120 um, less than a block.
    between = between_blocks(high, labelled, block_um=600, permutations=199, seed=seed, replicates=20)["a"].p
    within = within_blocks(high, mixed, positions, block_um=600, seed=seed).p
    table = [[(high & inside).sum(), (high & ~inside).sum()], [(~high & inside).sum(), (~high & ~inside).sum()]]
    return between, within, stats.fisher_exact(table).pvalue


@pytest.mark.slow
def test_unrelated_fields_are_rejected_as_often_as_they_may_and_single_nuclei_far_too_often():
    p = np.array([null(seed) for seed in range(200)])
    low, high = stats.binom.interval(0.99, len(p), 0.05)
    between, within, naive = (p <= 0.05).sum(axis=0)
    assert low <= between <= high
    assert low <= within <= high
    assert naive > 3 * high


def planted(seed, strength):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, SIDE_UM, (4000, 2))
    label = at(field(rng, 300.0), positions) > 0.5
    values = at(field(rng, 120.0), positions) + strength * label
    return positions, label, high_nuclei(values)


def test_a_class_with_more_is_found_and_the_share_is_counted_right():
    positions, label, high = planted(1, 2.0)
    labelled = Labelled(("tumour", "none"), np.where(label, 0, -1), np.full(4000, -1), positions)
    found = between_blocks(high, labelled, block_um=600, permutations=999, seed=0)
    one = found["tumour"]
    assert one.p == 1 / 1000
    assert (one.share, one.rest_share) == (high[label].mean(), high[~label].mean())
    assert one.ci[0] < one.difference == one.share - one.rest_share < one.ci[1]
    assert one.to_dict()["ratio"] == one.share / one.rest_share
    assert found["none"].p is None
    assert found["none"].reason == "not tested: nothing to compare with"
    weaker = between_blocks(planted(1, 0.0)[2], labelled, block_um=600, permutations=999, seed=0)["tumour"]
    assert weaker.p > 0.05


def test_a_type_that_is_mixed_with_others_is_found_within_blocks():
    rng = np.random.default_rng(2)
    positions = rng.uniform(0, SIDE_UM, (6000, 2))
    member = rng.random(6000) < 0.3
    high = rng.random(6000) < np.where(member, 0.35, 0.15)
    found = within_blocks(high, member, positions, block_um=600, seed=0)
    assert found.blocks == 100
    assert found.p < 0.001
    assert found.ci[0] < 0.2 < found.ci[1]
    by_hand = [
        high[b & member].mean() - high[b & ~member].mean()
        for i in range(10)
        for j in range(10)
        for b in [(positions - positions.min(axis=0)) // 600 @ [10, 1] == 10 * i + j]
    ]
    assert found.difference == pytest.approx(np.mean(by_hand))


def test_few_blocks_are_not_tested():
    positions = np.random.default_rng(3).uniform(0, 2000, (900, 2))
    member, high = positions[:, 0] > 1000, np.arange(900) % 5 == 0
    labelled = Labelled(("a",), np.where(member, 0, -1), np.full(900, -1), positions)
    one = between_blocks(high, labelled, block_um=600, permutations=99, seed=0)["a"]
    other = within_blocks(high, np.arange(900) % 2 == 0, positions, block_um=600, seed=0)
    assert one.p is other.p is None
    assert one.reason == other.reason == "not tested: fewer than 20 blocks"
    nobody = within_blocks(high[:0], high[:0], positions[:0], block_um=600, seed=0)
    assert (nobody.blocks, nobody.p, nobody.nuclei) == (0, None, 0)
