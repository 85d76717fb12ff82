"""Recalibration against simulated models that are too sure, not sure enough, or of the wrong shape."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.models.negative_binomial import mixture_cdf, mixture_quantile
from stimage_qupath.models.recalibration import SHARES, Recalibration
from stimage_qupath.training.recalibrate import fit_recalibration, mixture_pit_bounds
from stimage_qupath.validation.calibration import coverage, randomised_pit

SPOTS, MEMBERS = 500, 3
TRUE_R = 2.0


def simulate(*, seed, means=(0.5, 4.0, 40.0), genes_each=12, r=TRUE_R):
    """Return counts, members' log means that scatter around the truth a little, depths and gene means."""
    rng = np.random.default_rng(seed)
    typical = np.repeat(means, genes_each)
    log_mean = np.log(typical) + rng.normal(0, 0.3, (SPOTS, len(typical)))
    log_depth = rng.normal(0, 0.4, SPOTS)
    mu = np.exp(log_mean + log_depth[:, None])
    counts = rng.poisson(rng.gamma(r, mu / r)).astype(np.float32)
    members = (log_mean + rng.normal(0, 0.02, (MEMBERS, 1, len(typical)))).astype(np.float32)
    return {"counts": counts, "log_mean_members": members, "log_depth": log_depth.astype(np.float32)}, typical


def fitted(problem, typical, log_r, method, patients=1):
    return fit_recalibration(
        **problem, log_total_count=log_r, training_mean=typical, patients=patients, method=method, seed=0
    )


def covered(problem, log_r, recalibration, level="0.9"):
    at, below = mixture_pit_bounds(**problem, log_total_count=recalibration.apply(log_r))
    return coverage(randomised_pit(recalibration.cdf(at), recalibration.cdf(below), seed=1))[level]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_dispersion_is_found_for_every_gene(factor):
    """r said to be ``factor`` times the truth asks for that temperature; low genes cannot tell and stay nearer 1."""
    problem, typical = simulate(seed=0)
    log_r = np.full(len(typical), np.log(factor * TRUE_R), dtype=np.float32)
    found = fitted(problem, typical, log_r, "temperature").log_temperature
    np.testing.assert_allclose(found[typical > 1].mean(), np.log(factor), atol=0.12)
    assert (np.sign(found[typical > 1]) == np.sign(np.log(factor))).all()
    assert found[typical > 1].std() < 0.15


def test_a_gene_that_differs_from_its_stratum_keeps_some_of_the_difference():
    problem, typical = simulate(seed=3, means=(40.0,))
    log_r = np.full(len(typical), np.log(TRUE_R), dtype=np.float32)
    log_r[0] += np.log(2.0)
    found = fitted(problem, typical, log_r, "temperature").log_temperature
    assert found[0] > np.abs(found[1:]).max()
    assert 0.1 < found[0] < np.log(2.0)


def test_what_is_right_stays_as_it_is():
    problem, typical = simulate(seed=1)
    log_r = np.full(len(typical), np.log(TRUE_R), dtype=np.float32)
    both = fitted(problem, typical, log_r, "both")
    assert np.abs(both.log_temperature).mean() < 0.1
    np.testing.assert_allclose(both.level_map, np.tile(SHARES, (4, 1)), atol=0.025)


@pytest.mark.parametrize("method", ["temperature", "conformal", "both"])
def test_coverage_is_right_on_new_spots_of_the_same_law(method):
    problem, typical = simulate(seed=0)
    log_r = np.full(len(typical), np.log(3 * TRUE_R), dtype=np.float32)
    recalibration = fitted(problem, typical, log_r, method)
    new, _ = simulate(seed=5)
    assert covered(new, log_r, Recalibration.none(len(typical))) < 0.87
    assert covered(new, log_r, recalibration) == pytest.approx(0.9, abs=0.015)
    assert covered(new, log_r, recalibration, "0.5") == pytest.approx(0.5, abs=0.03)


def test_a_biased_model_is_centred_by_the_level_map():
    """Means said to be 1.5 times the truth: no temperature centres that."""
    problem, typical = simulate(seed=0)
    problem["log_mean_members"] = problem["log_mean_members"] + np.float32(np.log(1.5))
    log_r = np.full(len(typical), np.log(TRUE_R), dtype=np.float32)
    recalibration = fitted(problem, typical, log_r, "conformal")
    new, _ = simulate(seed=6)
    new["log_mean_members"] = new["log_mean_members"] + np.float32(np.log(1.5))
    at, below = mixture_pit_bounds(**new, log_total_count=log_r)
    pit = randomised_pit(recalibration.cdf(at), recalibration.cdf(below), seed=0)
    np.testing.assert_allclose(np.quantile(pit, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.015)


def test_only_what_is_passed_in_is_used():
    """Nothing global, nothing random but the seed: the same predictions give the same recalibration."""
    problem, typical = simulate(seed=2)
    log_r = np.full(len(typical), 1.0, dtype=np.float32)
    one, two = (fitted(problem, typical, log_r, "both") for _ in range(2))
    for name, values in one.tensors().items():
        np.testing.assert_array_equal(values, two.tensors()[name])


def test_one_total_count_a_member_is_the_same_as_one_for_all():
    problem, typical = simulate(seed=2)
    log_r = np.full(len(typical), 1.0, dtype=np.float32)
    each = fitted(problem, typical, np.tile(log_r, (MEMBERS, 1)), "both")
    np.testing.assert_allclose(each.log_temperature, fitted(problem, typical, log_r, "both").log_temperature, atol=1e-6)


def test_pit_bounds_are_the_mixture_at_the_depth_of_each_spot():
    problem, typical = simulate(seed=4, genes_each=2)
    log_r = np.full(len(typical), 0.7, dtype=np.float32)
    at, below = mixture_pit_bounds(**problem, log_total_count=log_r)
    mean = np.exp(problem["log_mean_members"].astype(np.float64) + problem["log_depth"][:, None])
    np.testing.assert_allclose(at, mixture_cdf(problem["counts"], mean, np.exp(0.7)), rtol=1e-6)
    assert (below[problem["counts"] == 0] == 0).all()


def test_levels_ask_for_the_quantile_of_the_recalibrated_distribution():
    rng = np.random.default_rng(0)
    knots = np.sort(np.concatenate([rng.random((2, len(SHARES) - 2)), [[0, 1], [0, 1]]], axis=1), axis=1)
    recalibration = Recalibration(np.zeros(4, np.float32), np.array([0, 1, 1, 0]), knots, 3)
    mean, r = np.exp(rng.normal(1, 1, (2, 50, 4))), np.exp(rng.normal(0, 1, (2, 1, 4)))
    for level in (0.05, 0.5, 0.95):
        quantile = mixture_quantile(recalibration.levels(level), mean, r)
        assert (recalibration.cdf(mixture_cdf(quantile, mean, r)) >= level - 1e-9).all()
        assert (recalibration.cdf(mixture_cdf(quantile - 1, mean, r)) < level + 1e-9).all()


def test_it_survives_the_model_folder_and_a_choice_of_genes():
    problem, typical = simulate(seed=2)
    recalibration = fitted(problem, typical, np.full(len(typical), 1.0, dtype=np.float32), "both", patients=4)
    back = Recalibration.from_tensors(recalibration.tensors(), patients=4)
    np.testing.assert_array_equal(back.levels(0.3), recalibration.levels(0.3))
    columns = np.array([30, 2])
    np.testing.assert_array_equal(back.take(columns).levels(0.3), recalibration.levels(0.3)[columns])


@pytest.mark.parametrize(
    ("patients", "said"), [(1, "1 patient. Fewer than 10"), (9, "not guaranteed"), (10, "average")]
)
def test_the_card_promises_nothing_under_ten_patients(patients, said):
    none = Recalibration.none(2)
    sentence = Recalibration(none.log_temperature, none.stratum, none.level_map, patients).sentence
    assert said in sentence
    assert ("not guaranteed" in sentence) == (patients < 10)


def test_damaged_maps_are_refused():
    good = Recalibration.none(2)
    with pytest.raises(ValueError, match="expected finite temperatures and strictly rising level maps"):
        Recalibration(good.log_temperature, good.stratum, good.level_map[:, ::-1], 1)
    with pytest.raises(ValueError, match="expected level maps from 0 to 1"):
        Recalibration(good.log_temperature, good.stratum, 0.5 * good.level_map, 1)
    with pytest.raises(ValueError, match="expected a temperature and a stratum below 1"):
        Recalibration(good.log_temperature, good.stratum + 1, good.level_map, 1)
