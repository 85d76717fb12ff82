"""Cohorts without signal through the whole nested pipeline: mean C, and how often p says that there is some.

    python tests/benchmarks/survival_null.py --cohorts 300 --permutations 19

Prints the mean C within folds with its standard error, the share of cohorts with p <= 0.05 (C, and log-rank of the
out-of-fold groups) beside the binomial 99 % interval around 0.05, and, as a control, the mean C when genes are chosen
on all patients before the folds are drawn.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from stimage_qupath.clinical.gene_filter import FeatureTable, strongest
from stimage_qupath.clinical.nested import nested_cv
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.permutation import Trial, permute
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import NestedSettings, Problem


def cohort(seed: int, patients: int, genes: int) -> Problem:
    """Return patients whose outcome has nothing to do with their genes; half of the outcomes are observed."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(patients, genes))
    time, censored = rng.exponential(size=(2, patients))
    outcome = Outcome.of(np.minimum(time, censored), time <= censored)
    return Problem(FeatureTable.of(values), None, np.arange(patients), outcome)


def leaking(problem: Problem, settings: NestedSettings, kept: int) -> float:
    """Return the C when genes are chosen on every patient, test patients too."""
    patients = len(problem.outcome)
    residuals = problem.outcome.sets(np.arange(patients), "efron").likelihood(np.zeros((patients, 1))).residuals.T
    table = problem.genes
    chosen = strongest(table.scores(residuals, *table.moments(np.ones((1, patients))))[0], kept)
    found = nested_cv(
        Problem(FeatureTable.of(table.values[:, chosen]), None, problem.groups, problem.outcome), settings
    )
    return concordance(problem.outcome, found.risk, found.tests)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=300)
    parser.add_argument("--permutations", type=int, default=19)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--genes", type=int, default=25)
    asked = parser.parse_args()
    settings = NestedSettings(folds=3, inner_folds=2, kept=(5,), spreads=(0.1, 0.5))
    found: dict[str, list[float]] = {"c": [], "p": [], "p_groups": [], "leaking": []}
    for seed in range(asked.cohorts):
        problem = cohort(seed, asked.patients, asked.genes)
        trial = Trial({"m": problem}, {}, settings)
        observed = trial.outcome_statistics(np.arange(asked.patients))
        null, _ = permute(trial, permutations=asked.permutations, seed=seed)
        found["c"].append(observed["m|c"])
        found["p"].append(null.p("m|c", observed["m|c"]))
        found["p_groups"].append(null.p("m|log_rank", observed["m|log_rank"]))
        found["leaking"].append(leaking(problem, settings, 5))
        if (seed + 1) % 25 == 0:
            report(found)


def report(found: dict[str, list[float]]) -> None:
    """Print what has been found so far."""
    cohorts = len(found["c"])
    low, high = stats.binom.interval(0.99, cohorts, 0.05)
    print(f"{cohorts} cohorts: mean C {np.mean(found['c']):.4f} (SE {stats.sem(found['c']):.4f})")
    for name, what in (("p", "C"), ("p_groups", "log-rank")):
        rejected = sum(p <= 0.05 for p in found[name])
        print(f"  {what}: {rejected} with p <= 0.05, binomial 99 % interval [{low:.0f}, {high:.0f}]")
    print(f"  genes chosen outside the folds: mean C {np.mean(found['leaking']):.4f}", flush=True)


if __name__ == "__main__":
    main()
