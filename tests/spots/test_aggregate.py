"""Bins and cells added up to discs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stimage_qupath.spots.aggregate import aggregate, honeycomb
from stimage_qupath.spots.section import Section


def make(points, counts):
    return Section("S", "P", Path("x.png"), 0.5, ("A", "B"), sparse.csr_matrix(counts), np.asarray(points, float))


def test_what_lies_in_a_disc_is_added_up_and_what_lies_between_is_left():
    """Discs of 20 um at 0.5 um per pixel are 40 px apart: at (0, 0), (40, 0) and (20, 34.6)."""
    points = [(1, 1), (3, 0), (39, 2), (39, 3), (20, 34), (20, 12)]  # the last is more than 20 px from all three
    counts = np.array([[1, 0], [2, 5], [2, 0], [1, 0], [4, 0], [100, 100]], dtype=float)
    found = aggregate(make(points, counts), diameter_um=20, mpp=0.5)
    order = np.lexsort(found.positions_px.T)
    np.testing.assert_allclose(found.positions_px[order], [[0, 0], [40, 0], [20, 20 * 3**0.5]])
    np.testing.assert_array_equal(found.counts.toarray()[order], [[3, 5], [3, 0], [4, 0]])
    assert found.notes == ("5 of 6 bins or cells added up to 3 discs of 20 um",)


def test_a_field_of_bins_keeps_the_share_of_touching_discs():
    """Circles in a honeycomb cover pi / sqrt(12) of the plane."""
    grid = np.stack(np.meshgrid(np.arange(400.0), np.arange(400.0)), axis=-1).reshape(-1, 2)
    found = aggregate(make(grid, np.ones((160000, 2))), diameter_um=20, mpp=0.5)
    assert found.totals.sum() / 320000 == pytest.approx(np.pi / 12**0.5, abs=0.005)
    inner = ((found.positions_px > 40) & (found.positions_px < 360)).all(axis=1)
    np.testing.assert_allclose(found.totals[inner] / 2, np.pi * 20**2, rtol=0.01)


def test_spots_stay_as_they_are():
    spots = make([(0, 0), (400, 0), (800, 0)], np.ones((3, 2)))
    found = aggregate(spots, diameter_um=55, mpp=0.5)
    assert found.counts is spots.counts
    assert "too far apart" in found.notes[0]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=20), st.floats(1, 500))
def test_the_nearest_point_of_the_honeycomb(points, pitch):
    points = np.array(points)
    _, centre = honeycomb(points, pitch=pitch)
    distance = np.linalg.norm(points - centre, axis=1)
    for turn in np.deg2rad(60 * np.arange(6)):  # none of the six neighbours is nearer
        other = centre + pitch * np.array([np.cos(turn), np.sin(turn)])
        assert (distance <= np.linalg.norm(points - other, axis=1) + 1e-6).all()


def test_what_cannot_be_added_up():
    section = make([(0, 0), (1, 0)], np.ones((2, 2)))
    with pytest.raises(ValueError, match="expected discs of up to 500 um, found 0"):
        aggregate(section, diameter_um=0, mpp=0.5)
    with pytest.raises(ValueError, match="expected counts to add up in section S"):
        aggregate(replace(section, kind="protein"), diameter_um=55, mpp=0.5)
