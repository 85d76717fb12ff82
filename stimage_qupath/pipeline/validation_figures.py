"""The figures of each class: what is predicted in it, how well that tells it apart, and how sure the model is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.export.run_genes import GeneValues
from stimage_qupath.validation.agreement import Overlap, binary_kappa
from stimage_qupath.validation.annotations import (
    MIN_BLOCKS,
    Labelled,
    Separation,
    Separator,
    false_discovery,
    interval_record,
    quartiles,
)

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

HIGH: Final = 0.5


@dataclass(frozen=True, slots=True)
class Scores:
    """Everything that is said of each nucleus of a run.

    Attributes
    ----------
    genes
        Gene to its values.
    baselines
        Score that needs no model to (nucleus,).
    area_um2, ood_score, outside_training
        (nucleus,).
    """

    genes: Mapping[str, GeneValues]
    baselines: Mapping[str, Float]
    area_um2: Float
    ood_score: Float
    outside_training: Float

    @property
    def names(self) -> list[str]:
        """Baselines first, since a gene's lead is over them."""
        return [*self.baselines, *self.genes]

    @property
    def high_rule(self) -> str:
        """What is called high."""
        if any(_has_high(values) for values in self.genes.values()):
            return "probability over 0.5 of a rate above the training median; without one, mean over the run's median"
        return "mean over the run's median; the run holds no probability of being high"

    @property
    def predicted(self) -> Bool:
        """Which nuclei have a prediction of every gene, (nucleus,)."""
        known = np.ones(len(self.area_um2), dtype=bool)
        for values in self.genes.values():
            known &= np.isfinite(values.mean)
        return known

    def of(self, name: str) -> Float:
        """Return a score, (nucleus,)."""
        return self.baselines[name] if name in self.baselines else self.genes[name].mean

    def high(self, gene: str) -> Bool:
        """Return which nuclei are predicted high, (nucleus,)."""
        values = self.genes[gene]
        if values.high is not None and _has_high(values):
            return values.high > HIGH
        return values.mean > np.median(values.mean[self.predicted])


def _has_high(values: GeneValues) -> bool:
    return values.high is not None and bool(np.isfinite(values.high).all())


@dataclass(slots=True)
class ClassFigures:
    """Gathers the figures, a score at a time.

    Parameters
    ----------
    labelled
        All nuclei of the run.
    scored
        (nucleus,) those that are compared; the separator holds them alone.
    separator
        The labels of the scored nuclei.
    scores
        Of all nuclei.
    """

    labelled: Labelled
    scored: Bool
    separator: Separator
    scores: Scores
    found: dict[str, dict[str, Separation]] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Compute how well a score tells each class from the rest."""
        self.found[name] = self.separator.separations(self.scores.of(name)[self.scored])

    def to_dict(self) -> dict[str, Any]:
        """Return everything, by class."""
        p = {(c, g): self.found[g][c].p for g in self.scores.genes for c in self.labelled.classes if c in self.found[g]}
        q = false_discovery(p)
        return {name: self._of_class(code, name, q) for code, name in enumerate(self.labelled.classes)}

    def _of_class(self, code: int, name: str, q: Mapping[tuple[str, str], float | None]) -> dict[str, Any]:
        inside = self.labelled.code == code
        rest = self.scored & ~inside
        units, units_of_rest = self.separator.units_of(code)
        record: dict[str, Any] = {
            "nuclei": int(inside.sum()),
            "annotations": self.labelled.annotations_of(code),
            "rest_nuclei": int(rest.sum()),
            "units": {"kind": self.labelled.unit_kind(code), "number": units, "rest": units_of_rest},
            "genes": {},
            "baselines": {b: self.found[b][name].to_dict() for b in self.scores.baselines if name in self.found[b]},
            "uncertainty": {"inside": self._doubt(inside), "outside": self._doubt(rest)},
        }
        for gene, values in self.scores.genes.items():
            summary: dict[str, Any] = {"predicted_mean": quartiles(values.mean[inside])}
            if name in self.found[gene]:
                summary |= self._separation(gene, name, q[name, gene])
                summary["high"] = self._high(gene, inside)
            record["genes"][gene] = summary
        return record

    def _separation(self, gene: str, name: str, q: float | None) -> dict[str, Any]:
        one = self.found[gene][name]
        leads = {
            baseline: interval_record(one.auroc.minus(self.found[baseline][name].auroc), one.has_interval)
            for baseline in self.scores.baselines
        }
        reason = None if one.p is not None else f"not tested: fewer than {MIN_BLOCKS} blocks"
        test = {"u": one.u, "p": one.p, "q": q, "reason": reason}
        return {"auroc": one.to_dict(), "auroc_less_baseline": leads, "mann_whitney": test}

    def _high(self, gene: str, inside: Bool) -> dict[str, Any]:
        high, those = self.scores.high(gene), self.scored
        by_area = Overlap.of(high[those], inside[those], self.scores.area_um2[those])
        return {
            **Overlap.of(high[those], inside[those]).to_dict(),
            "kappa": binary_kappa(high[those], inside[those]),
            "by_nuclear_area": by_area.to_dict(),
            "share_inside": float(high[inside].mean()),
        }

    def _doubt(self, those: Bool) -> dict[str, Any]:
        """Return what the model says of its own uncertainty among some nuclei."""
        if not those.any():
            return {"nuclei": 0}
        return {
            "nuclei": int(those.sum()),
            "ood_score_median": float(np.median(self.scores.ood_score[those])),
            "outside_training": float(np.mean(self.scores.outside_training[those])),
            "genes": {
                gene: {
                    "aleatoric_sd_median": float(np.median(v.aleatoric_sd[those])),
                    "epistemic_sd_median": float(np.median(v.epistemic_sd[those])),
                }
                for gene, v in self.scores.genes.items()
            },
        }
