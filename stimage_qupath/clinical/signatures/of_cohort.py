"""Every signature asked for on a cohort's expression, with the spread that the uncertainty of the genes gives it.

Each patient's expression is drawn from a log-normal of its predicted mean and SD, the signature - fitted once, on the
means - is scored on each draw, and the SD over draws is the score's. Draws of different genes are independent, because
a table of means and SDs does not say how genes err together: an error that genes share is not in it. Scores of runs
made with ``predict --signatures`` carry that part from the members themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.signatures.gene70 import Gene70
from stimage_qupath.clinical.signatures.linear import Linear
from stimage_qupath.clinical.signatures.pam50 import Pam50
from stimage_qupath.clinical.signatures.recurrence_21 import RecurrenceScore
from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import Signature, fit, left_out
from stimage_qupath.signatures.library import (
    GMT_SUFFIX,
    LINEAR,
    ONCOTYPE,
    PAM50_PROLIFERATION,
    linear_signatures,
)
from stimage_qupath.signatures.scores import log_expression

Float = NDArray[np.float64]
GmtScore: TypeAlias = Literal["log", "z"]

PAM50: Final = "pam50"
GENE70: Final = "gene70"
WORDS: Final = (PAM50, ONCOTYPE, GENE70, *(word for word in LINEAR if word != ONCOTYPE))
"""Words for :func:`score_cohort`, besides GMT files."""
LEAST_COHORT: Final = 10
"""Patients from which a gene's centre or range over the cohort means something."""
DRAWS: Final = 200


class Method(Protocol):
    """A signature, fitted on a cohort."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the scores."""
        ...

    @property
    def needs_cohort(self) -> bool:
        """Whether the score depends on the other patients."""
        ...

    def scores(self, x: Float) -> Float:
        """Return (patient, score) of log2 expression."""
        ...

    def labels(self, scores: Float) -> dict[str, list[str]]:
        """Return columns of words."""
        ...

    def record(self) -> dict[str, Any]:
        """Return sources, normalisation and missing genes."""
        ...


class _Fitting(Protocol):
    def __call__(self, genes: Sequence[str], x: Float) -> Method: ...


OWN: Final[dict[str, _Fitting]] = {PAM50: Pam50.of, ONCOTYPE: RecurrenceScore.of, GENE70: Gene70.of}
"""Signatures with an algorithm of their own."""


@dataclass(frozen=True, slots=True)
class CohortScores:
    """Scores of patients.

    Attributes
    ----------
    columns
        Column to (patient,) values: ``..._score`` and ``..._score_sd``, and words such as ``pam50_subtype`` with
        ``..._share``, the share of draws with the same word.
    record
        By signature: source, normalisation, missing genes.
    warnings
        Signatures that were left out, and why.
    """

    columns: Mapping[str, NDArray[Any]]
    record: Mapping[str, Any]
    warnings: tuple[str, ...]


def score_cohort(
    words: Sequence[str],
    genes: Sequence[str],
    mean: Float,
    sd: Float,
    *,
    gmt_score: GmtScore = "log",
    seed: int = 0,
    draws: int = DRAWS,
) -> CohortScores:
    """Score a cohort.

    Parameters
    ----------
    words
        Each one of :data:`WORDS` or the path of a GMT file.
    genes
        Columns of ``mean``.
    mean, sd
        (patient, gene) expected counts and their SD; SD 0 gives scores an SD of 0.
    gmt_score
        What the score of a gene set of a GMT file is the mean of: ``log`` expression, or its ``z`` over the cohort.
    seed, draws
        Of the draws.

    Raises
    ------
    UsageError
        There is no such signature, or a GMT file cannot be used.
    """
    check_words(words)
    x = log_expression(mean)
    fits = [fit(signature, genes) for signature in _linear(words)]
    few = {found.signature.name: found for found in fits if found.refusal}
    warnings = list(left_out(list(few.values())))
    methods: dict[str, Method] = {}
    for name, fitting in _fittings(words, gmt_score):
        if name in few:
            continue
        try:
            method = fitting(genes, x)
        except UsageError as error:
            warnings.append(f"signature '{name}' is left out: {error}")
            continue
        if method.needs_cohort and len(x) < LEAST_COHORT:
            short = f"expected at least {LEAST_COHORT} patients to compare with, found {len(x)}"
            warnings.append(f"signature '{name}' is left out: {short}")
            continue
        methods[name] = method
    drawn = _scored_draws(list(methods.values()), mean, sd, draws if methods else 0, np.random.default_rng(seed))
    columns: dict[str, NDArray[Any]] = {}
    for method, scores in zip(methods.values(), drawn, strict=True):
        columns |= _columns_of(method, x, scores)
    return CohortScores(columns, {name: method.record() for name, method in methods.items()}, tuple(warnings))


def check_words(words: Sequence[str]) -> None:
    """Raise :class:`UsageError` where a word stands for no signature, or a GMT file cannot be used."""
    unknown = [word for word in words if word not in WORDS and not word.lower().endswith(GMT_SUFFIX)]
    if unknown:
        msg = f"expected signatures out of {', '.join(WORDS)} or GMT files, found '{unknown[0]}'"
        raise UsageError(msg)
    _linear(words)


def _fittings(words: Sequence[str], gmt_score: GmtScore) -> Iterator[tuple[str, _Fitting]]:
    """Yield name and fit of each signature."""
    yield from ((word, OWN[word]) for word in dict.fromkeys(words) if word in OWN)
    of_files = {s.name for s in linear_signatures([word for word in words if word not in WORDS])}
    for signature in _linear(words):
        yield signature.name, partial(Linear.of, signature, z=gmt_score == "z" and signature.name in of_files)


def _linear(words: Sequence[str]) -> tuple[Signature, ...]:
    """Return the linear signatures among those asked for; PAM50's proliferation comes with its subtypes."""
    linear = [word for word in words if word not in OWN]
    return linear_signatures([*linear, *([PAM50_PROLIFERATION] if PAM50 in words else [])])


def _scored_draws(
    methods: Sequence[Method], mean: Float, sd: Float, draws: int, rng: np.random.Generator
) -> list[Float]:
    """Return each method's scores of drawn expression, (draw, patient, score); one draw is in memory at a time.

    Without any uncertainty one draw, the means themselves, says it all.
    """
    if not sd.any():
        return [method.scores(log_expression(mean))[None] for method in methods]
    known = np.where(mean > 0, mean, 1.0)
    spread = np.sqrt(np.log1p((np.where(mean > 0, sd, 0.0) / known) ** 2))
    found = [np.empty((draws, len(mean), len(method.columns))) for method in methods]
    for draw in range(draws):
        x = log_expression(mean * np.exp(rng.standard_normal(mean.shape) * spread - spread**2 / 2))
        for scores, method in zip(found, methods, strict=True):
            scores[draw] = method.scores(x)
    return found


def _columns_of(method: Method, x: Float, drawn: Float) -> dict[str, NDArray[Any]]:
    """Return the columns of a method; ``drawn`` is (draw, patient, score)."""
    scores = method.scores(x)
    columns: dict[str, NDArray[Any]] = {}
    for i, column in enumerate(method.columns):
        columns[column] = scores[:, i]
        columns[f"{column}_sd"] = drawn[:, :, i].std(axis=0)
    for column, words in method.labels(scores).items():
        columns[column] = np.array(words, dtype=object)
        same = [np.array(method.labels(draw)[column], dtype=object) == columns[column] for draw in drawn]
        columns[f"{column}_share"] = np.mean(same, axis=0)
    return columns
