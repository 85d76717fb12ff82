"""Permuted nulls: the whole nested pipeline again and again, folds, filter, penalty and cut-point included.

Two nulls. With the outcomes (time and event together, within strata) given to other patients, no model can be better
than chance: that judges each model. With the genes given to other patients, while covariates and outcome stay together,
expression can add nothing: that judges the gain over the covariates. ``p = (b + 1) / (B + 1)`` with ``b`` of ``B``
permutations at least as high as what was found (Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9).

Each permutation has a seed of its own, so that the figures do not depend on how many processes share the work.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.cross_validation import cross_validate
from stimage_qupath.clinical.gain import out_of_fold_gain
from stimage_qupath.clinical.kaplan_meier import log_rank
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import NestedSettings, OutOfFold, Problem

Float = NDArray[np.float64]
Index = NDArray[np.intp]
Statistics = dict[str, float]

EQUAL = 1e-12
"""Statistics that differ by less are equal up to rounding."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is done to the data, and to each permutation of them.

    Attributes
    ----------
    models
        Name to problem; the patients are the same, in the same order.
    gains
        Name of a model with genes to that of the covariates alone, for the second null.
    settings
        Of the nested cross-validation.
    """

    models: Mapping[str, Problem]
    gains: Mapping[str, str]
    settings: NestedSettings

    def outcome_statistics(self, order: Index) -> Statistics:
        """Return C and log-rank of each model when patient ``i`` has the outcome of ``order[i]``."""
        found: Statistics = {}
        for name, problem in self.models.items():
            permuted = problem.permuted_outcome(order)
            result = cross_validate(permuted, self.settings)
            found |= {f"{name}|{what}": value for what, value in statistics(permuted.outcome, result).items()}
        return found

    def gene_statistics(self, order: Index) -> Statistics:
        """Return the gains when genes ``i`` go with the covariates and the outcome of patient ``order[i]``."""
        found: Statistics = {}
        for name, base in self.gains.items():
            whole, alone = (self.models[n].permuted_genes(order) for n in (name, base))
            gain = out_of_fold_gain(
                whole.outcome, cross_validate(alone, self.settings), cross_validate(whole, self.settings)
            )
            found |= {f"{name}|{what}": value for what, value in gain.items()}
        return found


def statistics(outcome: Outcome, result: OutOfFold) -> Statistics:
    """Return what a model is judged by: C within folds, and the log-rank of its groups."""
    return {
        "c": concordance(outcome, result.risk, result.tests),
        "log_rank": log_rank(outcome.time, outcome.event, result.high, strata=outcome.strata),
    }


@dataclass(frozen=True, slots=True)
class Null:
    """Statistics of permutations.

    Attributes
    ----------
    values
        Statistic to (permutation,) values.
    """

    values: Mapping[str, Float]

    def p(self, name: str, found: float) -> float:
        """Return the one-sided p of a statistic that is high where there is signal."""
        null = self.values[name]
        return float((1 + (~(null < found - EQUAL)).sum()) / (1 + len(null)))

    def summary(self, name: str) -> dict[str, float]:
        """Return mean, SD and the standard error of the mean over permutations in which it could be had."""
        null = self.values[name][np.isfinite(self.values[name])]
        sd = float(null.std(ddof=1)) if len(null) > 1 else float("nan")
        return {"mean": float(null.mean()), "sd": sd, "se": sd / np.sqrt(max(len(null), 1))}


def permute(
    trial: Trial,
    *,
    permutations: int,
    seed: int,
    jobs: int = 1,
    on_done: Callable[[int], None] = lambda done: None,
) -> tuple[Null, Null]:
    """Return the null of permuted outcomes, and that of permuted genes.

    Parameters
    ----------
    trial
        What is repeated.
    permutations, seed
        ``B`` and the seed.
    jobs
        Processes.
    on_done
        Called with the number of permutations done; what it raises stops the work.
    """
    rounds: list[tuple[Statistics, Statistics]] = []
    for done, found in enumerate(_rounds(trial, permutations, seed, jobs), start=1):
        rounds.append(found)
        on_done(done)
    outcomes, genes = ([one[side] for one in rounds] for side in (0, 1))
    return _null(outcomes), _null(genes)


def _null(rounds: list[Statistics]) -> Null:
    names = rounds[0] if rounds else {}
    return Null({name: np.array([found[name] for found in rounds]) for name in names})


def _rounds(trial: Trial, permutations: int, seed: int, jobs: int) -> Iterator[tuple[Statistics, Statistics]]:
    seeds = np.random.SeedSequence(seed).spawn(permutations)
    if jobs <= 1:
        yield from (one_round(trial, one) for one in seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(trial,)) as pool:
        try:
            yield from pool.map(_work, seeds, chunksize=max(1, min(8, permutations // (4 * jobs))))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def one_round(trial: Trial, seed: np.random.SeedSequence) -> tuple[Statistics, Statistics]:
    """Return the statistics of one permutation of outcomes and one of genes."""
    strata = next(iter(trial.models.values())).outcome.strata
    rng = np.random.default_rng(seed)
    return (
        trial.outcome_statistics(permutation_within(strata, rng)),
        trial.gene_statistics(permutation_within(strata, rng)),
    )


def permutation_within(strata: Index, rng: np.random.Generator) -> Index:
    """Return a random order of patients in which each keeps a place of its stratum."""
    order = np.arange(len(strata))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        order[rows] = rng.permutation(rows)
    return order


_TRIAL: list[Trial] = []
"""Of a worker process: sent once, not with each permutation."""


def _start(trial: Trial) -> None:
    _TRIAL[:] = [trial]


def _work(seed: np.random.SeedSequence) -> tuple[Statistics, Statistics]:
    return one_round(_TRIAL[0], seed)
