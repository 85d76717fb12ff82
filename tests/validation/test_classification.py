"""Figures of a classifier, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

from stimage_qupath.validation.classification import (
    Reliability,
    classification_figures,
    confusion_by_unit,
    f1_of,
    resampled_f1,
)
from stimage_qupath.validation.shares import resampled_agreement, share_figures

NAMES = ("a", "b", "c")


def drawn(n=600, seed=0):
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet((2, 1, 1), size=n)
    truth = np.array([rng.choice(3, p=row) for row in probability])
    return probability, truth, np.arange(n) % 15


def test_f1_confusion_and_kappa_are_those_of_scikit_learn():
    probability, truth, unit = drawn()
    found = probability.argmax(axis=1)
    figures = classification_figures(probability, truth, NAMES, unit)
    each = [figures["f1"][name]["value"] for name in NAMES]
    np.testing.assert_allclose(each, f1_score(truth, found, average=None), atol=1e-12)
    assert figures["f1"]["macro"]["value"] == pytest.approx(f1_score(truth, found, average="macro"), abs=1e-12)
    assert figures["confusion"] == confusion_matrix(truth, found).tolist()
    assert figures["kappa"] == pytest.approx(cohen_kappa_score(truth, found), abs=1e-12)
    assert figures["units"] == 15
    assert sum(figures["f1"][name]["nuclei"] for name in NAMES) == figures["nuclei"] == 600


def test_intervals_hold_the_figure_and_come_from_whole_units():
    probability, truth, unit = drawn()
    low, high = classification_figures(probability, truth, NAMES, unit)["f1"]["a"]["ci"]
    assert low < classification_figures(probability, truth, NAMES, unit)["f1"]["a"]["value"] < high
    tables = confusion_by_unit(truth, probability.argmax(axis=1), unit, 3)
    assert tables.shape == (15, 3, 3)
    assert tables.sum() == 600
    same = resampled_f1(np.repeat(tables[:1], 4, axis=0), seed=0, replicates=50)
    np.testing.assert_allclose(same, np.tile(same[0], (51, 1)))  # equal units: no resample differs


def test_one_unit_has_no_interval_and_an_absent_class_no_figure():
    figures = classification_figures(np.eye(3)[[0, 1, 1]], np.array([0, 1, 0]), NAMES, np.zeros(3, int))
    assert figures["f1"]["a"]["ci"] is None
    assert figures["f1"]["c"] == {"value": None, "ci": None, "nuclei": 0}
    assert figures["f1"]["macro"]["value"] == pytest.approx(2 / 3)
    assert f1_of(np.array([[2, 1], [0, 3]])) == pytest.approx([4 / 5, 6 / 7])


def test_calibration_error_by_hand():
    probability = np.array([0.62, 0.64, 0.95, 0.97])
    correct = np.array([True, False, True, True])
    found = Reliability.of(probability, correct, bins=10)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert found.ece == pytest.approx((2 * abs(0.63 - 0.5) + 2 * abs(0.96 - 1)) / 4)
    assert found.to_dict()["accuracy"][6] == 0.5
    assert found.to_dict()["confidence"][0] is None
    assert np.isnan(Reliability.of(probability[:0], correct[:0]).ece)
    assert Reliability.of(np.array([1.0]), np.array([True])).count[-1] == 1


def test_calibrated_probabilities_have_little_error_and_exaggerated_ones_much():
    probability, truth, unit = drawn(6000)
    exaggerated = probability**4 / (probability**4).sum(axis=1, keepdims=True)
    good, bad = (classification_figures(p, truth, NAMES, unit)["ece"] for p in (probability, exaggerated))
    assert good < 0.03
    assert bad > 0.15


def test_calibration_of_a_class_needs_two_hundred_nuclei_of_it():
    probability, truth, unit = drawn(500)
    figures = classification_figures(probability, truth, NAMES, unit)
    assert set(figures["ece_by_class"]) == {n for i, n in enumerate(NAMES) if (truth == i).sum() >= 200}
    assert figures["ece_by_class"]
    assert classification_figures(probability[:199], truth[:199], NAMES, unit[:199])["ece"] is None


def test_agreement_of_shares_is_pearson_within_sections():
    rng = np.random.default_rng(0)
    measured, section = rng.dirichlet((1, 1, 1), size=40), np.repeat([0, 1], 20)
    predicted = measured + rng.normal(0, 0.2, measured.shape) + section[:, None]  # a shift between sections is no merit
    figures = share_figures(predicted, measured, NAMES, section)
    by_hand = np.mean([np.corrcoef(predicted[section == s, 1], measured[section == s, 1])[0, 1] for s in (0, 1)])
    assert figures["agreement"]["b"]["pearson"] == pytest.approx(by_hand)
    assert figures["sections"] == 2


def test_resampled_agreement_holds_the_plain_correlation():
    rng = np.random.default_rng(1)
    measured = rng.dirichlet((1, 1), size=64)
    predicted = measured + rng.normal(0, 0.1, measured.shape)
    positions = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) * 300.0
    each, mean = resampled_agreement(predicted, measured, positions, seed=0, replicates=200)
    assert each[0].value == pytest.approx(np.corrcoef(predicted[:, 0], measured[:, 0])[0, 1])
    assert mean.value == pytest.approx((each[0].value + each[1].value) / 2)
    assert each[0].ci[0] < each[0].value < each[0].ci[1]
    flat, _ = resampled_agreement(predicted, np.tile(measured[:1], (64, 1)), positions, seed=0, replicates=10)
    assert flat[0].value == 0
