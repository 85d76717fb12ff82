"""What ``cohort`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.errors import UsageError

GROUPINGS = ("class", "type")


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortSettings(Settings):
    """Make a table of one row a patient out of finished runs.

    Attributes
    ----------
    runs
        Run folders, output folders of projects, or folders that hold run folders.
    clinical
        Table with a row a slide or a patient.
    output
        ``.csv`` or ``.parquet`` to make.
    slide_column, patient_column
        Of the clinical table; without a column of slides, slides are named as patients.
    combine
        How several slides of a patient are combined: by tissue ``area``, as a plain ``mean``, or the ``largest`` alone.
    by
        Groups of nuclei that get means of their own besides all nuclei: ``class`` of annotation, cell ``type``.
    genes
        Genes of the table; empty: the whole panel.
    bulk
        Measured expression to compare with, patients by genes or genes by patients; None compares with nothing.
    signatures
        Words of :data:`stimage_qupath.clinical.signatures.of_cohort.WORDS`, or GMT files.
    gmt_score
        What the score of a gene set of a GMT file is the mean of: ``log`` expression, or its ``z`` over the cohort.
    window_um
        Side of the window that neighbouring nuclei share; None: the encoder's.
    replicates, permutations, seed
        Of the comparison with ``bulk``; ``seed`` of the signatures' uncertainty too.
    force
        Replace an earlier table.
    """

    runs: tuple[str, ...]
    clinical: Path
    output: Path
    slide_column: str = "slide"
    patient_column: str = "patient"
    combine: Literal["area", "mean", "largest"] = "area"
    by: tuple[str, ...] = GROUPINGS
    genes: tuple[str, ...] = ()
    bulk: Path | None = None
    signatures: tuple[str, ...] = ()
    gmt_score: Literal["log", "z"] = "log"
    window_um: float | None = None
    replicates: int = 1000
    permutations: int = 1999
    seed: int = 0
    force: bool = False

    flow: ClassVar[str] = "cohort"

    def _check(self) -> None:
        if not self.runs:
            msg = "expected at least one run folder, found none; give the outputs of predict"
            raise UsageError(msg)
        if self.output.suffix.lower() not in {".csv", ".parquet"}:
            msg = f"expected an output named *.csv or *.parquet, found {self.output.name}; rename it"
            raise UsageError(msg)
        if self.slide_column == self.patient_column:
            msg = f"expected different columns of slides and patients, found {self.slide_column} for both; name each"
            raise UsageError(msg)
        for word in self.by:
            one_of("by", word, GROUPINGS)
        at_least("replicates", self.replicates, 100)
        at_least("permutations", self.permutations, 99)
        at_least("seed", self.seed, 0)
        if self.window_um is not None and not 1 <= self.window_um <= 5000:
            msg = f"expected a window between 1 and 5000 um, found {self.window_um}"
            raise UsageError(msg)
