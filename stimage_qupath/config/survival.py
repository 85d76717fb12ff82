"""What ``survival`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stimage_qupath.config.base import Settings, at_least
from stimage_qupath.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalSettings(Settings):
    """Relate expression of patients to the time until an event.

    Attributes
    ----------
    cohort
        Table, one row a patient (or a slide).
    time, event
        Columns: follow-up, and 1 where the event was observed at its end.
    output
        Folder to make.
    patient
        Column of patients.
    covariates
        Columns that every model holds beside expression.
    strata
        Column; patients are compared within a stratum alone.
    site
        Column of tissue source sites, which then stay on one side of a fold.
    features
        Patterns of columns; empty: ``*_mean``, or every other number.
    external
        Table of another cohort with the same columns.
    compare
        Table of measured expression of the same patients.
    model
        ``cox``, or ``forest`` for a random survival forest.
    penalty
        ``ridge`` or ``elastic-net``, of the Cox model.
    transform
        ``log1p`` of the features, or ``none``.
    horizons
        Times at which survival is asked for; empty: quartiles of the event times.
    folds, inner_folds
        Of the nested cross-validation.
    permutations
        Of the whole nested pipeline; 0 tests nothing.
    replicates
        Resamples of patients for the intervals.
    draws
        Draws of patients from their predictive distribution, where the features have SDs.
    jobs
        Processes for the permutations.
    seed
        Of every random number.
    force
        Replace an earlier output.
    """

    cohort: Path
    time: str
    event: str
    output: Path
    patient: str = "patient"
    covariates: tuple[str, ...] = ()
    strata: str | None = None
    site: str | None = None
    features: tuple[str, ...] = ()
    external: Path | None = None
    compare: Path | None = None
    model: Literal["cox", "forest"] = "cox"
    penalty: Literal["ridge", "elastic-net"] = "ridge"
    transform: Literal["none", "log1p"] = "none"
    horizons: tuple[float, ...] = ()
    folds: int = 5
    inner_folds: int = 5
    permutations: int = 500
    replicates: int = 1000
    draws: int = 200
    jobs: int = 1
    seed: int = 0
    force: bool = False

    flow: ClassVar[str] = "survival"

    def _check(self) -> None:
        for name, least in (("folds", 2), ("inner_folds", 2), ("replicates", 100), ("jobs", 1), ("seed", 0)):
            at_least(name, getattr(self, name), least)
        at_least("draws", self.draws, 20)
        if self.permutations != 0:
            at_least("permutations", self.permutations, 19)
        named = [self.patient, self.time, self.event, *self.covariates, *filter(None, (self.strata, self.site))]
        doubled = sorted({name for name in named if named.count(name) > 1})
        if doubled:
            msg = f"expected each column in one role, found {', '.join(doubled)} in several; name different columns"
            raise UsageError(msg)
        if any(horizon <= 0 for horizon in self.horizons):
            msg = f"expected horizons above 0, found {', '.join(f'{h:g}' for h in self.horizons)}"
            raise UsageError(msg)
        if self.model == "forest" and (self.external or self.penalty != "ridge"):
            msg = "expected --model cox with --external or --penalty, found forest; leave one of them out"
            raise UsageError(msg)
