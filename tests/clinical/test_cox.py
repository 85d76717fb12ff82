"""The solver against lifelines and scikit-survival, with ties and strata, and paths against single fits."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy.optimize import check_grad
from sksurv.datasets import load_gbsg2
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis
from sksurv.preprocessing import OneHotEncoder
from sksurv.util import Surv

from stimage_qupath.clinical.cox import fit_cox, fit_path
from stimage_qupath.clinical.elastic_net_cox import fit_elastic_net
from stimage_qupath.clinical.risk_sets import RiskSets
from stimage_qupath.errors import UsageError


def simulated(seed=0, n=250, columns=4, strata=1):
    """Whole-number times, so that many are tied."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, columns))
    time = np.ceil(rng.exponential(np.exp(-0.7 * x[:, 0])) * 10)
    censored = np.ceil(rng.exponential(12, size=n))
    return x, np.minimum(time, censored), time <= censored, rng.integers(0, strata, n)


@pytest.fixture(scope="module")
def gbsg2():
    x, y = load_gbsg2()
    for name in x.select_dtypes("category"):
        x[name] = x[name].cat.remove_unused_categories()
    coded = OneHotEncoder().fit_transform(x).astype(float)
    values = coded.to_numpy()
    return (values - values.mean(axis=0)) / values.std(axis=0), y["time"].astype(float), y["cens"].astype(bool)


def test_gbsg2_agrees_with_lifelines(gbsg2):
    x, time, event = gbsg2
    frame = pd.DataFrame(x).add_prefix("x").assign(time=time, event=event)
    theirs = CoxPHFitter().fit(frame, "time", "event", fit_options={"precision": 1e-12})
    ours = fit_cox(x, RiskSets.of(time, event))
    np.testing.assert_allclose(ours.coef, theirs.params_, atol=1e-6)
    np.testing.assert_allclose(ours.loglik, theirs.log_likelihood_, atol=1e-6)
    np.testing.assert_allclose(np.linalg.inv(ours.information), theirs.variance_matrix_, atol=1e-6)


@pytest.mark.parametrize("ties", ["breslow", "efron"])
@pytest.mark.parametrize("ridge", [0.0, 20.0])
def test_gbsg2_agrees_with_scikit_survival(gbsg2, ties, ridge):
    x, time, event = gbsg2
    target = Surv.from_arrays(event, time)
    theirs = CoxPHSurvivalAnalysis(alpha=ridge, ties=ties, tol=1e-12).fit(x, target)
    sets = RiskSets.of(time, event, ties=ties)
    np.testing.assert_allclose(fit_cox(x, sets, penalty=ridge).coef, theirs.coef_, atol=1e-6)


@pytest.mark.parametrize("l1_ratio", [0.3, 1.0])
def test_gbsg2_elastic_net_agrees_with_coxnet(gbsg2, l1_ratio):
    x, time, event = gbsg2
    alpha = 0.03
    theirs = CoxnetSurvivalAnalysis(l1_ratio=l1_ratio, alphas=[alpha], tol=1e-14, max_iter=1_000_000)
    theirs.fit(x, Surv.from_arrays(event, time))
    # Coxnet divides the likelihood by the number of patients
    penalty = np.full(x.shape[1], alpha * len(x))
    ours = fit_elastic_net(x, RiskSets.of(time, event, ties="breslow"), penalty=penalty, l1_ratio=l1_ratio)
    np.testing.assert_allclose(ours, theirs.coef_[:, 0], atol=1e-6)
    assert (ours == 0).sum() == (theirs.coef_[:, 0] == 0).sum() > 0


def test_strata_and_ties_agree_with_lifelines():
    x, time, event, strata = simulated(strata=3)
    frame = pd.DataFrame(x).add_prefix("x").assign(time=time, event=event, s=strata)
    theirs = CoxPHFitter().fit(frame, "time", "event", strata="s", fit_options={"precision": 1e-12})
    ours = fit_cox(x, RiskSets.of(time, event, strata=strata))
    np.testing.assert_allclose(ours.coef, theirs.params_, atol=1e-8)
    np.testing.assert_allclose(ours.loglik, theirs.log_likelihood_, atol=1e-8)


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_residuals_and_hessian_are_derivatives(ties):
    x, time, event, strata = simulated(n=60, strata=2)
    sets = RiskSets.of(time, event, strata=strata, ties=ties)
    at = np.array([0.3, -0.2, 0.1, 0.5])

    def value(b):
        return float(sets.likelihood((x @ b)[:, None]).value[0])

    def gradient(b):
        return x.T @ sets.likelihood((x @ b)[:, None]).residuals[:, 0]

    assert check_grad(value, gradient, at) < 1e-5
    step = 1e-5
    numeric = [(gradient(at - step * e) - gradient(at + step * e)) / (2 * step) for e in np.eye(4)]
    np.testing.assert_allclose(sets.hessian(x @ at, x), numeric, atol=1e-5)


def test_likelihood_by_hand():
    # times 1 (event), 2 (censored), 3 (two events): log(w1/(w1+w2+w3+w4)) and Efron's pair at time 3
    time, event = np.array([1.0, 2.0, 3.0, 3.0]), np.array([True, False, True, True])
    eta = np.log(np.array([2.0, 3.0, 5.0, 7.0]))
    efron = np.log(2 / 17) + np.log(5 / 12) + np.log(7 / (12 - 6))
    breslow = np.log(2 / 17) + np.log(5 / 12) + np.log(7 / 12)
    for ties, expected in (("efron", efron), ("breslow", breslow)):
        sets = RiskSets.of(time, event, ties=ties)
        assert sets.likelihood(eta[:, None]).value[0] == pytest.approx(expected, abs=1e-12)
        assert sets.likelihood(eta[:, None]).residuals.sum() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(RiskSets.of(time, event, ties="breslow").baseline_steps(eta), [1 / 17, 2 / 12])


@pytest.mark.parametrize("columns", [8, 120])
def test_a_path_is_its_single_fits(columns):
    x, time, event, _ = simulated(n=160, columns=columns + 2)
    x[:, 3] = x[:, 2]  # features alike
    sets = RiskSets.of(time, event)
    ridges = columns / np.square([0.03, 0.1, 0.3, 1.0])
    start = np.concatenate([fit_cox(x[:, :2], sets, penalty=0.1).coef, np.zeros(columns)])
    path = fit_path(x, sets, ridges=ridges, fixed=2, fixed_penalty=0.1, start=start)
    for model, ridge in enumerate(ridges):
        penalty = np.concatenate([[0.1, 0.1], np.full(columns, ridge)])
        np.testing.assert_allclose(path[:, model], fit_cox(x, sets, penalty=penalty).coef, atol=1e-6)


def test_a_column_that_separates_has_no_finite_coefficient_until_it_is_penalised():
    time, event = np.arange(1.0, 21), np.arange(20) < 10
    x = event[:, None].astype(float)
    sets = RiskSets.of(time, event)
    with pytest.raises(UsageError, match="a column separates patients with the event"):
        fit_cox(x, sets)
    assert 0 < fit_cox(x, sets, penalty=0.1).coef[0] < 20
