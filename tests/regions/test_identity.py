"""The id of an outline is the outline's alone."""

from __future__ import annotations

import uuid

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from stimage_qupath.regions.identity import geometry_uuid

RING = [(0.0, 0.0), (10.25, 0.0), (12.0, 8.5), (3.0, 9.0)]
HOLE = [(2.0, 2.0), (5.0, 2.0), (4.0, 5.0)]


def test_it_is_a_fixed_version_5_uuid() -> None:
    found = geometry_uuid(shapely.Polygon(RING))
    assert uuid.UUID(found).version == 5
    # By hand: little-endian WKB of the normalised ring, hashed by the standard library.
    ring = shapely.Polygon([(0, 0), (3, 9), (12, 8.5), (10.25, 0), (0, 0)])
    namespace = uuid.UUID("a3a3ff2d-7cf9-5f0d-9d1c-0c5d4b6f2e11")
    assert found == str(uuid.uuid5(namespace, ring.wkb_hex.lower()))


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 3), turned=st.booleans(), shift=st.floats(-0.0049, 0.0049))
def test_start_direction_and_less_than_half_a_hundredth_do_not_count(start: int, turned: bool, shift: float) -> None:
    ring = RING[start:] + RING[:start]
    ring = [(x + shift, y - shift) for x, y in (ring[::-1] if turned else ring)]
    assert geometry_uuid(shapely.Polygon(ring, [HOLE])) == geometry_uuid(shapely.Polygon(RING, [HOLE[::-1]]))


@pytest.mark.parametrize(
    "other",
    [
        shapely.Polygon([*RING[:-1], (3.0, 9.01)]),
        shapely.Polygon(RING, [HOLE]),
        shapely.MultiPolygon([shapely.Polygon(RING), shapely.box(20, 20, 30, 30)]),
    ],
)
def test_another_outline_has_another_id(other: shapely.Geometry) -> None:
    assert geometry_uuid(other) != geometry_uuid(shapely.Polygon(RING))


def test_the_order_of_parts_and_a_third_coordinate_do_not_count() -> None:
    one, two = shapely.Polygon(RING), shapely.box(20, 20, 30, 30)
    assert geometry_uuid(shapely.MultiPolygon([one, two])) == geometry_uuid(shapely.MultiPolygon([two, one]))
    assert geometry_uuid(shapely.force_3d(one, 7.0)) == geometry_uuid(one)
