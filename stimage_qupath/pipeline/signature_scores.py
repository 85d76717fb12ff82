"""Signature scores of a run: which, how they stand among the measurements, and what the record says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, Self

import numpy as np

from stimage_qupath import names
from stimage_qupath.errors import UsageError
from stimage_qupath.models.ensemble import Ensemble
from stimage_qupath.nuclei.segment import CellChunk
from stimage_qupath.prediction.signatures import SignatureScorer
from stimage_qupath.results import Cells, Prediction
from stimage_qupath.signatures.library import column_name, linear_signatures
from stimage_qupath.signatures.scores import MemberScores

STAGE: Final = "signatures"
MEANING: Final = (
    "score: mean over members of the weighted log2(1 + expected counts); SD: by the law of total variance over members "
    "and over the counts of a hypothetical spot (delta method, genes independent given the member); epistemic SD: "
    "members alone"
)


class SignatureScores:
    """The signatures of a run.

    Parameters
    ----------
    scorer
        What computes them.
    warnings
        What was left out.
    """

    def __init__(self, scorer: SignatureScorer, warnings: tuple[str, ...]) -> None:
        self.scorer, self.warnings = scorer, warnings
        self._sum: Any = 0.0
        self._cells = 0

    @classmethod
    def of(cls, words: tuple[str, ...], ensemble: Ensemble) -> Self | None:
        """Return the signatures that ``words`` ask for, None where they ask for none.

        Raises
        ------
        UsageError
            There is no such signature, or the panel holds too little of all of them.
        """
        if not words:
            return None
        asked = linear_signatures(words)
        columns = set(names.TABLE_COLUMN.values())
        taken = [found.name for found in asked if f"{column_name(found.name)}_{names.SCORE}" in columns]
        if taken:
            msg = f"expected signatures of other names than the measurements have, found '{taken[0]}'; rename it"
            raise UsageError(msg)
        return cls(*SignatureScorer.of(ensemble, asked))

    def into(
        self, scored: Iterable[tuple[CellChunk, Prediction, MemberScores]]
    ) -> Iterator[tuple[CellChunk, Prediction]]:
        """Yield each block with the scores among its nuclei's measurements."""
        for chunk, prediction, scores in scored:
            self._sum = self._sum + scores.members.sum(axis=0)
            self._cells += len(chunk.cells)
            yield replace(chunk, cells=self._with_scores(chunk.cells, scores)), prediction

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` says; ``member_mean`` is each member's score, averaged over the nuclei."""
        means = self._sum / self._cells if self._cells else None
        entries = [
            found.to_dict() | {"member_mean": None if means is None else means[:, column].tolist()}
            for column, found in enumerate(self.scorer.fits)
        ]
        return {"meaning": MEANING, "signatures": entries}

    def _with_scores(self, cells: Cells, scores: MemberScores) -> Cells:
        values = {
            names.SCORE: scores.score,
            names.SCORE_SD: scores.sd,
            names.SCORE_EPISTEMIC_SD: np.sqrt(scores.epistemic),
        }
        columns = {
            names.signature_measurement(found.signature.name, quantity): matrix[:, i].astype(np.float32)
            for i, found in enumerate(self.scorer.fits)
            for quantity, matrix in values.items()
        }
        return replace(cells, measurements={**cells.measurements, **columns})
