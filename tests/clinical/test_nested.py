"""Nested cross-validation: the fast path is the slow one, nothing leaks, and a leak would show."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from scipy import stats

from stimage_qupath.clinical.cox import fit_cox
from stimage_qupath.clinical.gene_filter import FeatureTable, strongest
from stimage_qupath.clinical.kaplan_meier import log_rank
from stimage_qupath.clinical.nested import COVARIATE_PENALTY, fit_all, inner_folds, nested_cv, outer_folds
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.permutation import Trial, permutation_within, permute
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import NestedSettings, Problem
from stimage_qupath.errors import UsageError

SMALL = NestedSettings(folds=3, inner_folds=3, kept=(3, 8), spreads=(0.1, 0.5))


def cohort(seed=0, n=150, genes=40, effect=0.8, whole=False, covariates=1):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(n, genes)), rng.normal(size=(n, covariates))
    hazard = effect * x[:, 0] + (0.5 * z[:, 0] if covariates else 0.0)
    time, censored = rng.exponential(np.exp(-hazard)) * 20, rng.exponential(30, size=n)
    event, time = time <= censored, np.minimum(time, censored)
    outcome = Outcome.of(np.ceil(time) if whole else time, event)
    return x, z, outcome


def problem_of(x, z, outcome, groups=None):
    covariates = FeatureTable.of(z) if z.shape[1] else None
    return Problem(FeatureTable.of(x), covariates, np.arange(len(x)) if groups is None else groups, outcome)


def plain_fold(x, z, outcome, fold, problem, settings, number):
    """One outer fold without any short cut: every model by itself, scores from their definition."""

    def scaled(rows):
        zs = (z - z[rows].mean(axis=0)) / z[rows].std(axis=0)
        xs = (x - x[rows].mean(axis=0)) / x[rows].std(axis=0)
        sets = outcome.sets(rows, settings.ties)
        base = fit_cox(zs[rows], sets, penalty=COVARIATE_PENALTY).coef
        residuals = sets.likelihood((zs[rows] @ base)[:, None]).residuals[:, 0]
        order = np.argsort(-np.abs(xs[rows].T @ residuals), kind="stable")
        return zs, xs, sets, order

    def fit(rows, k, spread):
        zs, xs, sets, order = scaled(rows)
        columns = np.hstack([zs, xs[:, order[:k]]])
        penalty = np.concatenate([np.full(z.shape[1], COVARIATE_PENALTY), np.full(k, k / spread**2)])
        coef = fit_cox(columns[rows], sets, penalty=penalty).coef
        return columns @ coef, sets

    best, held = None, None
    for k in settings.kept:
        for spread in settings.spreads:
            total, risks = 0.0, np.zeros(len(x))
            for part in inner_folds(problem, fold.train, settings, number):
                rows, rest = fold.train[part.train], fold.train[part.test]
                eta, sets = fit(rows, k, spread)
                whole = outcome.sets(fold.train, settings.ties)
                total += (
                    whole.likelihood(eta[fold.train][:, None]).value[0] - sets.likelihood(eta[rows][:, None]).value[0]
                )
                risks[rest] = (eta[rest] - eta[rows].mean()) / eta[rows].std()
            if best is None or total > best[0]:
                best, held = (total, k, spread), risks[fold.train]
    own = outcome.take(fold.train)
    cuts = [np.quantile(held, q) for q in settings.cuts]
    cut = max(cuts, key=lambda c: log_rank(own.time, own.event, held > c))
    eta, _ = fit(fold.train, best[1], best[2])
    return (eta[fold.test] - eta[fold.train].mean()) / eta[fold.train].std(), cut, best[1:]


@pytest.mark.parametrize("whole", [False, True])
def test_the_fast_path_is_the_plain_one(whole):
    x, z, outcome = cohort(whole=whole)
    problem = problem_of(x, z, outcome)
    found = nested_cv(problem, SMALL)
    for number, (fold, model) in enumerate(zip(found.folds, found.models, strict=True)):
        risk, cut, chosen = plain_fold(x, z, outcome, fold, problem, SMALL, number)
        assert (len(model.features), model.tuning) == chosen
        np.testing.assert_allclose(found.risk[fold.test], risk, atol=1e-6)
        np.testing.assert_array_equal(found.high[fold.test], risk > cut)


def test_the_score_of_a_gene_is_the_slope_of_its_likelihood():
    x, z, outcome = cohort(whole=True)
    sets = outcome.sets(np.arange(len(x)), "efron")
    base = fit_cox(z, sets).coef
    table = FeatureTable.of(x)
    residuals = sets.likelihood((z @ base)[:, None]).residuals[:, 0]
    mean, sd = table.moments(np.ones((1, len(x))))
    scores = table.scores(residuals[None], mean, sd)[0]
    for gene in (0, 7):
        both = np.column_stack([z, x[:, gene]])

        def value(step, both=both):
            return sets.likelihood((both @ np.array([*base, step]))[:, None]).value[0]

        assert scores[gene] == pytest.approx(abs(value(1e-5) - value(-1e-5)) / 2e-5 / x[:, gene].std(), rel=1e-5)
    assert strongest(np.array([0.0, 2.0, 5.0, 2.0, 0.0]), 3).tolist() == [2, 1, 3]
    assert strongest(np.array([0.0, 1.0]), 5).tolist() == [1]


def test_models_agree_with_lifelines_and_give_its_survival():
    x, z, outcome = cohort()
    model = fit_all(problem_of(x, z, outcome), NestedSettings(inner_folds=3, kept=(2,), spreads=(50.0,)))
    columns = np.column_stack([z, x[:, model.features]])
    frame = pd.DataFrame(columns).add_prefix("x").assign(t=outcome.time, e=outcome.event)
    theirs = CoxPHFitter().fit(frame, "t", "e", fit_options={"precision": 1e-12})
    eta = model.linear_predictor(x, z)
    # a spread of 50 is nearly no penalty: 2 / 2500, and 0.1 for the covariate
    np.testing.assert_allclose(eta, theirs.predict_log_partial_hazard(frame), atol=0.01)
    time = float(np.quantile(outcome.time[outcome.event], 0.5, method="lower"))  # between events lifelines interpolates
    ours = model.survival(eta, outcome.strata, time)
    np.testing.assert_allclose(ours, theirs.predict_survival_function(frame, times=[time]).iloc[0], atol=0.01)


def test_signal_is_found_and_its_gene_kept():
    x, z, outcome = cohort(effect=1.0)
    found = nested_cv(problem_of(x, z, outcome), SMALL)
    assert concordance(outcome, found.risk, found.tests) > 0.7
    assert all(model.features[0] == 0 for model in found.models)
    assert all(model.coef[1] > 0 for model in found.models)


def test_what_happens_to_test_patients_changes_nothing_in_their_risk():
    x, z, outcome = cohort()
    rng = np.random.default_rng(1)
    found = nested_cv(problem_of(x, z, outcome), SMALL)
    first = found.tests[0]
    time = outcome.time.copy()
    # the event stays where it is, so that the folds do
    time[first] = rng.permutation(time[first]) * 3
    again = nested_cv(problem_of(x, z, Outcome.of(time, outcome.event)), SMALL)
    np.testing.assert_array_equal(again.tests[0], first)
    np.testing.assert_allclose(again.risk[first], found.risk[first], atol=1e-12)
    assert again.models[0].cut == found.models[0].cut


def test_groups_stay_together_and_inner_folds_too():
    x, z, outcome = cohort()
    sites = np.arange(150) % 12
    problem = problem_of(x, z, outcome, sites)
    for number, fold in enumerate(outer_folds(sites, outcome, SMALL)):
        assert not set(sites[fold.train]) & set(sites[fold.test])
        for part in inner_folds(problem, fold.train, SMALL, number):
            assert not set(sites[fold.train[part.train]]) & set(sites[fold.train[part.test]])
    few = problem_of(x, z, outcome, np.arange(150) % 3)
    assert len(inner_folds(few, nested_cv(few, SMALL).folds[0].train, SMALL, 0)) == 2


def test_constant_missing_and_few():
    x, z, outcome = cohort()
    plain = nested_cv(problem_of(x, z, outcome), SMALL)
    more = np.column_stack([x, np.full(150, 3.3), np.full(150, np.nan)])
    same = nested_cv(problem_of(more, z, outcome), SMALL)
    np.testing.assert_allclose(same.risk, plain.risk, atol=1e-9)
    holes = x.copy()
    holes[::7, 0] = np.nan
    found = nested_cv(problem_of(holes, z, outcome), SMALL)
    assert np.isfinite(found.risk).all()
    assert concordance(outcome, found.risk, found.tests) > 0.6
    rare = Outcome.of(outcome.time, np.arange(150) < 3)
    with pytest.raises(UsageError, match="expected at least 3 events among the patients of every fold's training set"):
        nested_cv(problem_of(x, z, rare), SMALL)


def test_no_covariates_and_no_genes():
    x, z, outcome = cohort()
    alone = nested_cv(Problem(None, FeatureTable.of(z), np.arange(150), outcome), SMALL)
    assert all(len(model.features) == 0 and model.tuning is None for model in alone.models)
    genes = nested_cv(Problem(FeatureTable.of(x), None, np.arange(150), outcome), SMALL)
    assert all(len(model.coef) == len(model.features) for model in genes.models)
    nothing = nested_cv(Problem(None, None, np.arange(150), outcome), SMALL)
    assert not nothing.risk.any()


def test_an_elastic_net_leaves_features_out():
    x, z, outcome = cohort(effect=1.0)
    found = nested_cv(problem_of(x, z, outcome), NestedSettings(folds=3, inner_folds=3, kept=(8,), l1_ratio=0.5))
    assert concordance(outcome, found.risk, found.tests) > 0.7
    assert any((model.coef[1:] == 0).any() for model in found.models)


def test_strata_are_compared_with_themselves():
    x, z, outcome = cohort()
    strata = np.arange(150) % 2
    # hazards of the second stratum are a thousandth: no model may learn that
    time = outcome.time * np.where(strata == 1, 1000.0, 1.0)
    stratified = Outcome(time, outcome.event, strata)
    again = Outcome(outcome.time, outcome.event, strata)
    a, b = (nested_cv(problem_of(x, z, o), SMALL) for o in (stratified, again))
    np.testing.assert_allclose(a.risk, b.risk, atol=1e-9)
    order = permutation_within(strata, np.random.default_rng(0))
    assert (strata[order] == strata).all()
    assert sorted(order) == list(range(150))


@pytest.mark.flow
def test_permutations_do_not_depend_on_the_number_of_processes():
    x, z, outcome = cohort(n=80, genes=10)
    tiny = NestedSettings(folds=2, inner_folds=2, kept=(3,), spreads=(0.3,))
    base = Problem(None, FeatureTable.of(z), np.arange(80), outcome)
    trial = Trial({"base": base, "full": problem_of(x, z, outcome)}, {"full": "base"}, tiny)
    seen = []
    one = permute(trial, permutations=6, seed=3, on_done=seen.append)
    two = permute(trial, permutations=6, seed=3, jobs=2)
    assert seen == [1, 2, 3, 4, 5, 6]
    for a, b in zip(one, two, strict=True):
        assert a.values.keys() == b.values.keys()
        for name in a.values:
            np.testing.assert_array_equal(a.values[name], b.values[name])
    assert set(one[0].values) == {"base|c", "base|log_rank", "full|c", "full|log_rank"}
    assert set(one[1].values) == {"full|delta_c", "full|lr_chi2"}
    assert one[0].p("full|c", 2.0) == 1 / 7
    assert one[0].p("full|c", -1.0) == 1.0


def null_cohorts(number, n=100, genes=60):
    for seed in range(number):
        x, _, outcome = cohort(seed, n=n, genes=genes, effect=0.0, covariates=0)
        yield x, outcome


NULL = NestedSettings(folds=3, inner_folds=3, kept=(5, 20), spreads=(0.1, 0.5))


@pytest.mark.flow
def test_chance_comes_out_as_one_half_and_choosing_outside_the_folds_does_not():
    honest, leaking = [], []
    for x, outcome in null_cohorts(30):
        table = FeatureTable.of(x)
        found = nested_cv(Problem(table, None, np.arange(len(x)), outcome), NULL)
        honest.append(concordance(outcome, found.risk, found.tests))
        # what the nesting prevents: genes are chosen on everybody, test patients too, and only then cross-validated
        everyone = np.ones((1, len(x)))
        residuals = outcome.sets(np.arange(len(x)), "efron").likelihood(np.zeros((len(x), 1))).residuals.T
        chosen = strongest(table.scores(residuals, *table.moments(everyone))[0], 5)
        leak = nested_cv(Problem(FeatureTable.of(x[:, chosen]), None, np.arange(len(x)), outcome), NULL)
        leaking.append(concordance(outcome, leak.risk, leak.tests))
    assert abs(np.mean(honest) - 0.5) < 3 * stats.sem(honest)
    assert np.mean(leaking) > 0.6
    assert np.mean(leaking) - 3 * stats.sem(leaking) > 0.55


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_test_rejects_as_often_as_it_says():
    """300 cohorts without signal, 19 permutations each: p <= .05 in a share inside the binomial 99 % interval."""
    tiny = NestedSettings(folds=3, inner_folds=2, kept=(5,), spreads=(0.1, 0.5))
    c, p, p_groups = [], [], []
    for seed, (x, outcome) in enumerate(null_cohorts(300, n=60, genes=25)):
        trial = Trial({"m": Problem(FeatureTable.of(x), None, np.arange(len(x)), outcome)}, {}, tiny)
        observed = trial.outcome_statistics(np.arange(len(x)))
        null, _ = permute(trial, permutations=19, seed=seed)
        c.append(observed["m|c"])
        p.append(null.p("m|c", observed["m|c"]))
        p_groups.append(null.p("m|log_rank", observed["m|log_rank"]))
    assert abs(np.mean(c) - 0.5) < 3 * stats.sem(c)
    low, high = stats.binom.interval(0.99, len(c), 0.05)
    for values in (p, p_groups):
        assert low <= sum(v <= 0.05 for v in values) <= high
