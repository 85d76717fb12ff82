"""Stain of nuclei and of the ring around them, on pictures of which it is known."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from stimage_qupath.nuclei.appearance import CHANNELS, MPP, RING_UM, WIDTH, appearance
from stimage_qupath.slide.stain import hematoxylin_eosin, optical_density

PURPLE, PINK = (95, 60, 145), (226, 168, 200)


def picture(radius=12.0, centre=(40.0, 40.0), size=80):
    """Return a purple disc on pink and its outline."""
    y, x = np.mgrid[:size, :size] + 0.5
    inside = np.hypot(x - centre[0], y - centre[1]) < radius
    image = np.where(inside[..., None], PURPLE, PINK).astype(np.uint8)
    return image, np.array([shapely.Point(centre).buffer(radius, quad_segs=64)], dtype=object)


def named(row):
    keys = [f"{place} {moment} {c}" for place in ("in", "ring") for moment in ("mean", "sd") for c in CHANNELS]
    return dict(zip(keys, row.tolist(), strict=True))


def test_a_flat_nucleus_on_flat_tissue_has_the_colour_of_each():
    image, outline = picture()
    found = named(appearance(image, outline)[0])
    purple, pink = (np.array([[c]], dtype=np.uint8) for c in (PURPLE, PINK))
    for place, colour in (("in", purple), ("ring", pink)):
        for i, channel in enumerate(("red", "green", "blue")):
            assert found[f"{place} mean {channel}"] == pytest.approx(optical_density(colour)[0, 0, i], abs=1e-5)
            assert found[f"{place} sd {channel}"] == pytest.approx(0, abs=1e-4)
        hematoxylin, eosin = hematoxylin_eosin(colour)
        assert found[f"{place} mean hematoxylin"] == pytest.approx(hematoxylin[0, 0], abs=1e-5)
        assert found[f"{place} mean eosin"] == pytest.approx(eosin[0, 0], abs=1e-5)


def test_the_ring_is_three_micrometres_wide_and_leaves_the_nucleus_out():
    image, outline = picture()
    y, x = np.mgrid[:80, :80] + 0.5
    distance = np.hypot(x - 40, y - 40)
    far = np.where((distance >= 12 + RING_UM / MPP)[..., None], (255, 255, 255), image).astype(np.uint8)
    np.testing.assert_allclose(appearance(far, outline)[:, 12:17], appearance(image, outline)[:, 12:17], atol=0.01)
    near = np.where(((distance >= 12) & (distance < 18))[..., None], (255, 255, 255), image).astype(np.uint8)
    assert appearance(near, outline)[0, 12] == pytest.approx(0, abs=0.01)  # ring of glass has no density


def test_grain_is_what_a_checkerboard_has_and_a_flat_nucleus_lacks():
    image, outline = picture(radius=32.0)  # large, so that its edge, which is grain too, hardly counts
    board = image.copy()
    board[::2, ::2] = (60, 30, 110)
    flat, grained = (named(appearance(i, outline)[0]) for i in (image, board))
    assert grained["in mean grain"] > 2 * flat["in mean grain"]
    assert grained["in sd hematoxylin"] > 0.02


def test_nuclei_move_with_the_picture_and_do_not_depend_on_company():
    image, outline = picture(centre=(30.0, 34.0))
    moved, there = picture(centre=(47.0, 41.0))
    both = appearance(image, np.array([outline[0], shapely.box(60, 60, 70, 70)], dtype=object))
    np.testing.assert_allclose(both[0], appearance(moved, there)[0], atol=1e-5)
    np.testing.assert_allclose(both[0], appearance(image, outline)[0], atol=1e-6)


def test_nuclei_at_the_edge_smaller_than_a_pixel_or_outside_have_finite_numbers():
    image, _ = picture()
    odd = [shapely.Point(0, 0).buffer(5), shapely.Point(40.2, 40.3).buffer(0.1), shapely.Point(200, 200).buffer(4)]
    found = appearance(image, np.array(odd, dtype=object))
    assert found.shape == (3, WIDTH)
    assert np.isfinite(found).all()
    assert appearance(image, np.array([], dtype=object)).shape == (0, WIDTH)
