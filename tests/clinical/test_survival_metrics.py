"""C, AUC, curves and tests against lifelines and scikit-survival, and by hand."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test, multivariate_logrank_test
from lifelines.utils import concordance_index
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw, cumulative_dynamic_auc
from sksurv.util import Surv

from stimage_qupath.clinical.calibration import calibration, calibration_slope
from stimage_qupath.clinical.groups import risk_groups
from stimage_qupath.clinical.judgement import Judge
from stimage_qupath.clinical.kaplan_meier import SurvivalCurve, log_rank, log_rank_p, numbers_at_risk
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.survival_metrics import (
    PatientResamples,
    auc_weights,
    censoring_curve,
    concordance,
    harrell_weights,
    uno_weights,
)


def follow_up(seed=0, n=120, whole=False):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    time, censored = rng.exponential(10 * np.exp(-0.5 * risk)), rng.exponential(15, size=n)
    event, time = time <= censored, np.minimum(time, censored)
    if whole:
        time, risk = np.ceil(time), risk.round(1)
    return Outcome.of(time, event), risk


@pytest.mark.parametrize("whole", [False, True])
def test_harrells_c(whole):
    outcome, risk = follow_up(whole=whole)
    ours = concordance(outcome, risk, [np.arange(len(risk))])
    assert ours == pytest.approx(concordance_index_censored(outcome.event, outcome.time, risk)[0], abs=1e-12)
    assert ours == pytest.approx(concordance_index(outcome.time, -risk, outcome.event), abs=1e-12)


def test_c_compares_patients_of_one_fold_and_stratum():
    outcome, risk = follow_up()
    folds = [np.arange(0, 60), np.arange(60, 120)]
    by_hand = [concordance_index(outcome.time[f], -risk[f], outcome.event[f]) for f in folds]
    assert concordance(outcome, risk, folds) == pytest.approx(np.mean(by_hand), abs=1e-12)
    shifted = risk + np.repeat([0.0, 9.0], 60)  # another model's scale
    assert concordance(outcome, shifted, folds) == concordance(outcome, risk, folds)
    strata = np.arange(120) % 2
    stratified = Outcome(outcome.time, outcome.event, strata)
    pairs = [harrell_weights(outcome.take(np.flatnonzero(strata == s))).sum() for s in (0, 1)]
    c = [concordance_index(outcome.time[strata == s], -risk[strata == s], outcome.event[strata == s]) for s in (0, 1)]
    assert concordance(stratified, risk, [np.arange(120)]) == pytest.approx(np.average(c, weights=pairs), abs=1e-12)


def test_unos_c_and_auc():
    train, _ = follow_up(1, 200)
    test, risk = follow_up(2)
    keep = np.flatnonzero(test.time < train.time.max())
    test, risk = test.take(keep), risk[keep]
    of = PatientResamples.draw([np.arange(len(risk))], replicates=20, seed=0)
    censoring = censoring_curve(train)
    theirs = (Surv.from_arrays(train.event, train.time), Surv.from_arrays(test.event, test.time))
    for tau in (5.0, 12.0):
        expected = concordance_index_ipcw(*theirs, risk, tau=tau)[0]
        assert of.figure([uno_weights(test, censoring, tau)], risk).value == pytest.approx(expected, abs=1e-9)
        expected = cumulative_dynamic_auc(*theirs, risk, tau)[0][0]
        assert of.figure([auc_weights(test, censoring, tau)], risk).value == pytest.approx(expected, abs=1e-9)


def test_resamples_are_those_of_a_plain_loop():
    outcome, risk = follow_up(n=40, whole=True)
    folds = [np.arange(0, 20), np.arange(20, 40)]
    of = PatientResamples.draw(folds, replicates=30, seed=5)
    found = of.figure([harrell_weights(outcome.take(rows)) for rows in folds], risk)
    for b in range(30):
        c = []
        for rows, times in zip(folds, of.times, strict=True):
            drawn = np.repeat(rows, times[1 + b].astype(int))
            c.append(concordance_index_censored(outcome.event[drawn], outcome.time[drawn], risk[drawn])[0])
        # a patient drawn twice makes no pair with herself: equal times, both with or both without the event
        assert found.replicates[b] == pytest.approx(np.mean(c), abs=1e-12)
    assert found.minus(found).ci == (0, 0)


def test_no_pairs_give_no_figure():
    outcome = Outcome.of(np.arange(1.0, 6), np.zeros(5, dtype=bool))
    assert np.isnan(concordance(outcome, np.arange(5.0), [np.arange(5)]))
    of = PatientResamples.draw([np.arange(5)], replicates=20, seed=0)
    assert of.figure([harrell_weights(outcome)], np.arange(5.0)).to_dict() == {"value": None, "ci": None}


@pytest.mark.parametrize("whole", [False, True])
def test_kaplan_meier_is_that_of_lifelines(whole):
    outcome, _ = follow_up(whole=whole)
    theirs = KaplanMeierFitter().fit(outcome.time, outcome.event)
    ours = SurvivalCurve.of(outcome.time, outcome.event)
    times = np.linspace(0, outcome.time.max(), 37)
    np.testing.assert_allclose(ours.at(times), theirs.survival_function_at_times(times), atol=1e-12)
    band = theirs.confidence_interval_.loc[ours.time].to_numpy()
    np.testing.assert_allclose(np.column_stack([ours.low, ours.high]), band, atol=1e-6)
    np.testing.assert_array_equal(numbers_at_risk(outcome.time, ours.time), theirs.event_table.at_risk.loc[ours.time])
    assert ours.band_at(0.0) == (1.0, 1.0)


@pytest.mark.parametrize("whole", [False, True])
def test_log_rank_is_that_of_lifelines(whole):
    outcome, risk = follow_up(whole=whole)
    high = risk > 0.2
    theirs = logrank_test(outcome.time[high], outcome.time[~high], outcome.event[high], outcome.event[~high])
    assert log_rank(outcome.time, outcome.event, high) == pytest.approx(theirs.test_statistic, rel=1e-9)
    assert log_rank_p(theirs.test_statistic) == pytest.approx(theirs.p_value, rel=1e-9)
    assert log_rank(outcome.time, outcome.event, np.ones(len(risk), dtype=bool)) == 0
    theirs = multivariate_logrank_test(outcome.time, high, outcome.event)
    assert log_rank(outcome.time, outcome.event, high) == pytest.approx(theirs.test_statistic, rel=1e-9)


def test_groups_say_what_lifelines_says():
    outcome, risk = follow_up()
    high = risk > 0
    found = risk_groups(outcome, high)
    assert found["low"]["patients"] + found["high"]["patients"] == len(risk)
    assert found["high"]["events"] == outcome.event[high].sum()
    assert found["low"]["at_risk"][0] == (~high).sum()
    frame = pd.DataFrame({"t": outcome.time, "e": outcome.event, "high": high.astype(float)})
    theirs = CoxPHFitter().fit(frame, "t", "e", fit_options={"precision": 1e-12})
    ours = found["hazard_ratio"]
    assert ours["value"] == pytest.approx(theirs.hazard_ratios_["high"], rel=1e-6)
    assert ours["ci"] == pytest.approx(np.exp(theirs.confidence_intervals_.to_numpy()[0]), rel=1e-5)
    nobody = risk_groups(outcome, np.zeros(len(risk), dtype=bool))
    assert nobody["hazard_ratio"] == {"value": None, "ci": None}
    assert nobody["high"]["patients"] == 0


def test_calibration_of_the_true_model_is_right_and_of_an_overstated_one_is_not():
    rng = np.random.default_rng(3)
    n = 4000
    eta = rng.normal(scale=0.8, size=n)
    time, censored = rng.exponential(np.exp(-eta)), rng.exponential(2.0, size=n)
    outcome = Outcome.of(np.minimum(time, censored), time <= censored)
    true = np.exp(-0.5 * np.exp(eta))
    right = calibration(outcome, true, 0.5)
    assert right["mean_error"] < 0.02
    assert sum(g["patients"] for g in right["groups"]) == n
    assert calibration(outcome, np.exp(-0.5 * np.exp(3 * eta)), 0.5)["mean_error"] > 0.08
    folds = [np.arange(0, n, 2), np.arange(1, n, 2)]
    slope = calibration_slope(outcome, eta, folds)
    assert slope["ci"][0] < 1 < slope["ci"][1]
    assert calibration_slope(outcome, 2 * eta, folds)["value"] == pytest.approx(slope["value"] / 2, rel=1e-6)
    assert calibration_slope(outcome, np.zeros(n), folds) == {"value": None, "ci": None}


def test_horizons_are_quartiles_of_event_times_unless_given():
    outcome, _ = follow_up()
    folds = [np.arange(0, 60), np.arange(60, 120)]
    judge = Judge.of(outcome, folds, horizons=(), replicates=20, seed=0)
    np.testing.assert_allclose(judge.horizons, np.quantile(outcome.time[outcome.event], [0.25, 0.5, 0.75]))
    assert judge.calibrated_at == judge.horizons[1]
    assert Judge.of(outcome, folds, horizons=(3.0,), replicates=20, seed=0).calibrated_at == 3.0
