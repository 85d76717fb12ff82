"""The out-of-fold risk of every patient, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from stimage_qupath.clinical.survival_problem import OutOfFold
from stimage_qupath.config.survival import SurvivalSettings
from stimage_qupath.pipeline.survival_cohort import SurvivalCohort


def write_risks(
    path: Path, cohort: SurvivalCohort, results: Mapping[str, OutOfFold], settings: SurvivalSettings
) -> None:
    """Write a CSV with a row a patient: outcome, test fold, and risk and group of each model."""
    first = next(iter(results.values()))
    table = pd.DataFrame(
        {
            settings.patient: cohort.patients,
            settings.time: cohort.outcome.time,
            settings.event: cohort.outcome.event.astype(int),
            "fold": first.fold_of,
        }
    )
    if cohort.strata_names:
        table["stratum"] = [cohort.strata_names[s] for s in cohort.outcome.strata]
    for name, result in results.items():
        table[f"risk: {name}"] = result.risk
        table[f"group: {name}"] = ["high" if high else "low" for high in result.high]
    table.to_csv(path, index=False, encoding="utf-8", lineterminator="\n")
