"""Commands about this machine and this installation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stimage_qupath import console
from stimage_qupath.cli.app import app
from stimage_qupath.cli.options import AsJson, Force
from stimage_qupath.cli.printing import say_warnings


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
    say_warnings(result.record)
    console.say("Look at it in QuPath:")
    console.say(f"  1. open the image:            {result.image}")
    console.say(f"  2. drag this file onto it:    {result.geojson}")
    console.say(result.record["research_use"])


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


def _yes(value: bool) -> str:
    return "yes" if value else "no"
