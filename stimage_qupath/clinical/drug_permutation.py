"""The null of a response model: the whole nested pipeline on expression that went to other patients."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.design_matrix import Design
from stimage_qupath.clinical.drug_nested import Learner, Plan, cross_validate, exchanges, statistic

Float = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Trial:
    """What is done to the data, and to each permutation of them.

    Attributes
    ----------
    models
        Name to learner and design; the patients are the same, in the same order.
    y
        (patient,).
    plan
        Folds, which stay as they are.
    """

    models: Mapping[str, tuple[Learner, Design]]
    y: Float
    plan: Plan

    def figures(self, source: Index) -> dict[str, float]:
        """Return each model's primary figure when patient ``i`` has the expression of ``source[i]``."""
        found = {}
        for name, (learner, design) in self.models.items():
            nested = cross_validate(learner, design.with_expression_of(source), self.y, self.plan)
            found[name] = statistic(learner.kind, self.y, nested.prediction, self.plan)
        return found


def null_figures(
    trial: Trial, *, permutations: int, seed: int, workers: int, on_done: Callable[[int], None]
) -> dict[str, Float]:
    """Return each model's figures under the null, (permutation,).

    Parameters
    ----------
    trial
        What is repeated.
    permutations, seed
        ``B`` and the seed; the figures do not depend on ``workers``.
    workers
        Processes.
    on_done
        Called with the number of permutations done; what it raises stops the work.
    """
    sources = list(exchanges(trial.plan, trial.y, permutations=permutations, seed=seed))
    rounds = []
    for done, found in enumerate(_rounds(trial, sources, workers), start=1):
        rounds.append(found)
        on_done(done)
    return {name: np.array([found[name] for found in rounds]) for name in trial.models}


def _rounds(trial: Trial, sources: Sequence[Index], workers: int) -> Iterator[dict[str, float]]:
    if workers <= 1 or len(sources) < 2:
        yield from map(trial.figures, sources)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(trial,)) as pool:
        try:
            yield from pool.map(_work, sources)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_TRIAL: list[Trial] = []
"""Of a worker process: sent once, not with each permutation."""


def _start(trial: Trial) -> None:
    _TRIAL[:] = [trial]


def _work(source: Index) -> dict[str, float]:
    return _TRIAL[0].figures(source)
