"""Label image to polygons: area, centroid, frame and validity."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from stimage_qupath.nuclei.outline import MAX_VERTICES, outlines


def disc(radius: float, x: float, y: float, side: int = 64) -> NDArray[np.int32]:
    """Return the pixels whose centre lies in a disc."""
    row, col = np.mgrid[:side, :side] + 0.5
    return (np.hypot(col - x, row - y) < radius).astype(np.int32)


def filled_areas(labels: NDArray[np.int32]) -> list[int]:
    """Return for each label the pixels of its largest piece with holes filled; diagonal gaps are not closed."""
    areas = []
    for value in np.unique(labels[labels > 0]):
        pieces, count = ndimage.label(labels == value)
        filled = [ndimage.binary_fill_holes(pieces == i, np.ones((3, 3))).sum() for i in range(1, count + 1)]
        areas.append(int(max(filled)))
    return areas


@pytest.mark.parametrize("downsample", [1.0, 0.7246, 2.0, 4.06])
@pytest.mark.parametrize("radius", [3.0, 7.4, 15.0])
def test_area_and_centroid_of_discs_at_every_scale(radius: float, downsample: float) -> None:
    labels = disc(radius, 31.3, 30.8)
    _, (polygon,) = outlines(labels, x=100.5, y=-40.25, downsample=downsample, tolerance_px=0.5 * downsample)
    row, col = (index.mean() + 0.5 for index in np.nonzero(labels))
    assert polygon.area == pytest.approx(labels.sum() * downsample**2, rel=0.01)
    assert polygon.area == pytest.approx(np.pi * (radius * downsample) ** 2, rel=0.05)
    assert polygon.centroid.x == pytest.approx(100.5 + col * downsample, abs=0.02 * downsample)
    assert polygon.centroid.y == pytest.approx(-40.25 + row * downsample, abs=0.02 * downsample)


@pytest.mark.parametrize(("radius", "least"), [(4.0, 0.9), (8.0, 0.95), (20.0, 0.975)])
def test_a_disc_is_round(radius: float, least: float) -> None:
    _, (polygon,) = outlines(disc(radius, 32.2, 31.9), x=0, y=0, downsample=1, tolerance_px=0.5)
    assert 4 * np.pi * polygon.area / polygon.length**2 > least
    assert polygon.hausdorff_distance(shapely.Point(32.2, 31.9).buffer(radius)) < 0.9


def test_one_pixel_has_its_own_square() -> None:
    labels = np.zeros((4, 5), np.int32)
    labels[2, 3] = 9
    values, (polygon,) = outlines(labels, x=0, y=0, downsample=2, tolerance_px=0.1)
    assert values.tolist() == [9]
    assert polygon.area == pytest.approx(4)
    assert (polygon.centroid.x, polygon.centroid.y) == pytest.approx((7, 5))


def test_the_largest_piece_counts_and_holes_are_filled() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[1:3, 1:3] = 4
    labels[6:16, 6:16] = 4
    labels[9:12, 9:12] = 0
    _, (polygon,) = outlines(labels, x=0, y=0, downsample=1, tolerance_px=0.2)
    assert len(polygon.interiors) == 0
    assert polygon.area == pytest.approx(100, rel=0.01)
    assert (polygon.centroid.x, polygon.centroid.y) == pytest.approx((11, 11))


def test_a_ring_and_the_nucleus_inside_it_are_two() -> None:
    labels = disc(12, 32, 32) * 2
    labels[disc(7, 32, 32) > 0] = 0
    labels[disc(4, 32, 32) > 0] = 1
    values, polygons = outlines(labels, x=0, y=0, downsample=1, tolerance_px=0.2)
    assert values.tolist() == [1, 2]
    assert shapely.area(polygons) == pytest.approx([disc(4, 32, 32).sum(), disc(12, 32, 32).sum()], rel=0.01)


def test_touching_nuclei_keep_their_own_outline() -> None:
    labels = np.zeros((12, 22), np.int32)
    labels[1:11, 1:11], labels[1:11, 11:21] = 1, 2
    _, (left, right) = outlines(labels, x=0, y=0, downsample=1, tolerance_px=0.1)
    assert (left.area, right.area) == pytest.approx((100, 100))
    assert left.intersection(right).area < 2


def test_pixels_that_meet_at_a_corner_only_are_two_pieces() -> None:
    labels = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], np.int32)
    _, (polygon,) = outlines(labels, x=0, y=0, downsample=1, tolerance_px=0.1)
    assert polygon.area == pytest.approx(4, rel=0.01)


def test_an_image_without_nuclei_has_no_outline() -> None:
    values, polygons = outlines(np.zeros((5, 5), np.int32), x=0, y=0, downsample=1, tolerance_px=0.1)
    assert len(values) == len(polygons) == 0


def test_a_ragged_outline_has_at_most_256_vertices() -> None:
    comb = np.zeros((400, 700), np.int32)
    comb[2:20, 2:698] = 1
    comb[20:398, 2:698:6] = comb[20:398, 3:698:6] = comb[20:398, 4:698:6] = 1
    _, (polygon,) = outlines(comb, x=0, y=0, downsample=1, tolerance_px=0.01)
    assert len(polygon.exterior.coords) - 1 <= MAX_VERTICES
    assert polygon.is_valid
    assert polygon.area == pytest.approx(comb.sum(), rel=0.01)


def test_the_midpoints_are_the_contour_of_marching_squares() -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(40, 40)), 2) > 0.02
    mask[[0, -1]] = mask[:, [0, -1]] = False
    pieces, _ = ndimage.label(mask)
    largest = pieces == np.bincount(pieces[pieces > 0]).argmax()
    contours = find_contours(largest.astype(float), 0.5, fully_connected="low")
    theirs = max(shapely.Polygon(contour[:, ::-1]).area for contour in contours if len(contour) > 3)
    _, (polygon,) = outlines(largest.astype(np.int32), x=0, y=0, downsample=1, tolerance_px=0.1)
    assert polygon.area == pytest.approx(theirs + 0.5, rel=1e-6)


@settings(deadline=None, max_examples=150)
@given(arrays(np.int32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 3)))
def test_any_label_image_gives_valid_outlines_of_the_right_area(labels: NDArray[np.int32]) -> None:
    values, polygons = outlines(labels, x=0, y=0, downsample=1, tolerance_px=0.5)
    assert values.tolist() == np.unique(labels[labels > 0]).tolist()
    assert shapely.is_valid(polygons).all()
    assert set(shapely.get_type_id(polygons)) <= {shapely.GeometryType.POLYGON}
    assert shapely.get_num_interior_rings(polygons).sum() == 0
    assert shapely.area(polygons).tolist() == pytest.approx(filled_areas(labels), rel=1e-6)
