"""``cohort``: finished runs and a clinical table become one row a patient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Force, words
from stimage_qupath.cli.printing import say_warnings
from stimage_qupath.config.cohort import CohortSettings


@app.command(
    epilog="Example: stimage-qupath cohort runs --clinical clinical.csv --output cohort.csv --signatures pam50,oncotype"
)
def cohort(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, project outputs, or folders of run folders.")],
    clinical: Annotated[Path, typer.Option(help="CSV or Parquet, a row a slide or a patient.")],
    output: Annotated[Path, typer.Option(help="Table to make: .csv or .parquet.")],
    slide_column: Annotated[str, typer.Option(help="Column with the slides; absent: slides are named as patients.")] = (
        "slide"
    ),
    patient_column: Annotated[str, typer.Option(help="Column with the patients.")] = "patient",
    combine: Annotated[str, typer.Option(help="Several slides of a patient: area, mean or largest.")] = "area",
    by: Annotated[str, typer.Option(help="Means of their own by class of annotation and cell type.")] = "class,type",
    genes: Annotated[str, typer.Option(help="Genes of the table, separated by commas. Left out: the panel.")] = "",
    bulk: Annotated[Path | None, typer.Option(help="Measured expression to compare with, patients x genes.")] = None,
    signatures: Annotated[
        str, typer.Option(help="pam50, oncotype, gene70, ggi, mcpcounter, pam50-proliferation or FILE.gmt; commas.")
    ] = "",
    gmt_score: Annotated[
        str, typer.Option(help="Gene sets of GMT files: mean of log expression, or of its z.")
    ] = "log",
    window_um: Annotated[
        float | None, typer.Option(help="Window that nuclei share, um. Left out: the encoder's.")
    ] = None,
    replicates: Annotated[int, typer.Option(help="Of the bootstrap over patients, with --bulk.")] = 1000,
    permutations: Annotated[int, typer.Option(help="Of the patients, with --bulk.")] = 1999,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Average runs over nuclei and slides into one row a patient, with uncertainty, beside the clinical columns."""
    from stimage_qupath.pipeline import cohort as flow

    settings = CohortSettings(
        runs=tuple(run.as_posix() for run in runs),
        clinical=clinical,
        output=output,
        slide_column=slide_column,
        patient_column=patient_column,
        combine=combine,  # type: ignore[arg-type]  # the settings check the word
        by=words(by),
        genes=words(genes),
        bulk=bulk,
        signatures=words(signatures),
        gmt_score=gmt_score,  # type: ignore[arg-type]
        window_um=window_um,
        replicates=replicates,
        permutations=permutations,
        seed=seed,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        record = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(record, indent=2, ensure_ascii=False))
        return
    console.say(f"{record['patients']} patients of {len(record['slides'])} slides: {record['output']}")
    if record["bulk"]:
        across = record["bulk"]["across_patients"]
        low, high = across["pearson_mean"]["ci"]
        console.say(
            f"measured expression, across {across['patients']} patients: mean Pearson of {across['genes']} genes "
            f"{across['pearson_mean']['value']:.3f} [{low:.3f}, {high:.3f}]"
        )
    say_warnings(record)
    console.say(record["note"])
    console.say(record["research_use"])
