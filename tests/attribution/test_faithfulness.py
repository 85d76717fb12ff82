"""An attribution that knows which nuclei matter wins against nuclei of the same looks; one that does not, does not."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.attribution.faithfulness import TestedBlock
from stimage_qupath.attribution.reader import Block
from stimage_qupath.attribution.repainted import Bounds
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.pipeline.faithfulness_verdict import verdict

GENES = ("UP", "DOWN")
SIDE, STEP = 240, 12


class RedLessBlue:
    """One feature: the mean of red minus blue in a window; haematoxylin, area and place say nothing of it."""

    def __init__(self, card):
        self.card = card

    def encode(self, image, centres, *, device, batch_size, cancelled):
        half = self.card.tile_px // 2
        found = []
        for x, y in np.floor(centres).astype(int):
            tile = image[max(0, y - half) : y + half, max(0, x - half) : x + half].astype(float)
            found.append((tile[..., 0] - tile[..., 2]).mean())
        return np.array(found, np.float32)[:, None]


@pytest.fixture(scope="module")
def make_block(make_card, ask, make_ensemble):
    """Return a maker of blocks of 400 nuclei, of which some are redder than others, and how much."""
    ensemble = make_ensemble(1, weight=[[[2.0, -1.0]], [[2.0, -1.0]]], sd=20.0)
    encoder = RedLessBlue(make_card(mpp=1.0, tile_px=80, width=1))

    def make(seed):
        rng = np.random.default_rng(seed)
        image = rng.integers(195, 205, (SIDE, SIDE, 3)).astype(np.uint8)
        labels = np.full((SIDE, SIDE), 400, np.int32)
        redness = rng.choice([-30.0, 0.0, 30.0], 400)
        middles = []
        for number in range(400):
            y, x = STEP * (number // 20) + 2, STEP * (number % 20) + 2
            high, wide = rng.integers(4, 9, 2)
            labels[y : y + high, x : x + wide] = number
            image[y : y + high, x : x + wide] = [100 + redness[number], 60, 100 - redness[number]]
            middles.append((x + wide / 2, y + high / 2))
        centres = np.stack(np.meshgrid(np.arange(40, 220, 40.0), np.arange(40, 220, 40.0)), axis=-1).reshape(-1, 2)
        scene = Scene(image, labels, 400, 401, centres, np.ones(len(centres)), 1.0)
        mask = labels < 400
        block = Block(scene, np.arange(400) + 400 * seed, np.array([*middles, (120, 120)]), mask, (0, 0))
        return TestedBlock(block, Bounds(0, 0, SIDE, SIDE), ask(encoder, ensemble=ensemble)), redness

    return make


@pytest.mark.flow
def test_one_that_knows_wins_and_one_that_does_not_draws(make_block):
    knows, looks = [], []
    for seed in range(20):
        tested, redness = make_block(seed)
        knows.append(tested.faithfulness(np.stack([redness, -redness], axis=1), seed=0, controls=1))
        area = tested.covariates[:, 0]
        looks.append(tested.faithfulness(np.stack([area, area], axis=1), seed=0, controls=1))
    found = verdict(GENES, (0.05, 0.1, 0.2, 0.4), knows, [], seed=0)
    for gene in GENES:
        test = found[gene]["over_matched_nuclei"]["both"]
        assert test["above"] == 20
        assert test["size"] > 2
        assert test["p_holm"] < 0.01
        assert found[gene]["over_random_regions"]["p_holm"] < 0.01
    blind = verdict(GENES, (0.05, 0.1, 0.2, 0.4), looks, [], seed=0)
    assert all(blind[gene]["over_matched_nuclei"]["both"]["p_holm"] > 0.05 for gene in GENES)
    balance = blind["UP"]["balance"]
    assert balance["of_all_nuclei"]["area"] > 0.8  # what comes first is large
    assert abs(balance["of_matched_nuclei"]["area"]) < 0.4 * balance["of_all_nuclei"]["area"]  # and so are controls


def test_curves_start_from_the_block_as_it_is_and_few_blocks_are_not_tested(make_block):
    tested, redness = make_block(1)
    one = tested.faithfulness(np.stack([redness, redness], axis=1), seed=0, controls=2)
    found = verdict(GENES, (0.05, 0.1, 0.2, 0.4), [one], [], seed=0)
    up, down = found["UP"], found["DOWN"]
    assert up["curves"]["deletion"]["ordered"][3] < up["curves"]["deletion"]["ordered"][0] < 0
    assert down["curves"]["deletion"]["ordered"][3] > 0  # what raises one gene lowers the other
    assert up["over_matched_nuclei"]["both"]["p"] is None
    assert up["reason"] == "not tested: fewer than 20 blocks"
    assert one.lead[2] == pytest.approx(one.lead[:2].mean(axis=0))


def test_the_same_seed_gives_the_same_controls(make_block):
    tested, redness = make_block(2)
    values = np.stack([redness, -redness], axis=1)
    one, other = (tested.faithfulness(values, seed=3, controls=1) for _ in range(2))
    np.testing.assert_array_equal(one.matched, other.matched)
    np.testing.assert_array_equal(one.regions, other.regions)


def test_nuclei_without_an_attribution_go_last(make_block):
    tested, redness = make_block(3)
    some = np.where(np.arange(400) < 100, redness, np.nan)
    found = tested.faithfulness(np.stack([some, some], axis=1), seed=0, controls=1)
    assert np.isfinite(found.ordered).all()
