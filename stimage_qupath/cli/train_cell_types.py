"""``train-cell-types``: types of nuclei, mixtures around a place, or tissue regions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Cache, Device, EncoderWeights, Force, Members, NoCache, Precision, words
from stimage_qupath.config.train_cell_types import TrainCellTypesSettings


@app.command(
    epilog="Example: stimage-qupath train-cell-types images.csv --output my-types; "
    "tissue: stimage-qupath train-cell-types regions.csv --level region --output my-regions"
)
def train_cell_types(
    dataset: Annotated[
        Path, typer.Argument(help="CSV: image,labels and, where wanted, source,mpp,patient,licence,nuclei,...")
    ],
    output: Annotated[Path, typer.Option(help="Model folder to make.")],
    level: Annotated[
        str, typer.Option(help="nucleus: classified nuclei; neighbourhood: spot proportions; region: annotations.")
    ] = "nucleus",
    encoder: Annotated[
        str | None, typer.Option(help="An encoder, or none. Left out: nucleus for nuclei, else context+colour.")
    ] = None,
    encoder_weights: EncoderWeights = None,
    precision: Precision = "float32",
    looks: Annotated[
        str | None, typer.Option(help="Of nuclei: appearance, shape, or both by commas. Left out: both.")
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(help="Further views of each image, in other stains and scales. Left out: 4 for nuclei."),
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="AnnData of typed cells, for Xenium bundles.")] = None,
    reference_column: Annotated[str, typer.Option(help="Its column of obs with the types.")] = "cell_type",
    members: Members = 10,
    balanced: Annotated[bool, typer.Option(help="Rare classes count as much as frequent ones.")] = True,
    prior: Annotated[str, typer.Option(help="Shares that probabilities assume: training or equal.")] = "training",
    cache: Cache = None,
    no_cache: NoCache = False,
    name: Annotated[str | None, typer.Option(help="Name on the card.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the training data, for the card.")] = "not stated",
    seed: Annotated[int, typer.Option(help="Of folds and bootstrap.")] = 0,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Tiles a forward pass.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier of nuclei, neighbourhoods or tissue; use it as predict --cell-types FOLDER."""
    from stimage_qupath.pipeline import train_cell_types as flow

    settings = TrainCellTypesSettings(
        dataset=dataset,
        output=output,
        name=name,
        level=level,  # type: ignore[arg-type]  # the settings check the word
        encoder=encoder,
        encoder_weights=encoder_weights,
        precision=precision,  # type: ignore[arg-type]
        looks=None if looks is None else words(looks),
        views=views,
        reference=reference,
        reference_column=reference_column,
        members=members,
        balanced=balanced,
        prior=prior,  # type: ignore[arg-type]
        cache=cache,
        no_cache=no_cache,
        licence=licence,
        seed=seed,
        device=device,
        batch_size=batch_size,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        card = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(card, indent=2, ensure_ascii=False))
        return
    _say_figures(card)
    console.say(f"model: {output}")
    console.say(f"use it: stimage-qupath predict slide.svs --cell-types {output} --output run")


def _say_figures(card: dict[str, Any]) -> None:
    """Print how well each class is told apart where it was left out of training."""
    figures = card["figures"]["out_of_fold"]
    split = card["training"]["left_out_together"]
    if card["level"] == "neighbourhood":
        for name, found in figures["agreement"].items():
            console.say(f"{name}: Pearson {found['pearson']:.3f} with the deconvolution (left out: {split})")
        return
    for name in card["classes"]:
        found = figures["f1"][name]
        interval = "" if found["ci"] is None else f" [{found['ci'][0]:.3f}, {found['ci'][1]:.3f}]"
        value = "none" if found["value"] is None else f"{found['value']:.3f}"
        console.say(f"{name}: F1 {value}{interval}, {found['nuclei']} places (left out: {split})")
