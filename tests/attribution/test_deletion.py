"""Curves of a model whose answer can be counted: the share of marked pixels in the block."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.attribution.deletion import Painter, scattered
from stimage_qupath.attribution.repainted import Bounds, Repainted
from stimage_qupath.attribution.scene import Scene

MARK = 77


class Marked:
    """One feature: how many pixels of a window of 40 px have a certain red."""

    def __init__(self, card):
        self.card = card

    def encode(self, image, centres, *, device, batch_size, cancelled):
        found = []
        for x, y in np.floor(centres).astype(int):
            found.append((image[y - 20 : y + 20, x - 20 : x + 20, 0] == MARK).sum() / 100)
        return np.array(found, np.float32)[:, None]


@pytest.fixture(scope="module")
def block(make_card, ask, make_ensemble):
    """Four nuclei of 4 x 5, 2 x 2, 3 x 4 and 4 x 5 px around one place; the first and the third are marked."""
    image = np.full((80, 80, 3), 200, np.uint8)
    labels = np.full((80, 80), 4, np.int32)
    for number, (y, x, height, width) in enumerate([(30, 30, 4, 5), (30, 40, 2, 2), (40, 30, 3, 4), (42, 42, 4, 5)]):
        labels[y : y + height, x : x + width] = number
        image[y : y + height, x : x + width] = MARK if number in (0, 2) else 90
    scene = Scene(image, labels, 4, 5, np.array([[40.0, 40.0]]), np.ones(1), 1.0)
    ensemble = make_ensemble(1, weight=[[[2.0, -1.0]], [[4.0, 1.0]]], sd=1.0)
    encoder = Marked(make_card(mpp=1.0, tile_px=40, width=1))
    return Repainted(scene, Bounds(25, 25, 60, 60), ask(encoder, ensemble=ensemble)), np.full_like(image, 200)


def test_curves_are_those_counted_by_hand(block):
    repainted, filled = block
    painter = Painter(repainted, filled, shares=(0.3, 0.6))
    # 56 px: the first holds 20 (36 %), so 30 % is nearest to it alone; 60 % (33.6) to the first and the third (32).
    curve = painter.curve(np.array([0, 2, 1, 3]))
    slope = np.array([3.0, 0.0]) / 100  # mean over members
    lost = np.array([20, 32])
    np.testing.assert_allclose(painter.untouched - curve.deletion, lost[:, None] * slope, atol=1e-6)
    np.testing.assert_allclose(painter.untouched - painter.bare, 32 * slope, atol=1e-6)
    np.testing.assert_allclose(curve.insertion - painter.bare, lost[:, None] * slope, atol=1e-6)
    other = painter.curve(np.array([3, 1, 0, 2]), gene=0)
    np.testing.assert_allclose(other.deletion, np.tile(painter.untouched[:1], (2, 1)), atol=1e-6)  # 20 and 24 + 20 px
    lead = curve.lead(other)
    assert lead[0, 0] == pytest.approx(0.03 * 26, abs=1e-6)  # mean of 20 and 32
    assert curve.lead(curve).tolist() == [[0, 0], [0, 0]]


def test_the_first_nuclei_are_counted_by_area(block):
    painter = Painter(*block, shares=(0.5,))
    assert painter.leading(np.array([1, 0, 2, 3]), 0.05).tolist() == [1]
    assert painter.leading(np.array([1, 0, 2, 3]), 0.4).tolist() == [1, 0]
    assert painter.leading(np.array([3, 0, 2, 1]), 0.5).tolist() == [3]  # 20 is nearer to 28 than 40 is
    assert painter.leading(np.array([3, 0, 2, 1]), 1.0).tolist() == [3, 0, 2, 1]


def test_random_regions_have_the_area_of_the_nuclei(block):
    repainted, filled = block
    painter, rng = Painter(repainted, filled, shares=(0.3,)), np.random.default_rng(0)
    tissue = np.zeros((80, 80), dtype=bool)
    tissue[26:60, 26:60] = True
    values = np.array([painter.regions(np.array([0, 1, 2, 3]), tissue, rng)[0, 0] for _ in range(40)])
    lost = (painter.untouched[0] - values) / 0.03
    assert np.allclose(lost, np.rint(lost), atol=1e-3)
    assert 0 < lost.mean() < 20 * 32 / (34 * 34) * 4  # on average what chance meets
    shapes = [(np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4))] * 6
    painted = scattered(shapes, Bounds(26, 26, 60, 60), tissue, rng)
    assert painted.sum() == 6 * 20  # apart from each other
    assert not scattered(shapes, Bounds(0, 0, 20, 20), tissue, rng).any()  # no tissue there


def test_a_block_without_places_is_refused(block):
    repainted, _ = block
    with pytest.raises(ValueError, match="expected a block with a place whose prediction is noted, found none"):
        Repainted(repainted.scene, Bounds(0, 0, 10, 10), repainted.question)
