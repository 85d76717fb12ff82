"""``drug-response``: whether expression predicts a response, and what a saved model says of another cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Force, words
from stimage_qupath.cli.printing import say_warnings
from stimage_qupath.config.drug_response import DrugResponseSettings
from stimage_qupath.names import DRUG_RESPONSE_HTML


@app.command(
    epilog="Example: stimage-qupath drug-response cohort.csv --response recist --type binary --covariates age,stage "
    "--output response"
)
def drug_response(
    cohort: Annotated[Path, typer.Argument(help="CSV or Parquet, a row a patient or cell line.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    response: Annotated[str | None, typer.Option(help="Column to predict; optional with --transfer.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="binary (CR, PR, SD, PD, pCR, 1, 0) or continuous.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Column kept in one fold: site, tissue. Left out: patient.")] = None,
    patient: Annotated[str, typer.Option(help="Column of the identifiers.")] = "patient",
    features: Annotated[list[str] | None, typer.Option(help="Pattern of expression columns; repeat for more.")] = None,
    covariates: Annotated[str, typer.Option(help="Columns known anyway, separated by commas.")] = "",
    model: Annotated[str, typer.Option(help="elastic-net, boosting or both.")] = "both",
    responders: Annotated[str, typer.Option(help="Words of responders, commas. Left out: CR, PR, pCR, yes, 1.")] = "",
    log_response: Annotated[bool, typer.Option("--log-response", help="Take ln of a continuous response.")] = False,
    higher: Annotated[str, typer.Option(help="What a high continuous value means: resistance or response.")] = (
        "resistance"
    ),
    transform: Annotated[str, typer.Option(help="Of the expression: none, or log1p for counts.")] = "none",
    compare: Annotated[Path | None, typer.Option(help="Measured expression of the same patients.")] = None,
    save_model: Annotated[Path | None, typer.Option(help="Folder for the elastic net of all patients.")] = None,
    genes_of: Annotated[
        Path | None, typer.Option(help="Table whose genes alone are used, for a transfer to it.")
    ] = None,
    transfer: Annotated[Path | None, typer.Option(help="Saved model to apply instead of fitting one.")] = None,
    align: Annotated[
        str, typer.Option(help="Of a transfer, without outcomes: quantile, moments or none.")
    ] = "quantile",
    permutations: Annotated[int, typer.Option(help="Of the whole nested pipeline; 0: none.")] = 200,
    folds: Annotated[int, typer.Option(help="Outer folds.")] = 5,
    replicates: Annotated[int, typer.Option(help="Resamples of patients for the intervals.")] = 1000,
    draws: Annotated[int, typer.Option(help="From predictive distributions, where the table has SDs.")] = 200,
    workers: Annotated[int, typer.Option(help="Processes for the permutations; results do not depend on it.")] = 1,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Predict a drug response from expression in nested cross-validation, or apply a model that was saved."""
    from stimage_qupath.export.run_record import to_json
    from stimage_qupath.pipeline import drug_response as flow
    from stimage_qupath.report.drug_response import drug_response_lines

    settings = DrugResponseSettings(
        cohort=cohort,
        output=output,
        response=response,
        type=kind,  # type: ignore[arg-type]  # the settings check the word
        responders=words(responders),
        log_response=log_response,
        higher=higher,  # type: ignore[arg-type]
        group=group,
        patient=patient,
        features=tuple(features or ()),
        covariates=words(covariates),
        transform=transform,  # type: ignore[arg-type]
        model=model,  # type: ignore[arg-type]
        compare=compare,
        genes_of=genes_of,
        transfer=transfer,
        align=align,  # type: ignore[arg-type]
        save_model=save_model,
        permutations=permutations,
        folds=folds,
        replicates=replicates,
        draws=draws,
        seed=seed,
        workers=workers,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        record = flow.run(settings, on_progress)
    if as_json:
        console.say(to_json(record).decode())
        return
    for line in drug_response_lines(record):
        console.say(line)
    say_warnings(record)
    console.say(f"report: {Path(record['output']) / DRUG_RESPONSE_HTML}")
