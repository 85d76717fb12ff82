from types import SimpleNamespace

import numpy as np
import pytest

from stimage_qupath.clinical.folds import grouped_folds
from stimage_qupath.clinical.gain import out_of_fold_gain
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.survival_problem import OutOfFold


@pytest.fixture
def patients():
    rng = np.random.default_rng(0)
    base, more = rng.normal(size=(2, 240))
    time = rng.exponential(np.exp(-0.5 * base - 0.8 * more)) + 0.01
    outcome = Outcome(time, rng.uniform(size=240) < 0.6, np.zeros(240, dtype=np.intp))
    folds = tuple(grouped_folds(np.arange(240), 4, seed=0))
    return outcome, base, more, folds


def judged(folds, risk):
    model = SimpleNamespace()
    return OutOfFold(folds, risk, risk > 0, risk, tuple(model for _ in folds))


def test_what_expression_adds_is_found_and_noise_adds_nothing(patients):
    outcome, base, more, folds = patients
    gain = out_of_fold_gain(outcome, judged(folds, base), judged(folds, (base + more) / np.sqrt(2)))
    assert gain["delta_c"] > 0.05
    assert gain["lr_chi2"] > 15
    same = out_of_fold_gain(outcome, judged(folds, base), judged(folds, base))
    assert same["delta_c"] == 0
    assert same["lr_chi2"] < 1e-3


def test_one_patient_far_outside_of_training_does_not_break_the_likelihood(patients):
    outcome, base, _, folds = patients
    full = base + np.random.default_rng(1).normal(0, 0.004, 240)
    full[17] = 48.7  # as an out-of-fold risk of a real cohort was
    gain = out_of_fold_gain(outcome, judged(folds, base), judged(folds, full))
    assert np.isfinite(list(gain.values())).all()
    assert gain["lr_chi2"] < 12
