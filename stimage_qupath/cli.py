"""The command line: each command parses, calls one flow, and prints."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from stimage_qupath import __version__, console
from stimage_qupath.config import (
    STARTER,
    EvaluateSettings,
    ExplainSettings,
    PredictSettings,
    ProjectSettings,
    SegmentSettings,
    TrainNucleiSettings,
    TrainSettings,
    ValidateSettings,
)
from stimage_qupath.errors import CancelledError, DeviceMemoryError, StimageError, UsageError
from stimage_qupath.names import VALIDATION_HTML
from stimage_qupath.qupath.qpproj import is_project

app = typer.Typer(
    name="stimage-qupath",
    help="Predicted gene expression for every nucleus of an H&E slide, with uncertainty. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Image = Annotated[Path, typer.Argument(help="H&E image: SVS, TIFF, OME-TIFF, PNG, JPEG, or what OpenSlide reads.")]
ImageOrProject = Annotated[Path, typer.Argument(help="H&E image, or a QuPath project (.qpproj, or its folder).")]
Output = Annotated[Path, typer.Option("--output", help="Run folder to make.")]
Annotations = Annotated[Path | None, typer.Option(help="GeoJSON exported from QuPath. Left out: tissue is found.")]
Classes = Annotated[str, typer.Option(help="Only annotations of these classes, separated by commas.")]
OneClass = Annotated[list[str] | None, typer.Option("--class", help="A class, commas and all; repeat for more.")]
RegionName = Annotated[list[str] | None, typer.Option(help="Only annotations of this name; repeat for more.")]
RegionId = Annotated[list[str] | None, typer.Option(help="Only annotations of this UUID; repeat for more.")]
Mpp = Annotated[float | None, typer.Option(help="um per pixel, where the image states none or a wrong one.")]
Segmenter = Annotated[str, typer.Option(help="classical, he, stardist (its public H&E model), or stardist:FOLDER.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch StarDist's public model where it is missing.")]
Nuclei = Annotated[Path | None, typer.Option(help="Nuclei that are there: GeoJSON or label image; none are outlined.")]
Expansion = Annotated[float, typer.Option(help="Cells reach this far beyond their nucleus, um; 0: nuclei alone.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Threads = Annotated[int, typer.Option(help="Blocks that are read and segmented at once.")]
MaxBadTiles = Annotated[float, typer.Option(help="Share of unreadable tiles up to which a run goes on.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier output.")]
Dataset = Annotated[Path, typer.Argument(help="CSV: section,patient,image,counts,spots,platform,mpp.")]
Genes = Annotated[
    Path | None,
    typer.Option(
        help="File with a gene a line, or pam50, oncotype, mcpcounter, stimage, markers, hvg:N, svg:N, detected:SHARE. "
        "Left out: the most variable."
    ),
]
PanelSize = Annotated[int, typer.Option(help="Genes to choose where no file is given.")]
EncoderName = Annotated[str, typer.Option(help="One of `stimage-qupath encoders`, timm:<model>, or some joined by +.")]
EncoderWeights = Annotated[Path | None, typer.Option(help="Checkpoint of the encoder, or a folder that holds one.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float16, for encoders that are networks.")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Folder for features. Left out: the user's cache.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Compute features anew and keep none.")]
LikelihoodName = Annotated[str, typer.Option("--likelihood", help="nb, or poisson for comparison.")]
RecalibrateName = Annotated[
    str, typer.Option("--recalibrate", help="Correct intervals on unseen sections: conformal, temperature, both, none.")
]
Members = Annotated[int, typer.Option(help="Members of the ensemble.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.say(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.say(context.get_help())


@app.command(epilog="Example: stimage-qupath doctor")
def doctor(as_json: AsJson = False) -> None:
    """Check what this machine has: Python, torch, readers, models, QuPath; each gap with its fix."""
    from stimage_qupath.pipeline.doctor import examine

    findings = examine()
    if as_json:
        console.say(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        for finding in findings:
            console.say(f"{finding.status:<9} {finding.what:<14} {finding.found}")
            if finding.fix:
                console.say(f"{'':<24} fix: {finding.fix}")
    if any(finding.status == "missing" for finding in findings):
        raise typer.Exit(3)


@app.command(epilog="Example: stimage-qupath demo")
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the image and the result.")] = Path("stimage-demo"),
    force: Force = False,
) -> None:
    """Predict the starter's genes on a small H&E image that is installed already; under a minute."""
    from stimage_qupath.pipeline import demo as flow

    with console.progress() as on_progress:
        result = flow.run(output, force=force, on_progress=on_progress)
    console.say(f"{result.record['cells']} nuclei, pixel size assumed: {flow.ASSUMED_MPP} um (the image states none)")
    _say_warnings(result.record)
    console.say("Look at it in QuPath:")
    console.say(f"  1. open the image:            {result.image}")
    console.say(f"  2. drag this file onto it:    {result.geojson}")
    console.say(result.record["research_use"])


@app.command(epilog="Example: stimage-qupath segment slide.svs --output nuclei --annotations regions.geojson")
def segment(
    image: Image,
    output: Output,
    annotations: Annotations = None,
    classes: Classes = "",
    one_class: OneClass = None,
    region_name: RegionName = None,
    region_id: RegionId = None,
    mpp: Mpp = None,
    segmenter: Segmenter = "classical",
    download: Download = False,
    cell_expansion_um: Expansion = 0.0,
    device: Device = "auto",
    threads: Threads = 2,
    max_bad_tiles: MaxBadTiles = 0.01,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Outline the nuclei of an image, without predictions."""
    settings = SegmentSettings(
        image=image,
        output=output,
        annotations=annotations,
        classes=_classes(classes, one_class),
        region_names=tuple(region_name or ()),
        region_ids=tuple(region_id or ()),
        mpp=mpp,
        segmenter=segmenter,
        download=download,
        cell_expansion_um=cell_expansion_um,
        device=device,
        threads=threads,
        max_bad_tiles=max_bad_tiles,
        force=force,
    )
    _predict(settings, as_json=as_json)


@app.command(
    epilog="Example: stimage-qupath predict slide.svs --output run --annotations regions.geojson; "
    "a project: stimage-qupath predict project.qpproj --classes Tumor --output runs --write-back; "
    "a new project: stimage-qupath predict study --create-project --images slides --output runs"
)
def predict(
    image: ImageOrProject,
    output: Output,
    annotations: Annotations = None,
    classes: Classes = "",
    one_class: OneClass = None,
    region_name: RegionName = None,
    region_id: RegionId = None,
    model: Annotated[str, typer.Option(help="starter, or the path of a model folder.")] = STARTER,
    genes: Annotated[str, typer.Option(help="Genes for QuPath, separated by commas. Left out: the model's best.")] = "",
    explain: Annotated[str, typer.Option(help="Genes to explain nucleus by nucleus, separated by commas.")] = "",
    nuclei: Nuclei = None,
    mpp: Mpp = None,
    unit: Annotated[str, typer.Option(help="cells: a window on each; grid: interpolated from a grid.")] = "cells",
    stride_um: Annotated[float | None, typer.Option(help="Spacing of the grid, um.")] = None,
    measurements: Annotated[str, typer.Option(help="short, or all to add the 5th and 95th percentile.")] = "short",
    intervals: Annotated[bool, typer.Option("--intervals", help="Percentiles of all genes in cells.h5ad.")] = False,
    segmenter: Segmenter = "classical",
    download: Download = False,
    cell_expansion_um: Expansion = 0.0,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Tiles a forward pass; results do not depend on it.")] = None,
    threads: Threads = 2,
    seed: Annotated[int, typer.Option(help="Recorded with the run.")] = 0,
    max_bad_tiles: MaxBadTiles = 0.01,
    overview: Annotated[bool, typer.Option(help="Draw overview_<GENE>.png.")] = True,
    images: Annotated[str, typer.Option(help="Project: only images whose name matches, with * and ?.")] = "*",
    create_project: Annotated[
        bool,
        typer.Option(
            "--create-project",
            help="Make IMAGE, a project or its folder, of the files --images (a folder, a file or 'slides/*.svs') "
            "and put the nuclei into it; without QuPath they are imported there by the script Import results.",
        ),
    ] = False,
    write_back: Annotated[bool, typer.Option("--write-back", help="Project: put the nuclei into it.")] = False,
    path_map: Annotated[list[str] | None, typer.Option(help="Project: where images are now, OLD=NEW.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Find the nuclei of an image and predict a gene panel for each, with two kinds of uncertainty."""
    project = create_project or is_project(image)
    if not project and (images != "*" or write_back or path_map):
        msg = (
            f"expected a QuPath project with --images, --write-back or --path-map, found {image}; give its .qpproj file"
        )
        raise UsageError(msg)
    settings = PredictSettings(
        image=image,
        output=output,
        annotations=annotations,
        classes=_classes(classes, one_class),
        region_names=tuple(region_name or ()),
        region_ids=tuple(region_id or ()),
        model=model,
        genes=_words(genes),
        explain=_words(explain),
        nuclei=nuclei,
        mpp=mpp,
        unit=unit,  # type: ignore[arg-type]  # the settings check the word
        stride_um=stride_um,
        measurements=measurements,  # type: ignore[arg-type]
        intervals=intervals,
        segmenter=segmenter,
        download=download,
        cell_expansion_um=cell_expansion_um,
        device=device,
        batch_size=batch_size,
        threads=threads,
        seed=seed,
        max_bad_tiles=max_bad_tiles,
        overview=overview,
        force=force,
    )
    if project:
        maps = tuple(path_map or ())
        of_project = settings.of_project(
            images=images, write_back=write_back, path_maps=maps, create_project=create_project
        )
        _predict_project(of_project, as_json=as_json)
    else:
        _predict(settings, as_json=as_json)


@app.command(epilog="Example: stimage-qupath explain run --gene ERBB2 --gene CD3D --difference ERBB2,CD3D")
def explain(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished prediction; gets the attributions.")],
    gene: Annotated[list[str], typer.Option(help="Gene to explain; repeat for more.")],
    method: Annotated[
        str,
        typer.Option(
            help="ablation, lime, kernel_shap; and, where the encoder passes gradients, saliency, input_x_gradient, "
            "integrated_gradients, gradient_shap, guided_grad_cam."
        ),
    ] = "ablation",
    fill: Annotated[str, typer.Option(help="inpainted, blurred, mean_stain or white: what a nucleus gives way to.")] = (
        "inpainted"
    ),
    target: Annotated[str, typer.Option(help="'log mean', 'member K' (from 0) or epistemic.")] = "log mean",
    difference: Annotated[str, typer.Option(help="A,B: also the map of A minus B.")] = "",
    image: Annotated[Path | None, typer.Option(help="The slide, where it has moved since the run.")] = None,
    stride_um: Annotated[float | None, typer.Option(help="Spacing of the explained predictions, um.")] = None,
    samples: Annotated[int, typer.Option(help="Perturbations a window, of lime and kernel_shap.")] = 500,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted explanation stopped.")] = False,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Windows a forward pass; results do not depend on it.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random number.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Add to a run how much each nucleus drove the prediction of a gene. Faithful to the model, not to biology."""
    from stimage_qupath.pipeline import explain as flow

    settings = ExplainSettings(
        run=run,
        genes=tuple(gene),
        method=method,
        fill=fill,
        target=target,
        difference=_words(difference),
        image=image,
        stride_um=stride_um,
        samples=samples,
        resume=resume,
        device=device,
        batch_size=batch_size,
        seed=seed,
    )
    with console.progress(quiet=as_json) as on_progress:
        record = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(record, indent=2, ensure_ascii=False))
        return
    console.say(f"{record['cells']} nuclei x {len(gene)} genes in {record['seconds']:.1f} s: {record['output']}")
    console.say(record["note"])
    console.say(record["research_use"])


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
    dataset: Annotated[Path, typer.Argument(help="CSV: image,labels,mpp,licence and, where wanted, split,weight.")],
    output: Annotated[Path, typer.Option(help="Model folder to make.")],
    start_from: Annotated[str | None, typer.Option(help="bundled, or a model folder. Left out: from nothing.")] = None,
    epochs: Annotated[int, typer.Option(help="Rounds through the images.")] = 60,
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
        perturb=_words(perturb),
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
        genes=_words(genes),
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
    _say_warnings(validation)
    console.say(f"report: {Path(validation['output']) / VALIDATION_HTML}")


@app.command(epilog="Example: stimage-qupath encoders")
def encoders(as_json: AsJson = False) -> None:
    """List the encoders that --encoder takes: what each reads, its licence, and whether it is on this machine."""
    from stimage_qupath.models.listing import known_encoders

    rows = known_encoders()
    if as_json:
        console.say(json.dumps([row.to_dict() for row in rows], indent=2, ensure_ascii=False))
        return
    table = [("name", "um/px", "tile px", "width", "gated", "here", "licence")]
    table += [
        (r.name, f"{r.mpp:g}", str(r.tile_px), str(r.width), _yes(r.gated), _yes(r.here), r.licence) for r in rows
    ]
    console.say_table(table)
    console.say("and timm:<model>, any network of timm; --json adds sources, and what could not be verified there")


@app.command(epilog="Example: stimage-qupath install-scripts")
def install_scripts(
    user_dir: Annotated[Path | None, typer.Option(help="QuPath's user folder. Left out: all in ~/QuPath.")] = None,
    project: Annotated[Path | None, typer.Option(help="A project instead: its project.qpproj.")] = None,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Remove them again.")] = False,
) -> None:
    """Put the scripts where QuPath finds them; run it again to update them."""
    from stimage_qupath.qupath import scripts

    for folder in scripts.script_folders(user_dir=user_dir, project=project):
        changes = scripts.uninstall(folder) if uninstall else scripts.install(folder)
        what = f"{len(changes.removed)} files removed from" if uninstall else f"{len(changes.written)} files written to"
        console.say(f"{what} {folder}")
        for name in changes.kept:
            console.say(f"  {name} was edited; your version is kept there")
        if not uninstall:
            console.say(f"In QuPath: Automate > {'Project' if project else 'User'} scripts > STimage > Check setup")
            console.say(f"For a menu, set as startup script (Edit > Preferences): {folder / scripts.MENU}")


def _predict(settings: SegmentSettings, *, as_json: bool) -> None:
    """Run the one path and print what came of it."""
    from stimage_qupath.pipeline import predict as flow

    with console.progress(quiet=as_json) as on_progress:
        record = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(record, indent=2, ensure_ascii=False))
        return
    console.say(f"{record['cells']} nuclei in {record['seconds']:.1f} s: {record['output']}")
    _say_warnings(record)
    if record["research_use"]:
        console.say(record["research_use"])


def _predict_project(settings: ProjectSettings, *, as_json: bool) -> None:
    """Run a project and print a line an image."""
    from stimage_qupath.pipeline import project as flow

    with console.progress(quiet=as_json) as on_progress:
        record = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for row in record["images"]:
        written = row["written"]
        back = f", {written['added']} written in place of {written['removed']}" if written else ""
        console.say(f"{row['name']}: {row['status']}, {row['cells'] or 0} nuclei{back}")
        _say_warnings(row)
    console.say(f"{record['cells']} nuclei: {record['output']}")
    if settings.create_project:
        console.say(f"project: {record['project']['path']}")
        if not record["settings"]["write_back"]:
            console.say("no QuPath here: open the project in QuPath and run STimage > Import results")


def _say_warnings(record: dict[str, Any]) -> None:
    for warning in record["warnings"]:
        console.say_error(f"warning: {warning}")


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


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _classes(together: str, single: list[str] | None) -> tuple[str, ...]:
    return (*_words(together), *(single or ()))


def main() -> NoReturn:
    """Run a command and end the process with the exit code of what happened."""
    console.stop_on_terminate()
    code = run(sys.argv[1:])
    if code == CancelledError.exit_code:  # all is cleaned up; to take torch down would keep the user waiting
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; an error is one sentence on stderr.

    Parameters
    ----------
    arguments
        As after the program's name.
    """
    try:
        app(arguments, prog_name="stimage-qupath")
    except SystemExit as end:  # how the parser ends: 0 after --help, 2 after an argument it does not understand
        return end.code if isinstance(end.code, int) else 0
    except StimageError as error:
        console.say_error(f"error: {error}")
        return error.exit_code
    except MemoryError:
        console.say_error("error: memory ran out; select a smaller region or pass a smaller --batch-size")
        return DeviceMemoryError.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last resort: a fault of ours must still end with our exit code
        console.say_error(f"internal error: {error!r}; please report this with the lines below")
        traceback.print_exc()
        return StimageError.exit_code
    return 0
