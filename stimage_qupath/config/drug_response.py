"""What ``drug-response`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.errors import UsageError

ELASTIC_NET = "elastic-net"
BOOSTING = "boosting"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrugResponseSettings(Settings):
    """Predict a drug response from expression, or apply a model that was saved.

    Attributes
    ----------
    cohort
        Table with a row a patient or cell line.
    output
        Folder to make.
    response
        Column to predict; None only with ``transfer``.
    type
        ``binary`` (RECIST words, pCR, yes and no, 1 and 0) or ``continuous`` (for example ln IC50).
    responders
        Words of responders; empty: those of RECIST and pCR.
    log_response
        Take the logarithm of a continuous response.
    higher
        What a high continuous response means.
    group
        Column of what stays on one side of a fold (site, tissue, patient); None: the patient.
    patient
        Column of the identifiers.
    features
        Patterns of expression columns; empty: ``*_mean``, else every number.
    covariates
        Columns that are known anyway.
    transform
        Of the expression before anything else: ``none``, or ``log1p`` of counts.
    model
        ``elastic-net``, ``boosting`` or ``both``.
    compare
        Measured expression of the same patients; None compares with nothing.
    genes_of
        Table whose genes alone are used, so that a saved model fits it; None: all.
    transfer
        Folder of a saved model to apply instead of training one.
    align
        How the cohort is brought onto the scale of that model's training.
    save_model
        Folder to save the elastic net of all patients in.
    permutations, folds, replicates, draws
        Permutations of expression, outer folds, resamples of patients, draws from predictive distributions.
    seed
        Of everything random.
    workers
        Processes for the permutations; figures do not depend on it.
    force
        Replace earlier outputs.
    """

    cohort: Path
    output: Path
    response: str | None = None
    type: Literal["binary", "continuous"] | None = None
    responders: tuple[str, ...] = ()
    log_response: bool = False
    higher: Literal["response", "resistance"] = "resistance"
    group: str | None = None
    patient: str = "patient"
    features: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    transform: Literal["none", "log1p"] = "none"
    model: Literal["elastic-net", "boosting", "both"] = "both"
    compare: Path | None = None
    genes_of: Path | None = None
    transfer: Path | None = None
    align: Literal["quantile", "moments", "none"] = "quantile"
    save_model: Path | None = None
    permutations: int = 200
    folds: int = 5
    replicates: int = 1000
    draws: int = 200
    seed: int = 0
    workers: int = 1
    force: bool = False

    flow: ClassVar[str] = "drug-response"

    @property
    def learners(self) -> tuple[str, ...]:
        """Names of the models to fit."""
        return (ELASTIC_NET, BOOSTING) if self.model == "both" else (self.model,)

    @property
    def direction(self) -> Literal["response", "resistance"]:
        """What a high value of the response means; 1 of a binary one is a response."""
        return "response" if self.type == "binary" else self.higher

    def _check(self) -> None:
        for name, least in (("folds", 2), ("replicates", 100), ("permutations", 0), ("draws", 0), ("seed", 0)):
            at_least(name, getattr(self, name), least)
        at_least("workers", self.workers, 1)
        if 0 < self.permutations < 19:
            msg = f"expected 0 or at least 19 permutations, so that p can reach 0.05, found {self.permutations}"
            raise UsageError(msg)
        self._check_response()
        self._check_columns()
        if self.transfer is not None:
            self._check_transfer()
        if self.save_model is not None and self.model == BOOSTING:
            msg = "expected an elastic net to save, found --model boosting; leave out --save-model or fit both"
            raise UsageError(msg)

    def _check_response(self) -> None:
        if self.response is None and self.transfer is None:
            msg = "expected a column to predict (--response), found none; name it, or pass a saved model (--transfer)"
            raise UsageError(msg)
        if self.type is not None:
            one_of("type", self.type, ("binary", "continuous"))
        if (self.response is None) != (self.type is None):
            msg = "expected a response together with its type, found one of them; pass --response and --type"
            raise UsageError(msg)
        if self.responders and self.type != "binary":
            msg = "expected words of responders only with --type binary, found them without; leave out --responders"
            raise UsageError(msg)
        if self.log_response and self.type != "continuous":
            msg = "expected a logarithm only of a continuous response; leave out --log-response"
            raise UsageError(msg)

    def _check_columns(self) -> None:
        roles = [name for name in (self.response, self.patient, *self.covariates) if name is not None]
        doubled = sorted({name for name in roles if roles.count(name) > 1})
        if doubled:
            msg = f"expected a column in one role, found {', '.join(doubled)} as response, patient or covariate twice"
            raise UsageError(msg)
        if self.group is not None and self.group == self.response:
            msg = f"expected groups other than the response, found {self.group} as both; choose another --group"
            raise UsageError(msg)

    def _check_transfer(self) -> None:
        given = {
            "--compare": self.compare,
            "--save-model": self.save_model,
            "--genes-of": self.genes_of,
            "--covariates": self.covariates,
        }
        idle = [name for name, value in given.items() if value]
        if idle:
            msg = f"expected --transfer without {', '.join(idle)}, found both; fit a model and apply one in two runs"
            raise UsageError(msg)
