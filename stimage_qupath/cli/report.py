"""``report``: a finished run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Force, words
from stimage_qupath.cli.printing import say_warnings
from stimage_qupath.config.report import ReportSettings


@app.command(epilog="Example: stimage-qupath report run --annotations regions.geojson --genes ERBB2,CD74")
def report(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished prediction.")],
    output: Annotated[Path | None, typer.Option(help="File to make. Left out: report.html in the run folder.")] = None,
    slide: Annotated[Path | None, typer.Option(help="The slide, where it has moved since the run.")] = None,
    genes: Annotated[str, typer.Option(help="Genes, separated by commas. Left out: those QuPath got.")] = "",
    annotations: Annotated[Path | None, typer.Option(help="GeoJSON from QuPath to draw and to sum up.")] = None,
    permutations: Annotated[int, typer.Option(help="Of the test of local clusters.")] = 999,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make one page of a run that opens anywhere: slide with layers, tables, plots, model card, limits."""
    from stimage_qupath.export.run_record import to_json
    from stimage_qupath.pipeline import report as flow

    settings = ReportSettings(
        run=run,
        output=output,
        slide=slide,
        genes=words(genes),
        annotations=annotations,
        permutations=permutations,
        seed=seed,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        found = flow.run(settings, on_progress)
    if as_json:
        console.say(to_json(found).decode())
        return
    say_warnings(found)
    size = f"{found['bytes'] / 1e6:.1f} MB"
    console.say(f"report of {found['nuclei']} nuclei, {size}, in {found['seconds']:.1f} s: {found['output']}")
