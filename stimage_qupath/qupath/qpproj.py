"""``project.qpproj``: read without Java, and a minimal one written for images on a machine that has no QuPath."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stimage_qupath.errors import OutputExistsError, UsageError
from stimage_qupath.geojson_dialect.disk import output_errors

PROJECT_FILE: Final = "project.qpproj"
OPENSLIDE: Final = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
IMAGEJ: Final = "qupath.imagej.images.servers.ImageJServerBuilder"
FLAT_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
MICROMETRE: Final = frozenset({"µm", "um", "micrometer", "\u03bcm"})
ROTATIONS: Final = {"ROTATE_NONE": 0, "ROTATE_90": 90, "ROTATE_180": 180, "ROTATE_270": 270}
ENTRY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""QuPath counts from 1."""


@dataclass(frozen=True, slots=True)
class ProjectImage:
    """One image of a project.

    Attributes
    ----------
    id
        QuPath's entry id; its data lie in ``data/<id>``.
    name
        Name the project shows.
    uri
        Where the file was when it was added.
    data_path
        ``data.qpdata``, whether it is there or not.
    width, height
        Size as QuPath shows it, level-0 px; None where the project does not say.
    pixel_um
        Pixel size (x, y) in um, as QuPath has it; None where it is not calibrated.
    view
        What QuPath reads of the file and does to its pixels, the first done first: ``series 2``, ``rotate 90``,
        ``crop 0,0,100,50``.
    unsupported
        Kind of a server that changes pixels in another way (a colour transform, joined channels), or None.
    is_cropped_to_bounds
        False where the image was added with ``--no-crop``.
    """

    id: str
    name: str
    uri: str
    data_path: Path
    width: int | None = None
    height: int | None = None
    pixel_um: tuple[float, float] | None = None
    view: tuple[str, ...] = ()
    unsupported: str | None = None
    is_cropped_to_bounds: bool = True


@dataclass(frozen=True, slots=True)
class Project:
    """A project file.

    Attributes
    ----------
    path
        ``project.qpproj``.
    qupath_version
        QuPath that saved it, or None.
    saved_uri
        Where the project was when it was saved, or None.
    images
        Its images, in its order.
    """

    path: Path
    qupath_version: str | None
    saved_uri: str | None
    images: tuple[ProjectImage, ...]

    @property
    def folder(self) -> Path:
        """Folder of the project."""
        return self.path.parent


def is_project(path: Path) -> bool:
    """Return whether ``path`` is a project file or a folder with one; a dot in a folder's name means nothing."""
    return path.suffix.lower() == ".qpproj" or (path / PROJECT_FILE).is_file()


def project_file(path: Path) -> Path:
    """Return the absolute ``.qpproj`` for a project file or its folder.

    Raises
    ------
    UsageError
        There is none.
    """
    path = Path(path)
    found = path / PROJECT_FILE if path.is_dir() else path
    if not found.is_file():
        msg = f"expected a QuPath project at {path}, found no {PROJECT_FILE}; give its folder or its .qpproj file"
        raise UsageError(msg)
    return found.resolve()


def read_project(path: Path) -> Project:
    """Return the images of a project of QuPath 0.2 to 0.7.

    Parameters
    ----------
    path
        ``project.qpproj`` or its folder.

    Raises
    ------
    UsageError
        There is no project, or it is none that can be read.
    """
    path = project_file(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
        images = tuple(_image(entry, path.parent) for entry in raw["images"])
        return Project(path=path, qupath_version=raw.get("version"), saved_uri=raw.get("uri"), images=images)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"expected a QuPath project in {path}, found: {error!r}; open it in QuPath and save it again"
        raise UsageError(msg) from error


def _image(entry: Mapping[str, Any], folder: Path) -> ProjectImage:
    identity = str(entry["entryID"])
    if not ENTRY_ID.fullmatch(identity):  # it names folders, the project's and ours
        msg = f"an entryID {identity!r}"
        raise ValueError(msg)
    top = entry["serverBuilder"]
    builder, view, unsupported = _unwrap(top)
    arguments = [str(a) for a in builder.get("args") or []]
    metadata = top.get("metadata") or {}
    return ProjectImage(
        id=identity,
        name=entry.get("imageName") or metadata.get("name") or identity,
        uri=builder.get("uri") or "",
        data_path=folder / "data" / identity / "data.qpdata",
        width=metadata.get("width"),
        height=metadata.get("height"),
        pixel_um=_pixel_um(metadata.get("pixelCalibration") or {}),
        view=(*_series(arguments), *view),
        unsupported=unsupported,
        is_cropped_to_bounds="--no-crop" not in arguments,
    )


def _unwrap(builder: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...], str | None]:
    """Return the builder of the file itself, and what the ones around it do, the innermost first."""
    steps: list[str] = []
    unsupported: str | None = None
    while isinstance(builder.get("builder"), Mapping):
        kind = builder.get("builderType")
        if kind == "rotated":
            steps.append(f"rotate {ROTATIONS[builder.get('rotation') or 'ROTATE_NONE']}")
        elif kind == "cropped":
            box = builder["region"]
            steps.append(f"crop {box['x']},{box['y']},{box['width']},{box['height']}")
        elif kind != "pyramidize":  # that one adds levels and leaves the pixels as they are
            unsupported = str(kind)
        builder = builder["builder"]
    if "uri" not in builder:
        unsupported = unsupported or str(builder.get("builderType"))
    return builder, tuple(step for step in reversed(steps) if step != "rotate 0"), unsupported


def _series(arguments: list[str]) -> tuple[str, ...]:
    number = int(arguments[arguments.index("--series") + 1]) if "--series" in arguments else 0
    return (f"series {number}",) if number else ()


def _pixel_um(calibration: Mapping[str, Any]) -> tuple[float, float] | None:
    sides = [calibration.get(side) or {} for side in ("pixelWidth", "pixelHeight")]
    if all(side.get("unit") in MICROMETRE for side in sides):
        return float(sides[0]["value"]), float(sides[1]["value"])
    return None


def write_project(folder: Path, images: Iterable[Path]) -> Path:
    """Write a project of ``images`` that QuPath 0.5 to 0.7 opens; it reads sizes and calibration itself.

    Parameters
    ----------
    folder
        New or empty folder.
    images
        Image files; flat ones are opened by ImageJ, others by OpenSlide.

    Returns
    -------
    pathlib.Path
        ``project.qpproj``.

    Raises
    ------
    OutputExistsError
        The folder holds something.
    UsageError
        An image is missing.
    OutputError
        The disk is full or not writable.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"expected a new or empty folder for the project, found something at {folder}; choose another"
        raise OutputExistsError(msg)
    files = [Path(image).resolve() for image in images]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        msg = f"expected image files, found nothing at {', '.join(missing)}; check the paths"
        raise UsageError(msg)
    entries = [_entry(number, file) for number, file in enumerate(files, start=1)]
    now = round(time.time() * 1000)
    content = {"version": "0.5.1", "createTimestamp": now, "modifyTimestamp": now}
    content |= {"uri": file_uri(folder / PROJECT_FILE), "lastID": len(entries), "images": entries}
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{PROJECT_FILE}.partial"
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        partial.replace(folder / PROJECT_FILE)
    return folder / PROJECT_FILE


def _entry(number: int, file: Path) -> dict[str, Any]:
    is_flat = file.suffix.lower() in FLAT_SUFFIXES
    provider = IMAGEJ if is_flat else OPENSLIDE
    builder = {"builderType": "uri", "providerClassName": provider, "uri": file_uri(file), "args": []}
    return {"serverBuilder": builder, "entryID": number, "imageName": file.name, "metadata": {}}


def file_uri(path: Path) -> str:
    """Return a ``file:`` URI as Java writes it: one slash, UTF-8 in percent form."""
    text = path.as_posix()
    return "file:" + urllib.parse.quote(text if text.startswith("/") else f"/{text}", safe="/:@!$&'()*+,;=~")
