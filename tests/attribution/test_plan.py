"""Outlines to pixels, places and blocks: by hand, and nothing lost between blocks."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from stimage_qupath.attribution.labels import divide_background, draw_nuclei
from stimage_qupath.attribution.plan import CELLS_A_BLOCK, Grid, Outlines, places_on_grid
from stimage_qupath.attribution.reader import SceneReader
from stimage_qupath.slide.reader import open_slide


def square(x, y, side):
    return np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)], dtype=float)


def test_a_pixel_belongs_to_the_outline_that_holds_its_centre():
    labels = draw_nuclei([square(1.4, 2.0, 3.0)], (8, 8))
    expected = np.full((8, 8), -1)
    expected[2:5, 1:4] = 0  # centres at 1.5, 2.5, 3.5 across and 2.5, 3.5, 4.5 down
    np.testing.assert_array_equal(labels, expected)


def test_of_two_the_smaller_is_on_top_and_none_is_lost():
    labels = draw_nuclei([square(2, 2, 2), square(0, 0, 8), square(6.2, 6.2, 0.2)], (10, 10))
    assert [(labels == n).sum() for n in range(3)] == [4, 64 - 4 - 1, 1]
    assert labels[6, 6] == 2
    assert draw_nuclei([square(20, 20, 3)], (10, 10)).max() == -1


def test_background_is_cut_by_a_grid_that_the_slide_fixes():
    labels = np.full((6, 8), -1, np.int32)
    labels[0, 0], labels[5, 7] = 0, 1  # the second belongs to another block
    divided, middles = divide_background(labels, ours=1, corner=(2, 4), block=(1, 0), cell=4, cells=2)
    # The picture covers x 2 to 10 and y 4 to 10; the block covers x 0 to 8 and y 8 to 16.
    assert divided[0, 0] == 0
    assert divided[5, 7] == -1
    np.testing.assert_array_equal(np.unique(divided[4:, :6]), [1, 2])
    assert (divided[:4].ravel()[1:] == -1).all()
    assert (divided[4:, 6:] == -1).all()
    np.testing.assert_allclose(middles, [(0, 6), (4, 6)])


def test_places_carry_the_predictions_that_rest_on_them():
    centroids = np.array([(10.0, 0.0), (15.0, 5.0), (20.0, 20.0)])
    places = places_on_grid(centroids, 10.0)
    weights = {tuple(p): w for p, w in zip(places.points_px.tolist(), places.weights, strict=True)}
    quarter = 0.25
    assert weights == pytest.approx(
        {(10, 0): 1 + quarter, (20, 0): quarter, (10, 10): quarter, (20, 10): quarter, (20, 20): 1.0}
    )


def test_blocks_share_out_all_nuclei():
    grid = Grid(downsample=2.0, cell=10)
    side = 2.0 * 10 * CELLS_A_BLOCK
    centroids = np.random.default_rng(0).uniform(0, 3 * side, (50, 2))
    blocks = grid.blocks(centroids)
    assert sorted(np.concatenate([nuclei for _, nuclei in blocks]).tolist()) == list(range(50))
    for (row, column), nuclei in blocks:
        assert (np.floor(centroids[nuclei] / side) == (column, row)).all()
    assert [block for block, _ in blocks] == sorted(block for block, _ in blocks)
    assert grid.blocks(np.empty((0, 2))) == []


def test_a_scene_shows_the_nuclei_where_they_are_and_holds_every_window(formula_slide, make_card, monkeypatch):
    """The darkest pixel of each nucleus is the middle of its blob; pixels of two blocks are never in both."""
    for module in ("plan", "reader"):
        monkeypatch.setattr(f"stimage_qupath.attribution.{module}.CELLS_A_BLOCK", 6)
    made = formula_slide(mpp=0.5)
    blobs = made.picture.blobs
    circles = shapely.buffer(shapely.points(blobs[:, :2]), 2.5 * blobs[:, 2])
    outlines = Outlines.from_polygons(circles, blobs[:, :2])
    card = make_card(mpp=1.0, tile_px=60, pads_edges=True)
    grid = Grid.of(card, 0.5)
    with open_slide(made.path) as slide:
        reader = SceneReader(
            slide=slide,
            mpp=0.5,
            card=card,
            outlines=outlines,
            places=places_on_grid(blobs[:, :2], 100.0),
            grid=grid,
            reach_px=outlines.reach_px(),
            sees_px=30,
        )
        claimed = {}
        for block, nuclei in grid.blocks(blobs[:, :2])[:5]:
            read = reader.read(block, nuclei)
            scene = read.scene
            assert (scene.centres >= 30).all()
            assert (scene.centres <= np.array(scene.labels.shape[::-1]) - 30).all()
            green = scene.image[..., 1].astype(int)
            for k, nucleus in enumerate(nuclei):
                y, x = np.unravel_index(np.argmin(np.where(scene.labels == k, green, 999)), green.shape)
                at = (np.array([x, y]) + 0.5 + read.corner) * grid.downsample
                assert np.abs(at - blobs[nucleus, :2]).max() < 3
            for y, x in np.argwhere(scene.explained)[::97]:
                place = (x + read.corner[0], y + read.corner[1])
                assert claimed.setdefault(place, block) == block


def test_outlines_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected outlines of 2 nuclei, found 1 with 3 vertices"):
        Outlines(np.zeros((3, 2), np.float32), np.array([0, 3]), np.zeros((2, 2)))
