"""Times the nested cross-validation of survival, and a permutation of it, on a cohort of noise and one gene.

    OMP_NUM_THREADS=2 python tests/benchmarks/survival_speed.py --patients 1000 --genes 1500

Prints seconds on the clock and of the processor for 5 x 5 nested folds, and seconds for one permutation, as the mean of
a few; that times 500 is the cost of a permutation test, divided by ``--jobs``.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from stimage_qupath.clinical.gene_filter import FeatureTable
from stimage_qupath.clinical.nested import nested_cv
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.permutation import Trial, permute
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import NestedSettings, Problem


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--genes", type=int, default=1500)
    parser.add_argument("--permutations", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    genes = rng.normal(size=(asked.patients, asked.genes))
    genes[:, 1 : asked.genes // 4] += 0.5 * genes[:, :1]
    times, censored = rng.exponential(np.exp(-0.5 * genes[:, 0])), rng.exponential(0.25, size=asked.patients)
    outcome = Outcome.of(np.minimum(times, censored), times <= censored)
    problem = Problem(FeatureTable.of(genes), None, np.arange(asked.patients), outcome)
    clock, processor = time.perf_counter(), time.process_time()
    found = nested_cv(problem, NestedSettings())
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    c = concordance(outcome, found.risk, found.tests)
    print(f"5 x 5 nested folds, {outcome.events} events: {clock:.2f} s, processor {processor:.2f} s, C {c:.3f}")
    clock = time.perf_counter()
    permute(Trial({"m": problem}, {}, NestedSettings()), permutations=asked.permutations, seed=0, jobs=asked.jobs)
    print(f"a permutation, {asked.jobs} processes: {(time.perf_counter() - clock) / asked.permutations:.2f} s")


if __name__ == "__main__":
    main()
