"""Leaving out one nucleus: known where the encoder adds up, and the same by the fast way as by the slow one."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.attribution import ablation
from stimage_qupath.attribution.game import by_windows
from stimage_qupath.attribution.local_ablation import feature_boxes
from stimage_qupath.attribution.patches import batches, repainted
from stimage_qupath.errors import CancelledError
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.context import ContextEncoder


class AbsorbedGreen:
    """One feature: the mean absorbed green of the window, in tenths."""

    def __init__(self, card):
        self.card = card

    def encode(self, image, centres, *, device, batch_size, cancelled):
        half = self.card.tile_px // 2
        corners = np.floor(centres - half + 0.5).astype(int)
        tiles = [image[y : y + 2 * half, x : x + 2 * half, 1] for x, y in corners]
        return np.array([[10 * (255.0 - t).mean() / 255] for t in tiles], dtype=np.float32)


@pytest.fixture(scope="module")
def additive(make_card):
    return AbsorbedGreen(make_card(tile_px=40, pads_edges=True))


def test_a_blob_contributes_the_green_it_absorbs(blobs, additive, ask, make_ensemble):
    """Green is additive: a place loses what the blob's pixels in its window absorb, times the weight of the head."""
    weight = np.array([[[2.0, -1.0]], [[4.0, -3.0]]])  # two members, one feature, two genes
    question = ask(additive, ensemble=make_ensemble(1, weight=weight))
    found = ablation.attribute(blobs.scene, blobs.filled, question)
    absorbed = 255.0 - blobs.scene.image[..., 1]
    expected = np.zeros(blobs.scene.features)
    for (x, y), w in zip(blobs.scene.centres, blobs.scene.weights, strict=True):
        box = np.s_[int(y) - 20 : int(y) + 20, int(x) - 20 : int(x) + 20]
        for feature in range(blobs.scene.features):
            expected[feature] += w * absorbed[box][blobs.scene.labels[box] == feature].sum() * 10 / 255 / 1600
    by_output = expected[:, None] * np.array([2.0, 4.0, -1.0, -3.0])  # gene by gene, members within
    np.testing.assert_allclose(found.sums, by_output, rtol=1e-4, atol=1e-5)
    assert expected[: blobs.scene.nuclei].max() > 1
    assert (np.abs(found.gap) < 1e-3 * np.abs(found.difference)).all()


def test_windows_of_statistics_give_the_same_many_at_a_time_as_one_by_one(tissue, ask):
    scene, filled = tissue
    question = ask(ColourEncoder())
    fast = ablation.attribute(scene, filled, question)
    values = question.values(scene.image, scene.centres)
    for feature in range(scene.features):
        without = scene.without(np.arange(scene.features) == feature, filled)
        lost = scene.weights @ (values - question.values(without, scene.centres))
        np.testing.assert_allclose(fast.sums[feature], lost, rtol=1e-3, atol=2e-5)
    everything = scene.without(np.ones(scene.features, bool), filled)
    lost = scene.weights @ (values - question.values(everything, scene.centres))
    np.testing.assert_allclose(fast.difference, lost, rtol=1e-6)


def test_batch_size_changes_nothing(blobs, additive, ask):
    small, large = (
        ablation.attribute(blobs.scene, blobs.filled, ask(additive, batch_size=size)).sums for size in (1, 64)
    )
    np.testing.assert_array_equal(small, large)


def test_a_cancelled_ablation_stops(tissue, blobs, additive, ask):
    with pytest.raises(CancelledError):
        ablation.attribute(*tissue, ask(ColourEncoder(), cancelled=lambda: True))
    with pytest.raises(CancelledError):
        ablation.attribute(blobs.scene, blobs.filled, ask(additive, cancelled=lambda: True))


def test_a_game_without_anyone_is_the_filled_window(blobs, additive, ask):
    question = ask(additive)
    games = []
    by_windows(blobs.scene, blobs.filled, question, lambda game: games.append(game) or np.zeros((game.players, 6)))
    game = max(games, key=lambda game: abs(game.whole - game(np.zeros((1, game.players), bool))[0]).max())
    nobody = game(np.zeros((1, game.players), bool))[0]
    np.testing.assert_allclose(nobody, question.outputs.of_arrays(np.zeros((1, 1), np.float32))[0], atol=1e-6)
    assert not np.allclose(nobody, game.whole)


def test_boxes_hold_their_feature():
    labels = np.full((6, 7), -1, np.int32)
    labels[2:4, 1:5] = 2
    labels[5, 6] = 0
    np.testing.assert_array_equal(feature_boxes(labels, 3), [[6, 5, 7, 6], [0, 0, 0, 0], [1, 2, 5, 4]])


@pytest.mark.parametrize(("target", "least_r", "slope_within"), [("member 0", 0.99, 0.06), ("epistemic", 0.95, 0.2)])
def test_maps_of_a_network_give_nearly_the_same_around_each_nucleus_as_on_the_whole(
    tissue, ask, target, least_r, slope_within
):
    """Nuclei of flat colour every 40 px on pure noise are a harder case than tissue, where sums correlate .997."""
    scene, filled = tissue
    question = ask(ContextEncoder(), genes=("UP",), target=target)
    found = ablation.attribute(scene, filled, question)
    together = found.sums[:, 0]
    values = question.values(scene.image, scene.centres)
    pictures = (scene.without(np.arange(scene.features) == k, filled) for k in range(scene.nuclei))
    alone = np.array([scene.weights @ (values - question.values(p, scene.centres)) for p in pictures])[:, 0]
    together = together[: scene.nuclei]
    assert np.corrcoef(together, alone)[0, 1] > least_r
    assert together @ alone / (alone @ alone) == pytest.approx(1, abs=slope_within)
    np.testing.assert_allclose(found.difference, question.difference(scene, filled), rtol=0.02)


def test_patches_together_or_one_at_a_time_are_the_same(tissue, ask, monkeypatch):
    scene, filled = tissue
    question = ask(ContextEncoder(), genes=("UP",), target="member 0")
    many = ablation.attribute(scene, filled, question).sums
    monkeypatch.setattr("stimage_qupath.attribution.patches.PATCH_PIXELS", 1)
    np.testing.assert_allclose(ablation.attribute(scene, filled, question).sums, many, rtol=1e-4, atol=1e-5)


def test_batches_hold_everyone_once_and_parts_of_one_size():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 300, (200, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 40, (200, 2))], axis=1)
    boxes[7] = 0
    found = list(batches(boxes, 16))
    assert sorted(np.concatenate(found).tolist()) == [k for k in range(200) if k != 7]
    for group in found:
        steps = -(-boxes[group, 2:] // 16) - boxes[group, :2] // 16
        assert (steps == steps[0]).all()


def test_a_repainted_part_shows_the_fill_where_the_feature_was(tissue):
    scene, filled = tissue
    boxes = feature_boxes(scene.labels, scene.features)
    corners, pictures = repainted(scene, filled, boxes, np.array([6]), 16)
    left, top = (corners[0] * 16).tolist()
    height, width = pictures.shape[2:]
    assert left <= boxes[6, 0]
    assert boxes[6, 3] <= top + height
    box = np.s_[top : top + height, left : left + width]
    expected = np.where((scene.labels[box] == 6)[..., None], filled[box], scene.image[box])
    np.testing.assert_array_equal(pictures[0].movedim(0, -1).numpy(), expected)
