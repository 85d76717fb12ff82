"""A new project out of plain images: by QuPath where there is one, else a file that QuPath opens."""

from __future__ import annotations

import glob
import json
import os
import shutil
from pathlib import Path
from typing import Final

from stimage_qupath.config import ProjectSettings
from stimage_qupath.errors import OutputExistsError, StimageError, UsageError
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.qpproj import PROJECT_FILE, write_project

SUFFIXES: Final = frozenset(
    f".{suffix}"
    for suffix in (
        *("svs", "tif", "tiff", "png", "jpg", "jpeg", "bmp"),
        *("ndpi", "mrxs", "svslide", "scn", "bif", "vms", "vmu", "czi", "dcm"),
    )
)
"""What is taken from a folder; a file that is named is taken as it is."""
RESULTS_FILE: Final = Path("stimage") / "results.json"
"""Tells the script ``Import results`` where the run is, in a project that QuPath has not seen yet."""


def create_project(settings: ProjectSettings, client: BridgeClient | None) -> bool:
    """Make the project of ``settings`` with its images, and return whether QuPath made it.

    Parameters
    ----------
    settings
        ``image`` is the project that is to be, ``images`` what it shall hold.
    client
        QuPath's process; None, or one that finds no QuPath, has the project written without.

    Raises
    ------
    OutputExistsError
        There is something already.
    UsageError
        There are no such images.
    ImageError
        QuPath cannot open one; no project is left behind then.
    """
    folder = project_folder(settings.image)
    images = find_images(settings.images)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"expected a new or empty folder for the project, found something at {folder}; choose another"
        raise OutputExistsError(msg)
    if client is None or not client.has_qupath():
        write_project(folder, images)
        _note_results(folder, settings.output)
        return False
    try:
        client.ask("create", project=str(folder), images=[str(image) for image in images])
    except StimageError:
        shutil.rmtree(folder, ignore_errors=True)  # it was new, or empty
        raise
    return True


def project_folder(project: Path) -> Path:
    """Return the absolute folder of a project that is to be, given as folder or as ``project.qpproj`` in it.

    Raises
    ------
    UsageError
        The file has another name, by which QuPath's scripts would not find it.
    """
    project = Path(project).resolve()
    if project.suffix.lower() != ".qpproj":
        return project
    if project.name != PROJECT_FILE:
        msg = f"expected a new project called {PROJECT_FILE}, found {project.name}; pass its folder"
        raise UsageError(msg)
    return project.parent


def find_images(pattern: str) -> list[Path]:
    """Return the image files that a path or pattern means, by name: one file, all images of a folder, or all matches.

    Raises
    ------
    UsageError
        There are none.
    """
    place = Path(pattern).expanduser()
    if place.is_dir():
        found = [path for path in place.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES]
    elif place.is_file():
        found = [place]
    else:
        found = [Path(path) for path in glob.glob(str(place), recursive=True) if Path(path).is_file()]  # noqa: PTH207
    if not found:
        msg = (
            f"expected images for the new project, found none that --images {pattern} means; give a folder, a file or "
        )
        msg += "a pattern in quotes, such as 'slides/*.svs'"
        raise UsageError(msg)
    return sorted(path.resolve() for path in found)


def _note_results(folder: Path, output: Path) -> None:
    """Write where the run is: relative to the project, so that both can move together, unless on another drive."""
    output = Path(output).resolve()
    try:
        place = Path(os.path.relpath(output, folder))
    except ValueError:  # Windows, another drive
        place = output
    path = folder / RESULTS_FILE
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"output": place.as_posix()}), encoding="utf-8")
