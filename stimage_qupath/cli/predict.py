"""``segment`` and ``predict``: nuclei, and what is predicted for each."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import (
    Annotations,
    AsJson,
    Classes,
    ClearDeadLocks,
    Device,
    Download,
    Expansion,
    Force,
    Image,
    ImageOrProject,
    MaxBadTiles,
    Mpp,
    Nuclei,
    NucleiPrecision,
    OneClass,
    Output,
    RegionId,
    RegionName,
    Resume,
    Segmenter,
    Threads,
    class_names,
    words,
)
from stimage_qupath.cli.printing import say_warnings
from stimage_qupath.config import STARTER, PredictSettings, ProjectSettings, SegmentSettings, SlidesSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.qupath.qpproj import is_project


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
    nuclei_precision: NucleiPrecision = "float32",
    download: Download = False,
    cell_expansion_um: Expansion = 0.0,
    device: Device = "auto",
    threads: Threads = 2,
    max_bad_tiles: MaxBadTiles = 0.01,
    force: Force = False,
    resume: Resume = False,
    clear_dead_locks: ClearDeadLocks = False,
    as_json: AsJson = False,
) -> None:
    """Outline the nuclei of an image, without predictions."""
    settings = SegmentSettings(
        image=image,
        output=output,
        annotations=annotations,
        classes=class_names(classes, one_class),
        region_names=tuple(region_name or ()),
        region_ids=tuple(region_id or ()),
        mpp=mpp,
        segmenter=segmenter,
        nuclei_precision=nuclei_precision,  # type: ignore[arg-type]  # the settings check the word
        download=download,
        cell_expansion_um=cell_expansion_um,
        device=device,
        threads=threads,
        max_bad_tiles=max_bad_tiles,
        force=force,
        resume=resume,
        clear_dead_locks=clear_dead_locks,
    )
    _predict(settings, as_json=as_json)


@app.command(
    epilog="Example: stimage-qupath predict slide.svs --output run --annotations regions.geojson; "
    "a project: stimage-qupath predict project.qpproj --classes Tumor --output runs --write-back; "
    "a new project: stimage-qupath predict study --create-project --images slides --output runs; "
    "a table of slides (CSV: image, and name, annotations, nuclei, mpp): "
    "stimage-qupath predict slides.csv --output runs --executor dask"
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
    cell_types: Annotated[
        list[str] | None, typer.Option(help="Folder of train-cell-types; repeat for regions, neighbourhoods.")
    ] = None,
    classify: Annotated[
        str, typer.Option(help="Nuclei get their class: auto (by a model of nuclei), always, never.")
    ] = "auto",
    signatures: Annotated[
        str,
        typer.Option(help="Score each nucleus by mcpcounter, pam50-proliferation, oncotype, ggi or FILE.gmt; commas."),
    ] = "",
    nuclei: Nuclei = None,
    mpp: Mpp = None,
    unit: Annotated[str, typer.Option(help="cells: a window on each; grid: interpolated from a grid.")] = "cells",
    stride_um: Annotated[float | None, typer.Option(help="Spacing of the grid, um.")] = None,
    measurements: Annotated[str, typer.Option(help="short, or all to add the 5th and 95th percentile.")] = "short",
    intervals: Annotated[bool, typer.Option("--intervals", help="Percentiles of all genes in cells.h5ad.")] = False,
    segmenter: Segmenter = "classical",
    nuclei_precision: NucleiPrecision = "float32",
    download: Download = False,
    cell_expansion_um: Expansion = 0.0,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Tiles a forward pass; results do not depend on it.")] = None,
    threads: Threads = 2,
    seed: Annotated[int, typer.Option(help="Recorded with the run.")] = 0,
    max_bad_tiles: MaxBadTiles = 0.01,
    overview: Annotated[bool, typer.Option(help="Draw overview_<GENE>.png.")] = True,
    report: Annotated[bool, typer.Option("--report", help="Make report.html in the run folder.")] = False,
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
    executor: Annotated[
        str, typer.Option(help="Table of slides: local, one after the other; dask, several at once.")
    ] = ("local"),
    scheduler: Annotated[
        str | None, typer.Option(help="Several images: a dask scheduler, tcp://HOST:8786. Left out: this machine.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Several images: processes of this machine with dask.")] = 2,
    force: Force = False,
    resume: Resume = False,
    clear_dead_locks: ClearDeadLocks = False,
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
        classes=class_names(classes, one_class),
        region_names=tuple(region_name or ()),
        region_ids=tuple(region_id or ()),
        model=model,
        genes=words(genes),
        explain=words(explain),
        cell_types=tuple(cell_types or ()),
        classify=classify,  # type: ignore[arg-type]  # the settings check the word
        signatures=words(signatures),
        nuclei=nuclei,
        mpp=mpp,
        unit=unit,  # type: ignore[arg-type]  # the settings check the word
        stride_um=stride_um,
        measurements=measurements,  # type: ignore[arg-type]
        intervals=intervals,
        segmenter=segmenter,
        nuclei_precision=nuclei_precision,  # type: ignore[arg-type]  # the settings check the word
        download=download,
        cell_expansion_um=cell_expansion_um,
        device=device,
        batch_size=batch_size,
        threads=threads,
        seed=seed,
        max_bad_tiles=max_bad_tiles,
        overview=overview,
        report=report,
        force=force,
        resume=resume,
        clear_dead_locks=clear_dead_locks,
    )
    shared: dict[str, Any] = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    shared |= {"executor": executor, "scheduler": scheduler, "workers": workers}
    if project:
        of_project = ProjectSettings(
            **shared,
            images=images,
            write_back=write_back,
            path_maps=tuple(path_map or ()),
            create_project=create_project,
        )
        _predict_project(of_project, as_json=as_json)
    elif image.suffix.lower() == ".csv":
        _predict_slides(SlidesSettings(**shared), as_json=as_json)
    else:
        _predict(settings, as_json=as_json)


def _predict(settings: SegmentSettings, *, as_json: bool) -> None:
    """Run the one path and print what came of it."""
    from stimage_qupath.pipeline import predict as flow

    with console.progress(quiet=as_json) as on_progress:
        record = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(record, indent=2, ensure_ascii=False))
        return
    console.say(f"{record['cells']} nuclei in {record['seconds']:.1f} s: {record['output']}")
    say_warnings(record)
    if record["research_use"]:
        console.say(record["research_use"])


def _predict_slides(settings: SlidesSettings, *, as_json: bool) -> None:
    """Run a table of slides and print a line each."""
    from stimage_qupath.pipeline import slides as flow

    with console.progress(quiet=as_json) as on_progress:
        record = flow.run(settings, on_progress)
    if as_json:
        console.say(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for row in record["images"]:
        console.say(f"{row['name']}: {row['status']}, {row['cells'] or 0} nuclei in {row['seconds']:.1f} s")
        say_warnings(row)
    console.say(f"{record['cells']} nuclei: {record['output']}")


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
        say_warnings(row)
    console.say(f"{record['cells']} nuclei: {record['output']}")
    if settings.create_project:
        console.say(f"project: {record['project']['path']}")
        if not record["settings"]["write_back"]:
            console.say("no QuPath here: open the project in QuPath and run STimage > Import results")
