"""A random survival forest in the same nested folds as the Cox model (extra ``survival-forest``).

Ishwaran et al. 2008 (Ann. Appl. Stat. 2), by scikit-survival. The features are filtered as for the Cox model; how many
are kept, and the cut-point, is chosen over inner folds. It gives no hazard ratios, no calibration and no external
model.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.nested import Subset, cut_point, inner_folds, outer_folds, subsets_of
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.survival_metrics import concordance
from stimage_qupath.clinical.survival_problem import NestedSettings, OutOfFold, Problem
from stimage_qupath.errors import MissingPartError

Float = NDArray[np.float64]
Index = NDArray[np.intp]

INSTALL: Final = "pip install 'stimage-qupath[survival-forest]'"
TREES: Final = 200
LEAF: Final = 15
"""Least patients in a leaf."""


def forest_cv(problem: Problem, settings: NestedSettings) -> OutOfFold:
    """Return out-of-fold risks (expected events) of forests; ``models`` is empty.

    Raises
    ------
    MissingPartError
        scikit-survival is not installed.
    UsageError
        As of :func:`~stimage_qupath.clinical.nested.nested_cv`.
    """
    outcome = problem.outcome
    folds = outer_folds(problem.groups, outcome, settings)
    risk, high = np.zeros(len(outcome)), np.zeros(len(outcome), dtype=bool)
    for number, fold in enumerate(folds):
        parts = inner_folds(problem, fold.train, settings, number)
        whole, *inner = subsets_of(problem, [fold.train, *(fold.train[p.train] for p in parts)], settings)
        kept = sorted({min(k, len(whole.ranked)) for k in settings.kept})
        held_out = np.zeros((len(kept), len(fold.train)))
        for part, subset in zip(parts, inner, strict=True):
            for place, k in enumerate(kept):
                _, held_out[place, part.test] = _risks(problem, subset, k, fold.train[part.test], settings)
        local = outcome.take(fold.train)
        tests = [part.test for part in parts]
        best = int(np.nanargmax([concordance(local, of, tests) for of in held_out]))
        cut, _ = cut_point(local, held_out[best], settings)
        _, risk[fold.test] = _risks(problem, whole, kept[best], fold.test, settings)
        high[fold.test] = risk[fold.test] > cut
    return OutOfFold(tuple(folds), risk, high, risk, ())


def _risks(problem: Problem, subset: Subset, k: int, rows: Index, settings: NestedSettings) -> tuple[Any, Float]:
    """Return the forest of a subset, and the standardised risks of other patients."""
    columns = len(subset.start) + k
    forest = _forest(
        problem.outcome.take(subset.rows), subset.columns(problem, subset.rows)[:, :columns], settings.seed
    )
    own = forest.predict(subset.columns(problem, subset.rows)[:, :columns])
    spread = own.std()
    found = forest.predict(subset.columns(problem, rows)[:, :columns])
    return forest, (found - own.mean()) / (spread if spread > 0 else 1.0)


def _forest(outcome: Outcome, x: Float, seed: int) -> Any:
    try:
        from sksurv.ensemble import RandomSurvivalForest
    except ImportError as error:
        msg = f"expected the package scikit-survival for --model forest, found none; run: {INSTALL}"
        raise MissingPartError(msg) from error
    target = np.array(list(zip(outcome.event, outcome.time, strict=True)), dtype=[("event", bool), ("time", float)])
    forest = RandomSurvivalForest(TREES, min_samples_leaf=LEAF, max_features="sqrt", random_state=seed, low_memory=True)
    return forest.fit(x, target)
