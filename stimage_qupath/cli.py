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
    PredictSettings,
    ProjectSettings,
    SegmentSettings,
    TrainSettings,
)
from stimage_qupath.errors import DeviceMemoryError, StimageError, UsageError
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
Segmenter = Annotated[str, typer.Option(help="classical, stardist (its public H&E model), or stardist:FOLDER.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Threads = Annotated[int, typer.Option(help="Blocks that are read and segmented at once.")]
MaxBadTiles = Annotated[float, typer.Option(help="Share of unreadable tiles up to which a run goes on.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier output.")]
Dataset = Annotated[Path, typer.Argument(help="CSV: section,patient,image,counts,spots,platform,mpp.")]
Genes = Annotated[Path | None, typer.Option(help="File with a gene a line. Left out: the most variable.")]
PanelSize = Annotated[int, typer.Option(help="Genes to choose where no file is given.")]
EncoderName = Annotated[str, typer.Option(help="colour, or timm:<model>.")]
EncoderWeights = Annotated[Path | None, typer.Option(help="Local checkpoint of the encoder.")]
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
        device=device,
        threads=threads,
        max_bad_tiles=max_bad_tiles,
        force=force,
    )
    _predict(settings, as_json=as_json)


@app.command(epilog="Example: stimage-qupath predict slide.svs --output run --annotations regions.geojson")
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
    mpp: Mpp = None,
    unit: Annotated[str, typer.Option(help="cells: a window on each; grid: interpolated from a grid.")] = "cells",
    stride_um: Annotated[float | None, typer.Option(help="Spacing of the grid, um.")] = None,
    measurements: Annotated[str, typer.Option(help="short, or all to add the 5th and 95th percentile.")] = "short",
    intervals: Annotated[bool, typer.Option("--intervals", help="Percentiles of all genes in cells.h5ad.")] = False,
    segmenter: Segmenter = "classical",
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Tiles a forward pass; results do not depend on it.")] = None,
    threads: Threads = 2,
    seed: Annotated[int, typer.Option(help="Recorded with the run.")] = 0,
    max_bad_tiles: MaxBadTiles = 0.01,
    overview: Annotated[bool, typer.Option(help="Draw overview_<GENE>.png.")] = True,
    images: Annotated[str, typer.Option(help="Project: only images whose name matches, with * and ?.")] = "*",
    write_back: Annotated[bool, typer.Option("--write-back", help="Project: put the nuclei into it.")] = False,
    path_map: Annotated[list[str] | None, typer.Option(help="Project: where images are now, OLD=NEW.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Find the nuclei of an image and predict a gene panel for each, with two kinds of uncertainty."""
    project = is_project(image)
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
        mpp=mpp,
        unit=unit,  # type: ignore[arg-type]  # the settings check the word
        stride_um=stride_um,
        measurements=measurements,  # type: ignore[arg-type]
        intervals=intervals,
        segmenter=segmenter,
        device=device,
        batch_size=batch_size,
        threads=threads,
        seed=seed,
        max_bad_tiles=max_bad_tiles,
        overview=overview,
        force=force,
    )
    if project:
        of_project = settings.of_project(images=images, write_back=write_back, path_maps=tuple(path_map or ()))
        _predict_project(of_project, as_json=as_json)
    else:
        _predict(settings, as_json=as_json)


@app.command(epilog="Example: stimage-qupath train sections.csv --output my-model --hold-out section4")
def train(
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="Model folder to make.")],
    genes: Genes = None,
    panel_size: PanelSize = 1000,
    encoder: EncoderName = "colour",
    encoder_weights: EncoderWeights = None,
    members: Members = 10,
    hold_out: Annotated[list[str] | None, typer.Option(help="Section scored but never trained on; repeat.")] = None,
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
        encoder=encoder,
        encoder_weights=encoder_weights,
        members=members,
        hold_out=tuple(hold_out or ()),
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


@app.command(epilog="Example: stimage-qupath evaluate sections.csv --output evaluation --leave-one-out section")
def evaluate(
    dataset: Dataset,
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    model: Annotated[str | None, typer.Option(help="Model to score: starter, or the path of a model folder.")] = None,
    leave_one_out: Annotated[str | None, typer.Option(help="section or patient: train on the others in turn.")] = None,
    genes: Genes = None,
    panel_size: PanelSize = 1000,
    encoder: EncoderName = "colour",
    encoder_weights: EncoderWeights = None,
    members: Members = 10,
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
        members=members,
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
    for name, figures in evaluation["sections"].items():
        _say_section(name, figures, figures["note"])
    console.say(f"evaluation: {output}")


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


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _classes(together: str, single: list[str] | None) -> tuple[str, ...]:
    return (*_words(together), *(single or ()))


def main() -> NoReturn:
    """Run a command and end the process with the exit code of what happened."""
    console.stop_on_terminate()
    sys.exit(run(sys.argv[1:]))


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
