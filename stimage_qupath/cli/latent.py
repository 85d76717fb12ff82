"""``latent``: nuclei side by side that the model takes for alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Device
from stimage_qupath.config import LatentSettings


@app.command(epilog="Example: stimage-qupath latent run --gene ERBB2")
def latent(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished prediction; gets the pictures.")],
    gene: Annotated[list[str] | None, typer.Option(help="Gene to colour by; repeat for more.")] = None,
    image: Annotated[Path | None, typer.Option(help="The slide, where it has moved since the run.")] = None,
    places: Annotated[int, typer.Option(help="Nuclei that are drawn at most, chosen at random.")] = 5000,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Windows a forward pass; results do not depend on it.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Add to a run pictures of its nuclei by principal components and UMAP of what the model sees of them."""
    from stimage_qupath.pipeline import latent as flow

    settings = LatentSettings(
        run=run, genes=tuple(gene or ()), image=image, places=places, device=device, batch_size=batch_size, seed=seed
    )
    with console.progress(quiet=as_json) as on_progress:
        record = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(record, indent=2, ensure_ascii=False))
        return
    console.say(f"{record['places']} nuclei in {record['seconds']:.1f} s: {', '.join(record['files'])}")
    for warning in record["warnings"]:
        console.say(f"warning: {warning}")
    console.say(record["research_use"])
