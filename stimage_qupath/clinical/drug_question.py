"""What is asked of a cohort, and the models that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from stimage_qupath.clinical.boosting import Boosting
from stimage_qupath.clinical.design_matrix import Design, encode_covariates
from stimage_qupath.clinical.drug_nested import Learner, Plan
from stimage_qupath.clinical.elastic_net import RIDGE, ElasticNet
from stimage_qupath.clinical.expression import Expression
from stimage_qupath.clinical.response import Kind, Response

Role = Literal["expression", "covariates", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a cohort; every row is a patient with a known response.

    Attributes
    ----------
    response
        To be predicted.
    plan
        Folds.
    sources
        Name to expression: the same patients in the same order.
    covariates
        One row a patient, or no columns.
    learners
        ``elastic-net``, ``boosting``.
    replicates, permutations, draws
        Resamples of patients, permutations of expression, and draws from predictive distributions.
    seed
        Of everything random.
    workers
        Processes for the permutations.
    """

    response: Response
    plan: Plan
    sources: Mapping[str, Expression]
    covariates: pd.DataFrame
    learners: tuple[str, ...] = (ElasticNet.name,)
    replicates: int = 1000
    permutations: int = 200
    draws: int = 200
    seed: int = 0
    workers: int = 1

    @property
    def kind(self) -> Kind:
        """Of the response."""
        return self.response.kind

    def learner(self, name: str) -> Learner:
        """Return the learner of that name."""
        if name == Boosting.name:
            return Boosting(kind=self.kind, seed=self.seed)
        return ElasticNet(kind=self.kind)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is scored.

    Attributes
    ----------
    label
        Unique name.
    role
        What it sees.
    learner
        How it is fitted.
    design
        Its columns.
    learner_name, source
        Of the learner and of the expression; empty for covariates alone.
    """

    label: str
    role: Role
    learner: Learner
    design: Design
    learner_name: str
    source: str = ""


def candidates(question: Question) -> list[Candidate]:
    """Return the models: what is known anyway first, then expression, then both."""
    found = []
    known = encode_covariates(question.covariates) if len(question.covariates.columns) else None
    ridge = ElasticNet(kind=question.kind, mixes=(RIDGE,))
    if known is not None:
        found.append(Candidate("covariates", "covariates", ridge, known, "ridge"))
        if len(question.covariates.columns) > 1:
            for name in question.covariates:
                alone = encode_covariates(question.covariates[[name]])
                found.append(Candidate(f"covariate {name}", "covariates", ridge, alone, "ridge"))
    for source, expression in question.sources.items():
        for name in question.learners:
            genes, learner = expression.design(), question.learner(name)
            found.append(Candidate(f"{name}, {source}", "expression", learner, genes, name, source))
            if known is not None:
                label = f"{name}, {source} and covariates"
                found.append(Candidate(label, "both", learner, genes.beside(known), name, source))
    return found
