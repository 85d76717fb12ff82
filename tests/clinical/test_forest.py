"""A forest in the same folds, judged in the same way."""

import sys

import numpy as np
import pytest
from sksurv.ensemble import RandomSurvivalForest
from sksurv.util import Surv

from stimage_qupath.clinical import forest
from stimage_qupath.clinical.cross_validation import cross_validate
from stimage_qupath.clinical.gene_filter import FeatureTable
from stimage_qupath.clinical.nested import nested_cv
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import NestedSettings, Problem
from stimage_qupath.errors import MissingPartError

SETTINGS = NestedSettings(folds=2, inner_folds=2, kept=(3, 6), model="forest")


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 6))
    time, censored = rng.exponential(np.exp(-1.2 * np.abs(x[:, 0]) - x[:, 1])), rng.exponential(3, size=150)
    outcome = Outcome.of(np.minimum(time, censored), time <= censored)
    return Problem(FeatureTable.of(x), None, np.arange(150), outcome)


def test_a_forest_is_judged_out_of_fold(problem, monkeypatch):
    monkeypatch.setattr(forest, "TREES", 25)
    found = cross_validate(problem, SETTINGS)
    assert found.models == ()
    assert all(
        np.array_equal(a.test, b.test) for a, b in zip(found.folds, nested_cv(problem, SETTINGS).folds, strict=True)
    )
    assert concordance(problem.outcome, found.risk, found.tests) > 0.55
    assert found.high.any()
    assert not found.high.all()
    again = cross_validate(problem, SETTINGS)
    np.testing.assert_array_equal(again.risk, found.risk)


def test_it_is_the_forest_of_scikit_survival(problem, monkeypatch):
    monkeypatch.setattr(forest, "TREES", 10)
    outcome, x = problem.outcome, problem.genes.values
    ours = forest._forest(outcome, x, 3).predict(x)
    theirs = RandomSurvivalForest(
        10, min_samples_leaf=forest.LEAF, max_features="sqrt", random_state=3, low_memory=True
    ).fit(x, Surv.from_arrays(outcome.event, outcome.time))
    np.testing.assert_array_equal(ours, theirs.predict(x))


def test_covariates_alone_are_a_cox_model_and_a_missing_package_is_said(problem, monkeypatch):
    alone = Problem(None, problem.genes, problem.groups, problem.outcome)
    assert cross_validate(alone, SETTINGS).models
    monkeypatch.setitem(sys.modules, "sksurv.ensemble", None)
    with pytest.raises(MissingPartError, match=r"found none; run: pip install 'stimage-qupath\[survival-forest\]'"):
        cross_validate(problem, SETTINGS)
