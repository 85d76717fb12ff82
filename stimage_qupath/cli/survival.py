"""``survival``: expression of patients and the time until an event."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Force, words
from stimage_qupath.cli.printing import say_warnings
from stimage_qupath.config.survival import SurvivalSettings
from stimage_qupath.names import SURVIVAL_HTML


@app.command(
    epilog="Example: stimage-qupath survival cohort.csv --time months --event died --covariates age --output survival"
)
def survival(
    cohort: Annotated[Path, typer.Argument(help="CSV or Parquet, one row a patient.")],
    time: Annotated[str, typer.Option(help="Column of follow-up.")],
    event: Annotated[str, typer.Option(help="Column: 1 where the event was observed, 0 where follow-up ended.")],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    patient: Annotated[str, typer.Option(help="Column of patients.")] = "patient",
    covariates: Annotated[str, typer.Option(help="Columns every model holds, separated by commas.")] = "",
    strata: Annotated[str | None, typer.Option(help="Column; patients are compared within a stratum alone.")] = None,
    features: Annotated[list[str] | None, typer.Option(help="Columns, as a pattern such as '*_mean'; repeat.")] = None,
    site: Annotated[str | None, typer.Option(help="Column of sites, which then stay on one side of a fold.")] = None,
    external: Annotated[Path | None, typer.Option(help="Table of another cohort, to judge the fixed model.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Measured expression of the same patients.")] = None,
    model: Annotated[str, typer.Option(help="cox, or forest (random survival forest).")] = "cox",
    penalty: Annotated[str, typer.Option(help="ridge or elastic-net, of the Cox model.")] = "ridge",
    transform: Annotated[str, typer.Option(help="none, or log1p of the features.")] = "none",
    horizon: Annotated[list[float] | None, typer.Option(help="Time at which survival is asked for; repeat.")] = None,
    folds: Annotated[int, typer.Option(help="Outer folds.")] = 5,
    inner_folds: Annotated[int, typer.Option(help="Inner folds.")] = 5,
    permutations: Annotated[int, typer.Option(help="Of the whole nested pipeline; 0 tests nothing.")] = 500,
    replicates: Annotated[int, typer.Option(help="Resamples of patients for the intervals.")] = 1000,
    draws: Annotated[int, typer.Option(help="Draws of uncertain expression.")] = 200,
    jobs: Annotated[int, typer.Option(help="Processes for the permutations.")] = 1,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Judge expression against time to an event by nested cross-validation: C, curves, permuted nulls, baselines."""
    from stimage_qupath.export.run_record import to_json
    from stimage_qupath.pipeline import survival as flow
    from stimage_qupath.report.survival import survival_lines

    settings = SurvivalSettings(
        cohort=cohort,
        time=time,
        event=event,
        output=output,
        patient=patient,
        covariates=words(covariates),
        strata=strata,
        features=tuple(features or ()),
        site=site,
        external=external,
        compare=compare,
        model=model,  # type: ignore[arg-type]  # the settings check the word
        penalty=penalty,  # type: ignore[arg-type]
        transform=transform,  # type: ignore[arg-type]
        horizons=tuple(horizon or ()),
        folds=folds,
        inner_folds=inner_folds,
        permutations=permutations,
        replicates=replicates,
        draws=draws,
        jobs=jobs,
        seed=seed,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        found = flow.run(settings, on_progress)
    if as_json:
        console.say(to_json(found).decode())
        return
    for line in survival_lines(found):
        console.say(line)
    say_warnings(found)
    console.say(f"report: {Path(found['output']) / SURVIVAL_HTML}")
