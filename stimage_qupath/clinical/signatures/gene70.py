"""The 70-gene signature (L. J. van 't Veer et al., Nature 415:530, 2002, doi 10.1038/415530a). Research only.

The score is minus the Pearson correlation of a patient's log ratios with the average profile of tumours of good
prognosis, so that higher is worse. Log ratios are to the median of the cohort, or what the table holds if its columns
are the reporters of the original array. The published threshold (r of .4) belongs to that array and is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.bulk import column_correlation
from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import LEAST_SHARE, listed, names_here
from stimage_qupath.signatures.library import data_rows

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gene70:
    """The signature on a cohort.

    Attributes
    ----------
    index
        (reporter,) columns; a gene of several reporters appears once for each.
    centre
        (reporter,) what is taken off.
    profile
        (reporter,) average of good prognosis.
    missing
        Named genes that the table lacks.
    by_reporter
        Whether the columns are the original reporters.
    """

    index: NDArray[np.intp]
    centre: Float
    profile: Float
    missing: tuple[str, ...]
    by_reporter: bool

    columns: ClassVar[tuple[str, ...]] = ("gene70_score",)

    @classmethod
    def of(cls, genes: Sequence[str], x: Float) -> Self:
        """Find the reporters, else the genes; ``x`` is (patient, gene) log expression or, by reporter, log ratios.

        Raises
        ------
        UsageError
            Under half of the reporters, and under half of the named genes, are among the columns.
        """
        rows = data_rows("gene70.csv")
        position = {gene: i for i, gene in enumerate(genes)}
        by_reporter = [row for row in rows if row["reporter"] in position]
        if len(by_reporter) >= LEAST_SHARE * len(rows):
            index = np.array([position[row["reporter"]] for row in by_reporter], dtype=np.intp)
            missing = tuple(row["reporter"] for row in rows if row["reporter"] not in position)
            profile = np.array([float(row["good_profile"]) for row in by_reporter])
            return cls(index, np.zeros(len(index)), profile, missing, by_reporter=True)
        named = list(dict.fromkeys(row["gene"] for row in rows if row["gene"]))
        here = names_here(named, genes)
        missing = tuple(gene for gene in named if gene not in here)
        if len(here) < LEAST_SHARE * len(named):
            msg = (
                f"expected at least half of the {len(named)} named genes of gene70, found {len(here)} "
                f"({listed(missing)} missing); take a table that holds them"
            )
            raise UsageError(msg)
        kept = [row for row in rows if row["gene"] in here]
        index = np.array([position[here[row["gene"]]] for row in kept], dtype=np.intp)
        profile = np.array([float(row["good_profile"]) for row in kept])
        return cls(index, np.median(x[:, index], axis=0), profile, missing, by_reporter=False)

    @property
    def needs_cohort(self) -> bool:
        """Whether log ratios are to the cohort."""
        return not self.by_reporter

    def scores(self, x: Float) -> Float:
        """Return the score, (patient, 1); 0 for a patient without any variation."""
        ratios = (x[:, self.index] - self.centre).T
        r = column_correlation(ratios, np.broadcast_to(self.profile[:, None], ratios.shape))
        return -np.nan_to_num(r)[:, None]

    def labels(self, scores: Float) -> dict[str, list[str]]:
        """Return no labels: the threshold belongs to the original array."""
        return {}

    def record(self) -> dict[str, Any]:
        """Return what the cohort's record says."""
        return {
            "source": "L. J. van 't Veer et al., Nature 415:530 (2002), doi 10.1038/415530a",
            "normalisation": "log ratios as given" if self.by_reporter else "log ratios to the median of this cohort",
            "missing": list(self.missing),
            "note": "research only; higher is worse; the published threshold belongs to the original array",
        }
