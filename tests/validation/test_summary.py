"""Means over sections and patients, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.validation.bootstrap import Interval
from stimage_qupath.validation.summary import summarise


def figure(value):
    return Interval.of(np.full(21, value))


def test_sections_within_patients_then_patients():
    points = {
        "model": {"A1": {"pcc": figure(0.1)}, "A2": {"pcc": figure(0.3)}, "B1": {"pcc": figure(0.6)}},
        "ridge": {"A1": {"pcc": figure(0.0)}, "A2": {"pcc": figure(0.0)}, "B1": {"pcc": figure(0.1)}},
        "position": {"A1": {"pcc": figure(0.9)}},
    }
    found = summarise(points, {"A1": "A", "A2": "A", "B1": "B"})
    assert found["model"]["pcc"]["value"] == pytest.approx((0.2 + 0.6) / 2)
    assert found["model_lead"]["ridge"]["pcc"]["value"] == pytest.approx(0.4 - 0.05)
    assert found["over"] == {"sections": 3, "patients": 2}
    assert "position" not in found


def test_two_sections_have_no_mean():
    points = {"model": {"A1": {"pcc": figure(0.1)}, "A2": {"pcc": figure(0.3)}}}
    assert summarise(points, {"A1": "A", "A2": "A"}) == {"note": "no mean over 2 sections"}
