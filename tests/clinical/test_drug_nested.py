"""What nesting is for: no signal comes out as none, unless a filter leaks; exchanges, transfer, bands, responses."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from stimage_qupath.clinical.alignment import Alignment, Reference
from stimage_qupath.clinical.boosting import Boosting
from stimage_qupath.clinical.design_matrix import Design
from stimage_qupath.clinical.drug_bands import resampled
from stimage_qupath.clinical.drug_nested import Plan, cross_validate, exchanges, permutation_p, statistic
from stimage_qupath.clinical.drug_permutation import Trial, null_figures
from stimage_qupath.clinical.elastic_net import ElasticNet, screened
from stimage_qupath.clinical.expression import Expression
from stimage_qupath.clinical.response import binary_response, continuous_response
from stimage_qupath.clinical.response_checkpoint import load_model, save_model
from stimage_qupath.clinical.table import Features
from stimage_qupath.clinical.transfer import TransferModel, transfer
from stimage_qupath.errors import UsageError


def plan_of(y, groups=None, folds=4, seed=0):
    groups = np.arange(len(y)) if groups is None else groups
    strata = (y > y.mean()).astype(np.intp)
    return Plan.make(groups, strata, folds=folds, seed=seed, classes=set(y) <= {0, 1})


def noise(patients, genes, seed):
    rng = np.random.default_rng(seed)
    return Design.of_genes(rng.normal(size=(patients, genes)), [f"G{k}" for k in range(genes)]), rng


def test_a_filter_outside_the_folds_finds_what_is_not_there():
    nested, leaking = [], []
    for seed in range(8):
        design, rng = noise(60, 1000, seed)
        y = rng.normal(size=60)
        plan, learner = plan_of(y), ElasticNet(kind="continuous", mixes=(0.0,), most_genes=20)
        nested.append(statistic("continuous", y, cross_validate(learner, design, y, plan).prediction, plan))
        keep = np.flatnonzero(screened(design, y, 20))  # sees the test patients
        chosen = Design.of_genes(design.values[:, keep], [design.names[k] for k in keep])
        leaking.append(statistic("continuous", y, cross_validate(learner, chosen, y, plan).prediction, plan))
    assert abs(np.mean(nested)) < 0.15
    assert np.mean(leaking) > 0.5


@pytest.mark.flow
@pytest.mark.parametrize("learner", [ElasticNet(kind="binary"), Boosting(kind="binary", most_genes=5)])
def test_predictions_of_a_fold_do_not_depend_on_its_responses(learner):
    design, rng = noise(60, 10, 0)
    y = (design.values[:, 0] + rng.normal(size=60) > 0).astype(float)
    plan = plan_of(y)
    whole = cross_validate(learner, design, y, plan)
    other = y.copy()
    test = plan.folds[2].test
    other[test] = rng.permutation(other[test])[::-1]
    assert (other[test] != y[test]).any()
    changed = cross_validate(learner, design, other, plan)
    np.testing.assert_array_equal(whole.prediction[test], changed.prediction[test])
    assert not np.array_equal(whole.prediction, changed.prediction)


def test_groups_stay_together_in_both_layers():
    y, groups = np.arange(60.0), np.arange(60) // 4
    plan = plan_of(y, groups)
    for fold, inner in zip(plan.folds, plan.inner, strict=True):
        assert not set(groups[fold.train]) & set(groups[fold.test])
        for within in inner:
            train, test = fold.train[within.train], fold.train[within.test]
            assert not set(groups[train]) & set(groups[test])
            assert not set(test) & set(fold.test)


def test_exchanges():
    free = plan_of(np.arange(12.0))
    orders = list(exchanges(free, np.arange(12.0), permutations=50, seed=0))
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 50
    groups = np.repeat(np.arange(6), 2)
    repeated = np.repeat(np.array([0.0, 1, 2, 3, 4, 5]), 2)
    for order in exchanges(plan_of(repeated, groups, folds=2), repeated, permutations=20, seed=0):
        np.testing.assert_array_equal(order[1::2], order[::2] + 1)  # groups travel whole
    sites = np.repeat(np.arange(4), 3)
    for order in exchanges(plan_of(np.arange(12.0), sites, folds=2), np.arange(12.0), permutations=20, seed=0):
        np.testing.assert_array_equal(sites[order], sites)


def test_permutation_p_by_hand():
    assert permutation_p(0.5, [0.1, 0.5, 0.6]) == 3 / 4
    assert permutation_p(0.7, [0.1, 0.5, 0.6]) == 1 / 4


def test_a_class_must_be_in_every_fold():
    y = np.repeat([0.0, 1.0], 20)
    with pytest.raises(UsageError, match="found a fold that lacks one of them because groups stay together"):
        Plan.make(np.repeat(["a", "b", "c", "d"], 10), y.astype(np.intp), folds=4, seed=0, classes=True)


def test_the_null_of_covariates_and_expression_keeps_covariates():
    design, rng = noise(60, 5, 1)
    age = rng.normal(size=60)
    y = 3 * age + rng.normal(size=60)
    known = Design(age[:, None], ("age",), np.array([True]))
    plan, learner = plan_of(y), ElasticNet(kind="continuous", mixes=(0.0,))
    trial = Trial({"genes": (learner, design), "both": (learner, design.beside(known))}, y, plan)
    null = null_figures(trial, permutations=20, seed=0, workers=1, on_done=lambda done: None)
    assert abs(null["genes"].mean()) < 0.2
    assert null["both"].min() > 0.7


def test_bands_follow_the_sds():
    design, rng = noise(60, 4, 2)
    y = design.values[:, 0] + 0.3 * rng.normal(size=60)
    plan = plan_of(y)
    nested = cross_validate(ElasticNet(kind="continuous", mixes=(0.0,)), design, y, plan)
    found = {}
    for sd in (0.0, 0.1, 1.0):
        cloud = Expression(design.names, design.values, np.full(design.values.shape, sd))
        found[sd] = resampled("continuous", y, nested, cloud, None, plan, draws=300, seed=0)
    figure = statistic("continuous", y, nested.prediction, plan)
    assert found[0.0].low == found[0.0].high == pytest.approx(figure)
    assert found[0.1].mean > found[1.0].mean
    for fold, model in zip(plan.folds, nested.models, strict=True):  # a linear model's SD is a formula
        slopes = model.coefficients / model.standardiser.scale
        np.testing.assert_allclose(found[0.1].sd[fold.test], 0.1 * np.sqrt((slopes**2).sum()), rtol=0.25)


def test_an_alignment_by_quantiles_undoes_any_monotone_change():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 3))
    reference = Reference.of(("a", "b", "c"), values)
    changed = np.exp(values) * 5
    aligned = Alignment.fit(changed, reference)(changed)
    inner = (values > np.quantile(values, 0.02, axis=0)) & (values < np.quantile(values, 0.98, axis=0))
    assert np.quantile(np.abs(aligned - values)[inner], 0.99) < 0.06
    assert (np.argsort(aligned, axis=0) == np.argsort(changed, axis=0))[5:-5].all()
    shifted = Alignment.fit(3 * values + 2, reference, method="moments")(3 * values + 2)
    np.testing.assert_allclose(shifted, values)
    np.testing.assert_array_equal(Alignment.fit(values, reference, method="none")(values), values)
    flat = Alignment.fit(np.ones((20, 3)), reference)(np.ones((20, 3)))
    np.testing.assert_allclose(flat, np.median(values, axis=0)[None] + np.zeros((20, 1)), atol=1e-9)
    with pytest.raises(UsageError, match="expected at least 10 patients to align a cohort by, found 4"):
        Alignment.fit(values[:4], reference)


def trained(kind="continuous"):
    design, rng = noise(120, 6, 3)
    y = design.values[:, 0] - design.values[:, 1] + 0.5 * rng.normal(size=120)
    y = (y > 0).astype(float) if kind == "binary" else y
    expression = Expression(design.names, design.values)
    model = ElasticNet(kind=kind).fit(design, y, plan_of(y).whole)
    higher = "response" if kind == "binary" else "resistance"
    return model, expression, TransferModel.of(model, expression, higher=higher, card={"trained_on": "lines"})


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_a_transfer_to_the_training_cohort_is_the_model(kind, tmp_path):
    model, expression, kept = trained(kind)
    save_model(kept, tmp_path)
    loaded = load_model(tmp_path)
    found = transfer(loaded, expression, method="none")
    np.testing.assert_allclose(found.prediction, model(expression.values), rtol=1e-12)
    assert found.weight == pytest.approx(1)
    assert found.genes == expression.genes
    record = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert record["card"] == {"trained_on": "lines"}
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_genes_out_of_order_and_missing():
    model, expression, kept = trained()
    some = Expression(("G1", "other", "G0"), expression.mean[:, [1, 5, 0]])
    found = transfer(kept, some, method="none")
    assert found.genes == ("G1", "G0")
    expected = expression.values.copy()
    expected[:, 2:] = expected[:, 2:].mean(axis=0)  # what is not measured counts as average
    np.testing.assert_allclose(found.prediction, model(expected), rtol=1e-10)
    weights = np.abs(model.coefficients)
    assert found.weight == pytest.approx(weights[:2].sum() / weights.sum())
    with pytest.raises(UsageError, match="expected genes that hold at least 50% of the model's weight"):
        transfer(kept, Expression(("G5",), expression.mean[:, :1]))
    with pytest.raises(UsageError, match="expected genes in common, found none"):
        transfer(kept, Expression(("X",), expression.mean[:, :1]))


def test_words_of_response():
    cells = [
        "CR",
        "partial response",
        "SD",
        "Progressive Disease",
        "pCR",
        "RD",
        "1",
        0,
        True,
        None,
        "NE",
        1.0,
        "non-responder",
    ]
    found = binary_response(pd.Series(cells, name="r"))
    expected = [1, 1, 0, 0, 1, 0, 1, 0, 1, np.nan, np.nan, 1, 0]
    np.testing.assert_array_equal(found.values, expected)
    benefit = binary_response(pd.Series(["CR", "SD", "PD"]), ["cr", "sd"])
    np.testing.assert_array_equal(benefit.values, [1, 1, 0])
    with pytest.raises(UsageError, match="found 2, maybe"):
        binary_response(pd.Series([2, "maybe", "CR"], name="r"))


def test_logarithm_of_a_response():
    found = continuous_response(np.array([1.0, np.e, np.nan]), name="ic50", log=True)
    np.testing.assert_allclose(found.values[:2], [0, 1])
    assert list(found.known) == [True, True, False]
    with pytest.raises(UsageError, match="expected positive values of ic50"):
        continuous_response(np.array([1.0, 0.0]), name="ic50", log=True)


def test_expression_of_a_table():
    features = Features(("ERBB2_mean", "CD3D"), np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.1, 0.0], [0.1, 0.0]]))
    found = Expression.of(features, "log1p")
    assert found.genes == ("ERBB2", "CD3D")
    np.testing.assert_allclose(found.values, np.log1p(features.mean))
    with pytest.raises(UsageError, match="expected each gene once, found ERBB2"):
        Expression.of(Features(("ERBB2_mean", "ERBB2"), np.ones((2, 2))))
    drawn = np.stack([found.draw(np.random.default_rng(k)) for k in range(500)])
    np.testing.assert_allclose(np.expm1(drawn).mean(axis=0), features.mean, atol=0.02)
    np.testing.assert_array_equal(drawn[:, :, 1], np.log1p(features.mean[:, 1])[None].repeat(500, axis=0))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_permuted_responses_come_out_as_no_signal(kind):
    """Mean null figure within 3 SE of chance; rejections at 0.05 within their binomial 99 % interval."""
    cohorts, permutations, found, p = 200, 19, [], []
    chance = {"binary": 0.5, "continuous": 0.0}[kind]
    for seed in range(cohorts):
        design, rng = noise(60, 30, seed)
        y = (rng.random(60) > 0.5).astype(float) if kind == "binary" else rng.normal(size=60)
        plan, learner = plan_of(y, folds=3, seed=seed), ElasticNet(kind=kind, mixes=(0.0, 0.5))
        trial = Trial({"net": (learner, design)}, y, plan)
        observed = trial.figures(np.arange(60))["net"]
        null = null_figures(trial, permutations=permutations, seed=seed, workers=1, on_done=lambda done: None)["net"]
        found.append(observed)
        p.append(permutation_p(observed, list(null)))
    assert abs(np.mean(found) - chance) < 3 * np.std(found, ddof=1) / np.sqrt(cohorts)
    low, high = binom.interval(0.99, cohorts, 0.05)
    assert low <= sum(value <= 0.05 for value in p) <= high
