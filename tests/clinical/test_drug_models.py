"""Elastic nets, trees and their metrics against scikit-learn, scipy and formulas."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, log_loss, r2_score, roc_auc_score

from stimage_qupath.clinical import drug_metrics
from stimage_qupath.clinical.boosting import Boosting
from stimage_qupath.clinical.coefficient_stability import Stability
from stimage_qupath.clinical.design_matrix import COVARIATE_WEIGHT, Design, Standardiser, encode_covariates
from stimage_qupath.clinical.elastic_net import ElasticNet, screened
from stimage_qupath.clinical.elastic_net_path import LinearPath, LogisticPath, largest_penalty
from stimage_qupath.clinical.folds import grouped_folds

SHAPES = [(90, 20), (40, 100)]


def problem(patients, columns, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(patients, columns))
    x = np.asfortranarray((x - x.mean(axis=0)) / x.std(axis=0))
    y = 2 * x[:, 0] - x[:, 1] + 1.5 * rng.normal(size=patients) + 5
    return x, y


@pytest.mark.parametrize(("patients", "columns"), SHAPES)
def test_linear_fits_are_those_of_scikit_learn(patients, columns):
    x, y = problem(patients, columns)
    standard = (y - y.mean()) / y.std()
    first = largest_penalty(x, standard, mix=0.5)
    path, ridge = LinearPath(x, y, mix=0.5, tolerance=1e-9), LinearPath(x, y, mix=0)
    assert not path.at(first * 1.001)[1].any()
    for penalty in first * np.array([0.9, 0.3, 0.05]):
        intercept, found = path.at(penalty)
        theirs = SklearnElasticNet(alpha=penalty, l1_ratio=0.5, tol=1e-10, max_iter=100_000).fit(x, standard)
        np.testing.assert_allclose(found, theirs.coef_ * y.std(), atol=1e-6)
        assert found.any()
        assert intercept == pytest.approx(y.mean())
        intercept, found = ridge.at(penalty)
        theirs = Ridge(alpha=penalty * patients).fit(x, y)
        np.testing.assert_allclose(found, theirs.coef_, atol=1e-10)
        assert intercept == pytest.approx(theirs.intercept_)


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("patients", "columns"), SHAPES)
def test_logistic_fits_are_those_of_scikit_learn(patients, columns, mix):
    x, y = problem(patients, columns)
    y = (y > 5.5).astype(float)
    path = LogisticPath(x, y, mix=mix, tolerance=1e-9)
    for penalty in largest_penalty(x, y - y.mean(), mix=mix or 0.1) * np.array([0.4, 0.1]):
        intercept, found = path.at(penalty)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the argument's name changes between versions
            theirs = LogisticRegression(
                penalty="elasticnet", l1_ratio=mix, C=1 / (patients * penalty), solver="saga", tol=1e-7, max_iter=20_000
            ).fit(x, y)
        np.testing.assert_allclose(found, theirs.coef_[0], atol=1e-4)
        assert intercept == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_a_fit_does_not_depend_on_units():
    x, y = problem(60, 30)
    design, other = (
        Design.of_genes(x, list(map(str, range(30)))),
        Design.of_genes(1000 * x + 7, list(map(str, range(30)))),
    )
    folds = grouped_folds(np.arange(60), 4, seed=0)
    learner = ElasticNet(kind="continuous", mixes=(0.5,))
    one, two = learner.fit(design, y, folds), learner.fit(other, 10 * y - 3, folds)
    np.testing.assert_allclose(10 * one(design.values) - 3, two(other.values), rtol=1e-6)
    assert one.parts[0].penalty == pytest.approx(two.parts[0].penalty)


def test_a_constant_gene_never_counts_and_a_constant_design_predicts_the_mean():
    x, y = problem(60, 5)
    x[:, 2] = 0.1 + 0.2  # a sum that is not exact
    folds = grouped_folds(np.arange(60), 4, seed=0)
    model = ElasticNet(kind="continuous").fit(Design.of_genes(x, "abcde"), y, folds)
    assert model.coefficients[2] == 0
    moved = x.copy()
    moved[:, 2] = 99
    np.testing.assert_array_equal(model(x), model(moved))
    flat = ElasticNet(kind="binary").fit(Design.of_genes(np.ones((60, 3)), "abc"), (y > 5).astype(float), folds)
    np.testing.assert_allclose(flat(np.ones((2, 3))), (y > 5).mean())


@pytest.mark.flow
def test_a_sparse_truth_beats_the_ridge_on_inner_folds_and_a_dense_one_does_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 200))
    folds = grouped_folds(np.arange(150), 5, seed=0)
    design = Design.of_genes(x, list(map(str, range(200))))
    sparse = ElasticNet(kind="continuous").fit(design, 3 * x[:, 0] + rng.normal(size=150), folds)
    dense = ElasticNet(kind="continuous").fit(design, x @ rng.normal(size=200) + rng.normal(size=150), folds)
    assert sparse.mix > 0
    assert np.argmax(np.abs(sparse.coefficients)) == 0
    assert dense.mix == 0
    trees = Boosting(kind="continuous").fit(design, np.sign(x[:, 0]) * np.sign(x[:, 1]) + 2 * x[:, 0], folds)
    assert {0} <= set(trees.columns)
    assert len(trees.columns) == 100


def test_the_filter_keeps_the_genes_of_highest_correlation():
    x, y = problem(80, 30)
    design = Design.of_genes(x, list(map(str, range(30))))
    expected = np.argsort([-abs(np.corrcoef(column, y)[0, 1]) for column in x.T])[:7]
    assert set(np.flatnonzero(screened(design, y, 7))) == set(expected)


def test_covariates_as_columns():
    frame = pd.DataFrame({"age": [50.0, np.nan, 70.0], "stage": ["I", None, "II"], "smoker": [True, False, True]})
    design = encode_covariates(frame)
    assert design.names == (
        "age",
        "age missing",
        "stage: I",
        "stage: II",
        "stage: missing",
        "smoker: False",
        "smoker: True",
    )
    np.testing.assert_array_equal(design.values[:, 1:3], [[0, 1], [1, 0], [0, 0]])
    both = Design.of_genes(np.array([[1.0], [2.0], [3.0]]), ["G"]).beside(design)
    standard = Standardiser.fit(both)(both.values)
    assert standard[1, 1] == 0  # a missing number stands at the mean of the others
    np.testing.assert_allclose(standard[:, 3].std(), COVARIATE_WEIGHT)
    np.testing.assert_allclose(standard[:, 0].std(), 1)
    swapped = both.with_expression_of(np.array([2, 0, 1]))
    np.testing.assert_array_equal(swapped.values[:, 0], [3, 1, 2])
    np.testing.assert_array_equal(swapped.values[:, 1:], both.values[:, 1:])


def test_missing_expression_is_refused():
    with pytest.raises(ValueError, match="expected finite expression"):
        Design.of_genes(np.array([[np.nan]]), ["G"])


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_metrics_are_those_of_scipy_and_scikit_learn_on_resamples(seed, ties):
    rng = np.random.default_rng(seed)
    y, z, p = (rng.random(30) > 0.4).astype(float), rng.normal(size=30), rng.random(30)
    if ties:
        p, z = p.round(1), z.round(0)
    times = np.vstack([np.ones(30, dtype=int), rng.multinomial(30, np.full(30, 1 / 30), size=2)])
    weights = times.astype(float)
    for row, of in enumerate(times):
        drawn = np.repeat(np.arange(30), of)
        if len(np.unique(y[drawn])) < 2 or len(np.unique(p[drawn])) < 2:
            continue
        assert drug_metrics.auroc(y, p, weights)[row] == pytest.approx(roc_auc_score(y[drawn], p[drawn]))
        assert drug_metrics.average_precision(y, p, weights)[row] == pytest.approx(
            average_precision_score(y[drawn], p[drawn])
        )
        assert drug_metrics.spearman(z, p, weights)[row] == pytest.approx(spearmanr(z[drawn], p[drawn])[0])
        assert drug_metrics.explained(z, p, weights)[row] == pytest.approx(r2_score(z[drawn], p[drawn]))


def test_metrics_of_nothing_to_rank():
    one = np.ones((1, 4))
    y, flat = np.array([0.0, 1, 1, 0]), np.full(4, 0.3)
    assert drug_metrics.spearman(y, flat, one)[0] == 0
    assert np.isnan(drug_metrics.spearman(flat, y, one)[0])
    assert drug_metrics.auroc(y, flat, one)[0] == 0.5
    assert np.isnan(drug_metrics.auroc(np.ones(4), flat, one)[0])


def test_losses():
    y, logits = np.array([1.0, 0, 1]), np.array([0.3, -2, 5])
    expected = log_loss(y, 1 / (1 + np.exp(-logits)))
    assert drug_metrics.loss("binary", y, logits[:, None]).mean() == pytest.approx(expected)
    assert drug_metrics.loss("continuous", y, logits[:, None])[0, 0] == pytest.approx(0.49)


def test_within_folds_is_the_mean_by_patients_and_resamples_keep_folds_and_groups():
    rng = np.random.default_rng(0)
    fold, group = np.repeat([0, 1, 2], [10, 20, 30]), np.arange(60) // 2
    y, p = rng.normal(size=60), rng.normal(size=60)
    weights = drug_metrics.resample_patients(group, fold, replicates=200, seed=1)
    for number, size in enumerate((10, 20, 30)):
        np.testing.assert_array_equal(weights[:, fold == number].sum(axis=1), size)
    np.testing.assert_array_equal(weights[:, ::2], weights[:, 1::2])
    np.testing.assert_array_equal(weights, drug_metrics.resample_patients(group, fold, replicates=200, seed=1))
    expected = sum(spearmanr(y[fold == k], p[fold == k])[0] * n for k, n in enumerate((10, 20, 30))) / 60
    figures = drug_metrics.within_folds(drug_metrics.spearman, y, p, fold, weights)
    assert figures[0] == pytest.approx(expected)
    figure = drug_metrics.Figure.of(figures)
    assert figure.ci[0] < figure.value < figure.ci[1]
    assert figure.minus(figure).to_dict() == {"value": 0.0, "ci": [0.0, 0.0]}
    assert drug_metrics.Figure.of(np.array([0.5, np.nan, np.nan, 0.4])).ci is None


def test_stability_by_hand():
    whole = np.array([1.0, -2.0, 0.0])
    found = Stability.of("abc", whole, [np.array([1.0, -3.0, 0.0]), np.array([-1.0, -1.0, 0.0])])
    np.testing.assert_allclose(found.mean, [0, -2, 0])
    np.testing.assert_allclose(found.sd, [np.sqrt(2), np.sqrt(2), 0])
    np.testing.assert_allclose(found.selected, [1, 1, 0])
    np.testing.assert_allclose(found.same_sign, [0.5, 1, 0])
    np.testing.assert_allclose(found.leading, [1, 1, 0])
    np.testing.assert_allclose(found.rank, [1.5, 1, 3])
    assert list(found.order) == [1, 0, 2]
