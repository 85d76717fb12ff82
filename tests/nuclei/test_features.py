"""Shape by the formulas of plane figures, stain by hand."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

from stimage_qupath import names
from stimage_qupath.nuclei.features import diameter_warning, shape_measurements, stain_measurements
from stimage_qupath.slide.stain import hematoxylin_eosin


def measured(*polygons: shapely.Polygon, mpp: float = 1.0) -> dict[str, list[float]]:
    found = shape_measurements(np.array(polygons, dtype=object), mpp=mpp)
    assert all(values.dtype == np.float32 for values in found.values())
    return {name: values.tolist() for name, values in found.items()}


@pytest.mark.parametrize("angle", [0, 17, 45, 90, 133])
def test_a_rectangle_at_any_angle(angle: float) -> None:
    found = measured(affinity.rotate(shapely.box(100, 50, 130, 90), angle), mpp=0.25)
    assert found[names.AREA] == pytest.approx([1200 * 0.0625])
    assert found[names.LENGTH] == pytest.approx([140 * 0.25])
    assert found[names.MAX_DIAMETER] == pytest.approx([50 * 0.25])
    assert found[names.MIN_DIAMETER] == pytest.approx([30 * 0.25])
    assert found[names.CIRCULARITY] == pytest.approx([4 * np.pi * 1200 / 140**2])
    assert found[names.SOLIDITY] == pytest.approx([1])


def test_an_equilateral_triangle_has_its_height_as_smallest_diameter() -> None:
    found = measured(shapely.Polygon([(0, 0), (6, 0), (3, 3 * 3**0.5)]))
    assert found[names.MAX_DIAMETER] == pytest.approx([6])
    assert found[names.MIN_DIAMETER] == pytest.approx([3 * 3**0.5])


def test_an_l_shape_is_less_solid_than_its_hull() -> None:
    l_shape = shapely.box(0, 0, 3, 1).union(shapely.box(0, 0, 1, 3))  # 5 of a hull of 9 - 2
    assert measured(l_shape)[names.SOLIDITY] == pytest.approx([5 / 7])


def test_a_disc_is_circular_and_the_order_is_kept() -> None:
    large, small = shapely.Point(0, 0).buffer(9, quad_segs=64), shapely.Point(3, 3).buffer(4, quad_segs=8)
    found = measured(large, shapely.box(0, 0, 2, 2), small)
    assert found[names.CIRCULARITY] == pytest.approx([1, np.pi / 4, 1], abs=0.01)
    assert found[names.MAX_DIAMETER] == pytest.approx([18, 8**0.5, 8], abs=0.01)
    assert found[names.MIN_DIAMETER] == pytest.approx([18, 2, 8], rel=0.01)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=12))
def test_diameters_of_any_hull_are_its_widths_seen_from_all_sides(points: list[tuple[float, float]]) -> None:
    hull = shapely.MultiPoint(points).convex_hull
    if hull.geom_type != "Polygon" or hull.area < 1:
        return
    found = measured(hull)
    angles = np.linspace(0, np.pi, 721)
    along = shapely.get_coordinates(hull) @ np.array([np.cos(angles), np.sin(angles)])
    widths = np.ptp(along, axis=0)
    assert found[names.MAX_DIAMETER][0] == pytest.approx(widths.max(), rel=1e-3)
    step_error = np.pi / 720 * widths.max()  # a width changes no faster with the angle than the largest width
    assert widths.min() - step_error <= found[names.MIN_DIAMETER][0] <= widths.min() * (1 + 1e-5)


def test_stain_is_the_mean_over_the_pixels_of_the_label() -> None:
    rgb = np.full((3, 4, 3), 255, np.uint8)
    rgb[0, 0], rgb[0, 1], rgb[2, 3] = (90, 60, 150), (120, 90, 170), (220, 120, 170)
    labels = np.zeros((3, 4), np.int32)
    labels[0, :2], labels[2, 3], labels[1, 1] = 5, 7, 6
    found = stain_measurements(rgb, labels, np.array([5, 7], np.int32))
    h, e = hematoxylin_eosin(rgb)
    assert found[names.HEMATOXYLIN_MEAN].tolist() == pytest.approx([(h[0, 0] + h[0, 1]) / 2, h[2, 3]])
    assert found[names.EOSIN_MEAN].tolist() == pytest.approx([(e[0, 0] + e[0, 1]) / 2, e[2, 3]])
    assert found[names.HEMATOXYLIN_MEAN].dtype == np.float32


def test_every_measurement_has_a_table_column() -> None:
    stains = stain_measurements(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), np.int32), np.array([1], np.int32))
    assert {*measured(shapely.box(0, 0, 1, 1)), *stains} <= set(names.TABLE_COLUMN)


@pytest.mark.parametrize("median", [4.0, 7.5, 20.0])
def test_plausible_nuclei_need_no_warning(median: float) -> None:
    assert diameter_warning(median, 0.25) is None


@pytest.mark.parametrize("median", [1.9, 3.99, 20.1, 64.0])
def test_implausible_nuclei_name_both_numbers(median: float) -> None:
    warning = diameter_warning(median, 0.2525)
    assert warning is not None
    assert f"found {median:.1f} µm at a pixel size of 0.2525 µm" in warning
