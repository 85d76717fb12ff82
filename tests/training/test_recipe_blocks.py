"""Members that take turns with the encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.results import Panel, never_cancelled, no_progress
from stimage_qupath.spots.section import Section
from stimage_qupath.training.dataset import EncodedSection
from stimage_qupath.training.recipe import Recipe, train_ensemble

GENES = ("A", "B", "C", "D")
WIDTHS = (5, 3)


def sections(*, other_block=None):
    """Three sections whose first genes follow the first feature of each block; the second block may be replaced."""
    found = []
    for number in range(3):
        rng = np.random.default_rng(number)
        features = rng.normal(size=(30, sum(WIDTHS))).astype(np.float32)
        log_mean = np.stack([features[:, 0], -features[:, 0], features[:, 5], np.zeros(30)], axis=1) + 4
        counts = sparse.csr_matrix(rng.poisson(np.exp(log_mean)).astype(float))
        if other_block is not None:
            features[:, 5:] = np.random.default_rng((other_block, number)).normal(size=(30, 3))
        positions = np.stack(np.divmod(np.arange(30.0), 6), axis=1) * 200
        section = Section(f"S{number}", f"P{number}", Path("none.png"), 1.0, GENES, counts, positions)
        found.append(EncodedSection(section, features, 1.0, str(number)))
    return found


def train(data, **changes):
    recipe = Recipe(members=5, seed=0, **changes)
    return train_ensemble(data, Panel(GENES), recipe, on_progress=no_progress, cancelled=never_cancelled)


@pytest.fixture(scope="module")
def two():
    return train(sections(), blocks=WIDTHS)


def test_one_block_is_no_block():
    alone, block = train(sections()), train(sections(), blocks=(sum(WIDTHS),))
    for name in ("projection", "loading", "bias", "log_total_count", "feature_mean"):
        np.testing.assert_array_equal(getattr(alone.ensemble.heads, name), getattr(block.ensemble.heads, name))
    for a, b in zip(alone.out_of_fold, block.out_of_fold, strict=True):
        np.testing.assert_array_equal(a, b)
    assert alone.choice == block.choice


def test_members_take_turns_and_see_their_own_features_alone(two):
    projection = two.ensemble.heads.projection
    assert projection.shape[:2] == (5, 8)
    assert (projection[0::2, 5:] == 0).all()
    assert (projection[1::2, :5] == 0).all()
    assert (np.abs(projection[0::2, :5]).max(axis=(1, 2)) > 0).all()
    assert (np.abs(projection[1::2, 5:]).max(axis=(1, 2)) > 0).all()
    assert len(two.choices) == 2


def test_what_one_encoder_says_changes_nothing_in_the_other_ones_members(two):
    changed = train(sections(other_block=9), blocks=WIDTHS)
    ours, theirs = two.ensemble.heads.projection, changed.ensemble.heads.projection
    rank = min(two.choices[0].rank, changed.choices[0].rank)
    np.testing.assert_array_equal(ours[0::2, :5, :rank], theirs[0::2, :5, :rank])
    assert two.choices[0] == changed.choices[0]
    assert (ours[1::2, 5:, 0] != theirs[1::2, 5:, 0]).any()


def test_each_member_learns_the_gene_that_its_encoder_shows(two):
    heads = two.ensemble.heads
    weight = heads.weight  # (member, feature, gene)
    assert weight[0, 0, 0] > 0.2 > -0.2 > weight[0, 0, 1]
    assert weight[1, 5, 2] > 0.2
    assert np.abs(weight[1, :, 0]).max() < 0.2  # the second encoder shows nothing of the first gene


def test_predictions_of_unseen_sections_are_the_mixture_of_all_encoders(two):
    mean = np.concatenate(two.out_of_fold)
    features = np.concatenate([s.features for s in sections()])
    assert np.corrcoef(np.log(mean[:, 0]), features[:, 0])[0, 1] > 0.7
    assert np.corrcoef(np.log(mean[:, 2]), features[:, 5])[0, 1] > 0.7


def test_more_encoders_than_members_and_other_widths_are_refused():
    with pytest.raises(UsageError, match="expected a member for each of 3 encoders, found 2"):
        Recipe(members=2, seed=0, blocks=(1, 1, 1))
    with pytest.raises(ValueError, match="expected 9 features of 2 encoders, found 8"):
        train(sections(), blocks=(5, 4))
