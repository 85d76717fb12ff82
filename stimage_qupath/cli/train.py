"""``train`` and ``train-nuclei``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import (
    AsJson,
    Cache,
    Dataset,
    Device,
    EncoderName,
    EncoderWeights,
    Force,
    Genes,
    LikelihoodName,
    Members,
    NoCache,
    PanelSize,
    Precision,
    RecalibrateName,
    Threads,
)
from stimage_qupath.config import TrainNucleiSettings, TrainSettings


@app.command(epilog="Example: stimage-qupath train sections.csv --output my-model --hold-out section4")
def train(
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="Model folder to make.")],
    genes: Genes = None,
    panel_size: PanelSize = 1000,
    min_detection: Annotated[float, typer.Option(help="Chosen genes are seen in this share of the spots.")] = 0.2,
    gene_table: Annotated[Path | None, typer.Option(help="CSV gene_id,symbol for counts by accession.")] = None,
    aggregate_um: Annotated[float | None, typer.Option(help="Add bins and cells up to discs of this size, um.")] = None,
    stain_normalisation: Annotated[str, typer.Option(help="none, macenko, reinhard, vahadane or auto.")] = "none",
    encoder: EncoderName = "context",
    encoder_weights: EncoderWeights = None,
    precision: Precision = "float32",
    cache: Cache = None,
    no_cache: NoCache = False,
    members: Members = 10,
    likelihood: LikelihoodName = "nb",
    recalibrate: RecalibrateName = "conformal",
    hold_out: Annotated[list[str] | None, typer.Option(help="Section scored but never trained on; repeat.")] = None,
    fine_tune: Annotated[bool, typer.Option("--fine-tune", help="Learn the encoder further, end to end.")] = False,
    fine_tune_epochs: Annotated[int | None, typer.Option(help="Rounds of that at most. Left out: 20.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the encoder's last layer. Left out: 1e-4.")] = None,
    name: Annotated[str | None, typer.Option(help="Name on the card.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the training data, for the card.")] = "not stated",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Tiles a forward pass.")] = None,
    threads: Threads = 2,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train an ensemble on spatial transcriptomics and write a model folder with its held-out figures."""
    from stimage_qupath.pipeline import train as flow

    settings = TrainSettings(
        dataset=dataset,
        output=output,
        name=name,
        genes=genes,
        panel_size=panel_size,
        min_detection=min_detection,
        gene_table=gene_table,
        aggregate_um=aggregate_um,
        stain_normalisation=stain_normalisation,
        encoder=encoder,
        encoder_weights=encoder_weights,
        precision=precision,  # type: ignore[arg-type]  # the settings check the word
        cache=cache,
        no_cache=no_cache,
        members=members,
        likelihood=likelihood,  # type: ignore[arg-type]  # the settings check the word
        recalibrate=recalibrate,  # type: ignore[arg-type]
        hold_out=tuple(hold_out or ()),
        fine_tune=fine_tune,
        fine_tune_epochs=fine_tune_epochs,
        learning_rate=learning_rate,
        licence=licence,
        seed=seed,
        device=device,
        batch_size=batch_size,
        threads=threads,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        card = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(card, indent=2, ensure_ascii=False))
    else:
        _say_figures(card, output)


@app.command(epilog="Example: stimage-qupath train-nuclei images.csv --output my-nuclei --start-from bundled")
def train_nuclei(
    dataset: Annotated[
        Path,
        typer.Argument(
            help="CSV: image,labels,mpp,licence and, where wanted, split,weight,grow_um,restain,incomplete."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Model folder to make.")],
    start_from: Annotated[str | None, typer.Option(help="bundled, or a model folder. Left out: from nothing.")] = None,
    epochs: Annotated[int, typer.Option(help="Rounds; after each the held-out images are scored.")] = 60,
    steps: Annotated[int | None, typer.Option(help="Batches a round. Left out: once through the images.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest. Left out: 0.002.")] = None,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16: faster on recent processors.")] = "float32",
    validation_fraction: Annotated[float, typer.Option(help="Share of the images that are held out.")] = 0.2,
    name: Annotated[str | None, typer.Option(help="Name on the card.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first weights and all views.")] = 0,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(help="Views a step.")] = 8,
    threads: Annotated[int, typer.Option(help="That prepare views.")] = 2,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a nucleus network on annotated images; use it as --segmenter stardist:FOLDER."""
    from stimage_qupath.pipeline import train_nuclei as flow

    settings = TrainNucleiSettings(
        dataset=dataset,
        output=output,
        name=name,
        start_from=start_from,
        epochs=epochs,
        steps=steps,
        learning_rate=learning_rate,
        precision=precision,  # type: ignore[arg-type]  # the settings check the word
        validation_fraction=validation_fraction,
        seed=seed,
        device=device,
        batch_size=batch_size,
        threads=threads,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        card = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(card, indent=2, ensure_ascii=False))
        return
    figures = card["figures"]["validation"]
    console.say(f"validation AP at IoU 0.5: {figures['ap50']:.3f} ({figures['nuclei']} nuclei held out)")
    console.say(f"model: {output}")
    console.say(f"use it: --segmenter stardist:{output}")


def _say_figures(card: dict[str, Any], output: Path) -> None:
    """Print what the card says of each held-out section, and where the model is."""
    for kind in card["held_out"].values():
        for name, figures in kind["sections"].items():
            known = "same patient" if figures["same_patient_in_training"] else "another patient"
            _say_section(name, figures, f"{known}, {kind['split']}")
    console.say(f"model: {output}")


def _say_section(name: str, figures: dict[str, Any], note: str) -> None:
    """Print the figure that carries the claim of gene signal."""
    residual = figures["pcc_residual_mean"]
    low, high = residual["ci"]
    console.say(f"{name}: pcc_residual_mean {residual['value']:.3f} [{low:.3f}, {high:.3f}] ({note})")
