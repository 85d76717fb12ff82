"""``evaluate`` and ``validate``: predictions against counts, and against annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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
    LikelihoodName,
    Members,
    NoCache,
    PanelSize,
    Precision,
    RecalibrateName,
    Threads,
    words,
)
from stimage_qupath.cli.printing import say_warnings
from stimage_qupath.config import EvaluateSettings, ValidateSettings
from stimage_qupath.names import VALIDATION_HTML


@app.command(epilog="Example: stimage-qupath evaluate sections.csv --output evaluation --leave-one-out section")
def evaluate(
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    model: Annotated[str | None, typer.Option(help="Model to score: starter, or the path of a model folder.")] = None,
    leave_one_out: Annotated[str | None, typer.Option(help="section or patient: train on the others in turn.")] = None,
    genes: Annotated[Path | None, typer.Option(help="File with a gene a line, or the word fold or detected.")] = None,
    panel_size: PanelSize = 1000,
    encoder: EncoderName = "context",
    encoder_weights: EncoderWeights = None,
    precision: Precision = "float32",
    cache: Cache = None,
    no_cache: NoCache = False,
    members: Members = 10,
    likelihood: LikelihoodName = "nb",
    recalibrate: RecalibrateName = "conformal",
    protocol: Annotated[str, typer.Option(help="stimage, or hest: HEST-Benchmark's ridge on an encoder.")] = "stimage",
    perturb: Annotated[str, typer.Option(help="Score again under changed images: stain,blur,jpeg,scale.")] = "",
    other_tissue: Annotated[
        list[str] | None, typer.Option(help="Image the OOD score should find, PATH or PATH=MPP; repeat.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Tiles a forward pass.")] = None,
    threads: Threads = 2,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Score a model on measured sections, or a way of training one, beside what any model must beat."""
    from stimage_qupath.pipeline import evaluate as flow

    settings = EvaluateSettings(
        dataset=dataset,
        output=output,
        model=model,
        leave_one_out=leave_one_out,  # type: ignore[arg-type]  # the settings check the word
        genes=genes,
        panel_size=panel_size,
        encoder=encoder,
        encoder_weights=encoder_weights,
        precision=precision,  # type: ignore[arg-type]  # the settings check the word
        cache=cache,
        no_cache=no_cache,
        members=members,
        likelihood=likelihood,  # type: ignore[arg-type]  # the settings check the word
        recalibrate=recalibrate,  # type: ignore[arg-type]
        protocol=protocol,  # type: ignore[arg-type]
        perturb=words(perturb),
        other_tissue=tuple(other_tissue or ()),
        seed=seed,
        device=device,
        batch_size=batch_size,
        threads=threads,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        evaluation = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(evaluation, indent=2, ensure_ascii=False))
        return
    from stimage_qupath.report.text import evaluation_lines

    for line in evaluation_lines(evaluation):
        console.say(line)
    for warning in evaluation["warnings"]:
        console.say_error(f"warning: {warning}")
    console.say(f"evaluation: {output}")


@app.command(epilog="Example: stimage-qupath validate run --annotations regions.geojson --genes ERBB2,CD74")
def validate(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished prediction; it is only read.")],
    annotations: Annotated[Path, typer.Option(help="GeoJSON from QuPath: annotations, or nuclei, with classes.")],
    output: Annotated[Path | None, typer.Option(help="Folder to make. Left out: RUN-validation beside it.")] = None,
    by: Annotated[str, typer.Option(help="class or name: what tells annotations apart.")] = "class",
    rest: Annotated[str, typer.Option(help="annotated: nuclei of other classes; all: every other nucleus.")] = (
        "annotated"
    ),
    second: Annotated[Path | None, typer.Option(help="Another person's annotations of the same slide.")] = None,
    genes: Annotated[str, typer.Option(help="Genes, separated by commas. Left out: those QuPath got.")] = "",
    block_um: Annotated[float, typer.Option(help="Side of a spatial block, um.")] = 600.0,
    replicates: Annotated[int, typer.Option(help="Resamples for the intervals.")] = 1000,
    permutations: Annotated[int, typer.Option(help="Of the labels of blocks, for p.")] = 999,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Hold a run's predictions against annotations: AUROC, overlap, kappa, uncertainty, beside plain baselines."""
    from stimage_qupath.export.run_record import to_json
    from stimage_qupath.pipeline import validate as flow
    from stimage_qupath.report.validation import validation_lines

    settings = ValidateSettings(
        run=run,
        annotations=annotations,
        output=output,
        by=by,  # type: ignore[arg-type]  # the settings check the word
        rest=rest,  # type: ignore[arg-type]
        second=second,
        genes=words(genes),
        block_um=block_um,
        replicates=replicates,
        permutations=permutations,
        seed=seed,
        force=force,
    )
    with console.progress(quiet=as_json) as on_progress:
        validation = flow.run(settings, on_progress)
    if as_json:
        console.say(to_json(validation).decode())
        return
    for line in validation_lines(validation):
        console.say(line)
    say_warnings(validation)
    console.say(f"report: {Path(validation['output']) / VALIDATION_HTML}")
