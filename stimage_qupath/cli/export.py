"""``export``: a finished run, or a part of it, for another program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Force, words
from stimage_qupath.config.export import ExportSettings


@app.command(
    epilog="Example: stimage-qupath export run --output cells.csv --format csv --genes ERBB2,CD74; "
    "areas to review in QuPath: stimage-qupath export run --output review.geojson --format geojson --object uncertain"
)
def export(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished prediction; it is only read.")],
    output: Annotated[Path, typer.Option(help="File to make; a folder for spatialdata.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="geojson (QuPath; .gz packs it), csv (QuPath's table; .tsv), parquet, h5ad or spatialdata."
        ),
    ],
    genes: Annotated[
        str, typer.Option(help="Genes, separated by commas. Left out: those QuPath got; in h5ad the whole panel.")
    ] = "",
    region: Annotated[list[str] | None, typer.Option(help="Id or name of a region; repeat for more.")] = None,
    object_: Annotated[
        str,
        typer.Option("--object", help="cells; in geojson also tiles (squares of means) or uncertain (to review)."),
    ] = "cells",
    tile_um: Annotated[float, typer.Option(help="Side of a tile, um.")] = 100.0,
    quantile: Annotated[
        float, typer.Option(help="Uncertain: where models disagree more than on this share of the nuclei.")
    ] = 0.9,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a run's nuclei, tiles of them, or areas to review, for QuPath, spreadsheets, AnnData or SpatialData."""
    from stimage_qupath.pipeline import export as flow

    settings = ExportSettings(
        run=run,
        output=output,
        format=format_,  # type: ignore[arg-type]  # the settings check the word
        genes=words(genes),
        regions=tuple(region or ()),
        object=object_,  # type: ignore[arg-type]
        tile_um=tile_um,
        quantile=quantile,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        found = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(found, indent=2, ensure_ascii=False))
        return
    what = {"cells": "nuclei", "tiles": "tiles", "uncertain": "areas to review"}[found["object"]]
    console.say(f"{found['written']} {what}: {found['output']}")
    if found["research_use"]:
        console.say(found["research_use"])
