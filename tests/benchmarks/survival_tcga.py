"""TCGA-BRCA through the whole command: age, expression and both, folds by tissue source site, 500 permutations.

    python tests/benchmarks/survival_tcga.py ../shared/data --output survival-tcga --jobs 2

Prints what ``stimage-qupath survival`` prints; the report is in the output folder. About half an hour of processor
time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from stimage_qupath.config.survival import SurvivalSettings
from stimage_qupath.pipeline import survival
from stimage_qupath.report.survival import survival_lines


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds cohorts/tcga")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--permutations", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folds-by", choices=("site", "patient"), default="site")
    asked = parser.parse_args()
    source = asked.data / "cohorts/tcga/porpoise/datasets_csv_mutsig/tcga_brca_all_clean.csv.zip"
    slides = pd.read_csv(source, low_memory=False).rename(columns={"case_id": "patient"})
    slides["died"], slides["site"] = 1 - slides["censorship"], slides["patient"].str[5:7]
    genes = [name for name in slides if name.endswith("_rnaseq")]
    with tempfile.TemporaryDirectory() as folder:
        cohort = Path(folder) / "tcga_brca.parquet"
        slides[["patient", "age", "site", "survival_months", "died", *genes]].to_parquet(cohort)
        settings = SurvivalSettings(
            cohort=cohort,
            time="survival_months",
            event="died",
            covariates=("age",),
            site="site" if asked.folds_by == "site" else None,
            features=("*_rnaseq",),
            horizons=(36.0, 60.0, 120.0),
            permutations=asked.permutations,
            jobs=asked.jobs,
            output=asked.output,
        )
        for line in survival_lines(survival.run(settings)):
            print(line)


if __name__ == "__main__":
    main()
