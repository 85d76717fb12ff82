"""Splits and bootstraps of whole sections, patients and blocks."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.spots.splits import bootstrap_weights, leave_one_out, spatial_blocks


def test_leaving_sections_out_says_where_the_patient_is_known():
    folds = leave_one_out(["B", "C", "C"], "section")
    assert [(f.train, f.test, f.same_patient) for f in folds] == [
        ((1, 2), (0,), False),
        ((0, 2), (1,), True),
        ((0, 1), (2,), True),
    ]


def test_leaving_patients_out_never_shares_one():
    folds = leave_one_out(["B", "C", "C"], "patient")
    assert [(f.train, f.test, f.same_patient) for f in folds] == [((1, 2), (0,), False), ((0,), (1, 2), False)]


def test_a_single_section_cannot_be_split():
    assert leave_one_out(["B"], "section") == []


@pytest.mark.parametrize(
    ("patients", "sections", "level"), [(6, 6, "patient"), (2, 6, "section"), (2, 3, "spatial block")]
)
def test_the_highest_level_with_five_units_is_resampled(patients, sections, level):
    spots = np.arange(120)
    weights, found = bootstrap_weights(
        patients=(spots % patients).astype(str),
        sections=(spots % sections).astype(str),
        blocks=spots // 40,
        members=4,
        seed=0,
    )
    assert found == level
    unit = {"patient": spots % patients, "section": spots % sections, "spatial block": spots // 40 + 10 * (spots % 3)}
    for u in np.unique(unit[level]):
        together = weights[:, unit[level] == u]
        assert (together == together[:, :1]).all()
    assert len({tuple(row) for row in weights}) == 4


def test_blocks_are_squares_of_the_given_side():
    positions = np.array([[5.0, 5.0], [604.9, 5.0], [605.1, 5.0], [5.0, 700.0]])
    block = spatial_blocks(positions, 600)
    assert block[0] == block[1]
    assert len(set(block[[0, 2, 3]])) == 3
