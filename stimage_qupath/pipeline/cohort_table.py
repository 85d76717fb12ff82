"""The table of a cohort: quality, expression by group of nuclei, and signature scores, a row a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.clinical.cohort import Clinical
from stimage_qupath.clinical.signatures.of_cohort import CohortScores
from stimage_qupath.clinical.slides import Combine, Combined, Slide, combine
from stimage_qupath.clinical.table import MEAN_SUFFIX, PATIENT, SD_SUFFIX, listed
from stimage_qupath.errors import UsageError
from stimage_qupath.pipeline.cohort_slides import ALL
from stimage_qupath.signatures.library import column_name

Float = NDArray[np.float64]


class Cohort:
    """Patients with their slides combined.

    Parameters
    ----------
    slides
        Patient to slides, each with nuclei.
    clinical
        The clinical table.
    genes
        Genes that were read.
    written
        Those of them that stand in the table.
    rule
        How slides are combined.
    """

    def __init__(
        self,
        slides: Mapping[str, tuple[Slide, ...]],
        clinical: Clinical,
        *,
        genes: tuple[str, ...],
        written: Sequence[str],
        rule: Combine,
    ) -> None:
        self.genes, self.written = genes, tuple(written)
        self.patients = list(slides)
        self._clinical, self._slides = clinical, list(slides.values())
        groups = dict.fromkeys(group for of in self._slides for slide in of for group in slide.bulk.groups)
        self._combined: dict[str, list[Combined]] = {
            group: [combine(of_patient, group, rule) for of_patient in self._slides] for group in groups
        }

    @property
    def mean(self) -> Float:
        """Expected counts over all nuclei, (patient, gene)."""
        return np.array([one.mean for one in self._combined[ALL]])

    @property
    def sd(self) -> Float:
        """Their SD, (patient, gene)."""
        return np.array([one.sd for one in self._combined[ALL]])

    def table(self, scores: CohortScores) -> pd.DataFrame:
        """Return the table; UsageError where a clinical column is called as one of ours."""
        clinical = self._clinical.frame.loc[self.patients].reset_index(drop=True)
        ours = self._quality() | self._expression() | self._nuclei_scores() | dict(scores.columns)
        taken = [str(column) for column in clinical.columns if column in ours or column == PATIENT]
        if taken:
            msg = f"expected clinical columns named otherwise than the cohort's own, found {listed(taken)}; rename them"
            raise UsageError(msg)
        return pd.concat([pd.DataFrame({PATIENT: self.patients}), clinical, pd.DataFrame(ours)], axis=1)

    def slide_records(self) -> list[dict[str, Any]]:
        """Return what the record says of each slide."""
        return [
            {
                "slide": slide.name,
                "run": slide.run,
                "patient": patient,
                "weight": float(weight),
                "nuclei": int(slide.bulk.nuclei[0]),
                "tissue_mm2": slide.area_mm2[ALL],
                "independent_windows": float(slide.bulk.windows[0]),
                "outside_training": slide.outside_training,
            }
            for patient, slides, whole in zip(self.patients, self._slides, self._combined[ALL], strict=True)
            for slide, weight in zip(slides, whole.weights, strict=True)
        ]

    def _quality(self) -> dict[str, Any]:
        rows = []
        for slides, whole in zip(self._slides, self._combined[ALL], strict=True):
            used = [slide for slide, weight in zip(slides, whole.weights, strict=True) if weight]
            nuclei = np.array([float(slide.bulk.nuclei[0]) for slide in used])
            rows.append(
                {
                    "qc_slides": len(used),
                    "qc_nuclei": int(nuclei.sum()),
                    "qc_tissue_mm2": sum(slide.area_mm2[ALL] for slide in used),
                    "qc_independent_windows": sum(float(slide.bulk.windows[0]) for slide in used),
                    "qc_outside_training": float(np.average([s.outside_training for s in used], weights=nuclei)),
                    "qc_tissue_fraction": float(np.average([s.tissue_fraction for s in used], weights=nuclei)),
                }
            )
        return {column: [row[column] for row in rows] for column in rows[0]}

    def _expression(self) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for group, combined in self._combined.items():
            at = f"@{group}" if group else ""
            if group:
                columns[f"qc_nuclei{at}"] = [one.nuclei for one in combined]
            mean, sd = (np.array([getattr(one, what) for one in combined]) for what in ("mean", "sd"))
            for gene in self.written:
                i = self.genes.index(gene)
                columns[f"{gene}{MEAN_SUFFIX}{at}"] = mean[:, i]
                columns[f"{gene}{SD_SUFFIX}{at}"] = sd[:, i]
        return columns

    def _nuclei_scores(self) -> dict[str, Any]:
        """Return mean scores over nuclei and their SD over members, of signatures that every run has."""
        slides = [slide for of_patient in self._slides for slide in of_patient]
        shared = [name for name in slides[0].member_scores if all(name in slide.member_scores for slide in slides)]
        columns: dict[str, Any] = {}
        for name in shared:
            members = [
                sum(w * slide.member_scores[name] for w, slide in zip(whole.weights, of_patient, strict=True))
                for whole, of_patient in zip(self._combined[ALL], self._slides, strict=True)
            ]
            columns[f"{column_name(name)}_nuclei_score"] = [float(np.mean(values)) for values in members]
            columns[f"{column_name(name)}_nuclei_score_sd"] = [float(np.std(values)) for values in members]
        return columns
