"""Slides of patients: who is whose, how they are combined, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stimage_qupath.clinical.cohort import assign, read_clinical
from stimage_qupath.clinical.pseudobulk import Pseudobulk
from stimage_qupath.clinical.slides import Slide, combine, slide_weights
from stimage_qupath.errors import UsageError


def slide(name, mean=1.0, area=1.0, epistemic=0.5, aleatoric=0.25, nuclei=10):
    bulk = Pseudobulk(
        groups=("",),
        nuclei=np.array([nuclei]),
        mean=np.array([[mean]]),
        epistemic_sd=np.array([[epistemic]]),
        aleatoric=np.array([[aleatoric]]),
        windows=np.array([4.0]),
    )
    names = frozenset({name, name.removesuffix(".svs")})
    return Slide(name, names, f"run-{name}", bulk, {"": area}, 0.1, 0.9, {})


def clinical(rows, columns=("slide", "patient", "time", "stage")):
    return pd.DataFrame(rows, columns=list(columns))


@pytest.mark.parametrize(("rule", "weights"), [("area", [0.25, 0.75]), ("mean", [0.5, 0.5]), ("largest", [0.0, 1.0])])
def test_slides_are_combined_by_the_rule(rule, weights):
    pair = [slide("a", mean=2, area=1, epistemic=0.4, aleatoric=1.0), slide("b", mean=6, area=3, epistemic=0.8)]
    found = combine(pair, "", rule)
    assert found.weights == pytest.approx(weights)
    a, b = weights
    assert found.mean == pytest.approx([2 * a + 6 * b])
    assert found.sd == pytest.approx([np.sqrt((0.4 * a + 0.8 * b) ** 2 + 1.0 * a**2 + 0.25 * b**2)])


def test_slides_without_nuclei_have_no_weight():
    assert slide_weights(np.array([1.0, 5.0]), np.array([True, False]), "area").tolist() == [1, 0]
    assert slide_weights(np.array([1.0, 5.0]), np.array([True, False]), "largest").tolist() == [1, 0]
    assert not slide_weights(np.array([1.0, 5.0]), np.array([False, False]), "mean").any()


def test_slides_find_their_patient_by_name_with_or_without_ending():
    table = read_clinical(
        clinical([("a.svs", "P1", 3, "II"), ("b", "P1", 3, "II"), ("c", "P2", 5, None)]),
        patient="patient",
        slide="slide",
    )
    found = assign([slide("b.svs"), slide("a.svs"), slide("x.svs")], table)
    assert {p: [s.name for s in slides] for p, slides in found.slides.items()} == {"P1": ["a.svs", "b.svs"]}
    assert found.without_row == ("x.svs",)
    assert found.without_slide == ("P2",)
    assert found.notes() == [
        "1 slides have no clinical row and are left out: x.svs",
        "1 patients have no slide and are left out: P2",
    ]
    assert table.notes == ("1 patients had several rows that agree; each is one row of the cohort",)


def test_without_a_column_of_slides_slides_are_named_as_patients():
    table = read_clinical(clinical([("a", 3)], ("patient", "time")), patient="patient", slide="slide")
    assert list(assign([slide("a.svs")], table).slides) == ["a"]


def test_contradicting_outcomes_are_an_error_and_gaps_are_not():
    agree = clinical([("a", "P1", 3.0, "II"), ("b", "P1", np.nan, "II")])
    assert read_clinical(agree, patient="patient", slide="slide").frame.loc["P1", "time"] == 3.0
    contradict = clinical([("a", "P1", 3.0, "II"), ("b", "P1", 4.0, "III")])
    with pytest.raises(UsageError, match=r"one value of time for patient P1, found 3.0, 4.0 \(and 1 more"):
        read_clinical(contradict, patient="patient", slide="slide")


def test_a_slide_of_two_patients_and_rows_without_patient():
    with pytest.raises(UsageError, match="several for a"):
        read_clinical(clinical([("a", "P1", 1, ""), ("a", "P2", 1, "")]), patient="patient", slide="slide")
    table = read_clinical(clinical([("a", None, 1, ""), ("b", "P2", 1, "")]), patient="patient", slide="slide")
    assert table.notes == ("1 rows of the clinical table name no patient and are left out",)
    assert dict(table.patient_of) == {"b": "P2"}


def test_two_runs_of_a_slide_and_a_cohort_without_common_names_are_refused():
    table = read_clinical(clinical([("a", "P1", 1, "")]), patient="patient", slide="slide")
    with pytest.raises(UsageError, match="several of a"):
        assign([slide("a"), slide("a")], table)
    with pytest.raises(UsageError, match="found none of 1: the runs are of z"):
        assign([slide("z")], table)
    with pytest.raises(UsageError, match="column person"):
        read_clinical(clinical([("a", "P1", 1, "")]), patient="person", slide="slide")
