"""The 21-gene recurrence score (S. Paik et al., NEJM 351:2817, 2004, doi 10.1056/NEJMoa041588). Research only.

On reference-normalised expression ``x``::

    HER2          = 0.9 GRB7 + 0.1 ERBB2, at least 8
    estrogen      = (0.8 ESR1 + 1.2 PGR + BCL2 + SCUBE2) / 4
    proliferation = (BIRC5 + MKI67 + MYBL2 + CCNB1 + AURKA) / 5, at least 6.5
    invasion      = (CTSV + MMP11) / 2
    unscaled      = .47 HER2 - .34 estrogen + 1.04 proliferation + .10 invasion + .05 CD68 - .08 GSTM1 - .07 BAG1
    score         = 20 (unscaled - 6.7), held within 0 and 100

``x`` is, where at least three of the five reference genes are at hand, ``log2 expression - mean of the references +
10``, as RT-PCR cycles were; else each gene's range over the cohort is stretched to 0-15, as is done for arrays that
lack the references. The numbers above were set on RT-PCR: on anything else the score orders patients at best, and risk
groups (below 18, 18-30, from 31) are given only where no gene is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import LEAST_SHARE, listed, names_here

Float = NDArray[np.float64]

GROUPS: Final[dict[str, tuple[float, dict[str, float]]]] = {
    "her2": (0.47, {"GRB7": 0.9, "ERBB2": 0.1}),
    "estrogen": (-0.34, {"ESR1": 0.8 / 4, "PGR": 1.2 / 4, "BCL2": 1 / 4, "SCUBE2": 1 / 4}),
    "proliferation": (1.04, dict.fromkeys(("BIRC5", "MKI67", "MYBL2", "CCNB1", "AURKA"), 1 / 5)),
    "invasion": (0.10, {"CTSV": 1 / 2, "MMP11": 1 / 2}),
    "CD68": (0.05, {"CD68": 1.0}),
    "GSTM1": (-0.08, {"GSTM1": 1.0}),
    "BAG1": (-0.07, {"BAG1": 1.0}),
}
FLOORS: Final = {"her2": 8.0, "proliferation": 6.5}
NEEDED: Final = ("her2", "estrogen", "proliferation")
"""Groups without which there is no score."""
REFERENCES: Final = ("ACTB", "GAPDH", "GUSB", "RPLP0", "TFRC")
LEAST_REFERENCES: Final = 3
REFERENCE_LEVEL: Final = 10.0
RANGE: Final = 15.0
SCALE: Final = (20.0, 6.7)
RISKS: Final = ((31.0, "high"), (18.0, "intermediate"), (-np.inf, "low"))
GENES: Final = (*(gene for _, weights in GROUPS.values() for gene in weights), *REFERENCES)


@dataclass(frozen=True, slots=True)
class RecurrenceScore:
    """The score, made ready on a cohort.

    Attributes
    ----------
    genes
        Names of the columns.
    here
        Gene of the score to column.
    low, high
        (gene,) range of each column over the cohort, or None with reference genes.
    typical
        Normalised expression that stands for a group whose genes are all missing.
    """

    genes: tuple[str, ...]
    here: dict[str, int]
    low: Float | None
    high: Float | None
    typical: float

    columns: ClassVar[tuple[str, ...]] = ("oncotype_score", "oncotype_unscaled")

    @classmethod
    def of(cls, genes: Sequence[str], x: Float) -> Self:
        """Fit the normalisation.

        Parameters
        ----------
        genes
            Columns.
        x
            (patient, gene) log2 expression.

        Raises
        ------
        UsageError
            Under half of the 16 cancer genes, or none of a main group, are among the columns.
        """
        names = names_here(GENES, genes)
        position = {gene: i for i, gene in enumerate(genes)}
        here = {gene: position[name] for gene, name in names.items()}
        cancer = [gene for gene in GENES if gene not in REFERENCES]
        missing = [gene for gene in cancer if gene not in here]
        empty = [name for name in NEEDED if not set(GROUPS[name][1]) & set(here)]
        if len(missing) > LEAST_SHARE * len(cancer) or empty:
            which = f" and none of the group {listed(empty)}" if empty else ""
            msg = (
                "expected at least half of the 16 cancer genes of the 21-gene score and some of each main group, "
                f"found {len(cancer) - len(missing)}{which} ({listed(missing)} missing); take a table that holds them"
            )
            raise UsageError(msg)
        by_reference = sum(gene in here for gene in REFERENCES) >= LEAST_REFERENCES
        low, high = (None, None) if by_reference else (x.min(axis=0), x.max(axis=0))
        unfilled = cls(tuple(genes), here, low, high, 0.0)
        used = [here[gene] for gene in cancer if gene in here]
        typical = float(unfilled.normalised(x)[:, used].mean())
        return cls(tuple(genes), here, low, high, typical)

    @property
    def missing(self) -> tuple[str, ...]:
        """Genes of the 21 that the table lacks."""
        return tuple(gene for gene in GENES if gene not in self.here)

    @property
    def needs_cohort(self) -> bool:
        """Whether the normalisation is the cohort's."""
        return self.low is not None

    def normalised(self, x: Float) -> Float:
        """Return expression on the score's scale, (patient, gene)."""
        if self.low is None or self.high is None:
            references = [self.here[gene] for gene in REFERENCES if gene in self.here]
            return np.asarray(x - x[:, references].mean(axis=1, keepdims=True) + REFERENCE_LEVEL)
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        return np.asarray((x - self.low) / span * RANGE)

    def scores(self, x: Float) -> Float:
        """Return score and unscaled score of log2 expression, (patient, 2)."""
        z = self.normalised(x)
        unscaled = np.zeros(len(z))
        for name, (coefficient, weights) in GROUPS.items():
            found = {self.here[gene]: w for gene, w in weights.items() if gene in self.here}
            value = np.full(len(z), self.typical)
            if found:
                value = z[:, list(found)] @ np.array(list(found.values())) / sum(found.values()) * sum(weights.values())
            unscaled += coefficient * np.maximum(value, FLOORS.get(name, -np.inf))
        return np.column_stack([np.clip(SCALE[0] * (unscaled - SCALE[1]), 0, 100), unscaled])

    def labels(self, scores: Float) -> dict[str, list[str]]:
        """Return the risk group of each patient, where no gene is missing."""
        if self.missing:
            return {}
        return {"oncotype_risk": [next(word for limit, word in RISKS if score >= limit) for score in scores[:, 0]]}

    def record(self) -> dict[str, Any]:
        """Return what the cohort's record says."""
        how = (
            "each gene's range over the cohort stretched to 0-15"
            if self.needs_cohort
            else "minus the reference genes, plus 10"
        )
        return {
            "source": "S. Paik et al., NEJM 351:2817 (2004), doi 10.1056/NEJMoa041588",
            "normalisation": how,
            "missing": list(self.missing),
            "risk_groups": not self.missing,
            "note": "research only; thresholds were set on RT-PCR",
        }
