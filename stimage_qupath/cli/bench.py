"""``bench``: seconds a stage on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Device, Mpp, Segmenter, Threads
from stimage_qupath.config import STARTER, BenchSettings


@app.command(epilog="Example: stimage-qupath bench --cells 20000 --output bench.json")
def bench(
    slide: Annotated[Path | None, typer.Option(help="Slide to use. Left out: a synthetic one is made.")] = None,
    mpp: Mpp = None,
    cells: Annotated[int, typer.Option(help="About how many nuclei the synthetic slide has.")] = 2000,
    model: Annotated[str, typer.Option(help="starter, or the path of a model folder.")] = STARTER,
    segmenter: Segmenter = "classical",
    explain: Annotated[bool, typer.Option("--explain", help="Time the explanation of a gene too.")] = False,
    repeats: Annotated[int, typer.Option(help="Runs; the median of each stage counts.")] = 3,
    device: Device = "auto",
    threads: Threads = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time every stage of a prediction on this machine: seconds, items a second, peak memory."""
    from stimage_qupath.export.run_record import to_json
    from stimage_qupath.pipeline import bench as flow

    settings = BenchSettings(
        slide=slide,
        mpp=mpp,
        cells=cells,
        model=model,
        segmenter=segmenter,
        explain=explain,
        repeats=repeats,
        device=device,
        threads=threads,
        output=output,
    )
    with console.progress(quiet=as_json) as on_progress:
        found = flow.run(settings, on_progress)
    if as_json:
        console.say(to_json(found).decode())
        return
    for line in _lines(found):
        console.say(line)


def _lines(found: dict[str, Any]) -> list[str]:
    machine, slide = found["machine"], found["slide"]
    held = "" if machine["memory_gib"] is None else f", {machine['memory_gib']:g} GiB"
    lines = [
        f"{machine['processor']}, {machine['cores']} cores{held}, {machine.get('gpu', 'no GPU')}; {machine['system']}",
        f"{slide['name']}, {slide['width_px']} x {slide['height_px']} px at {slide['mpp']:g} um",
        f"{'stage':<14}{'seconds':>10}{'items':>10}{'items/s':>12}",
    ]
    for name, of in found["stages"].items():
        rate = "" if of["items_per_second"] is None or not of["items"] else f"{of['items_per_second']:,.1f}"
        lines.append(f"{name:<14}{of['seconds']:>10.2f}{of['items']:>10,}{rate:>12}")
    lines.append(
        "Stages overlap: read (tiles), label, measure and crop are work of threads beside the others; nuclei is"
    )
    lines.append("how long was waited for them.")
    memory = "" if found["peak_memory_mib"] is None else f", peak {found['peak_memory_mib']:,.0f} MiB"
    lines.append(
        f"{found['cells']:,} nuclei in {found['seconds']:.1f} s: {found['nuclei_per_second']:,.1f} a second, median of "
        f"{found['repeats']} runs; {found['seconds_with_start']:.1f} s with the start of Python{memory}"
    )
    return lines
