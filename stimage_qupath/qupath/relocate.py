"""Find an image whose project came from another machine: as stored, by a mapping, beside the project, or by name."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from stimage_qupath.errors import UsageError
from stimage_qupath.qupath.qpproj import Project, ProjectImage

DRIVE: Final = re.compile(r"^/?([A-Za-z]:/)")
SEARCH_DEPTH: Final = 3
SEARCH_ENTRIES: Final = 50_000
"""A search by name looks at no more than this, so that a project in a home folder does not start an expedition."""


def plain_path(uri: str) -> str:
    r"""Return the path in a ``file:`` URI or a path of Linux, macOS or Windows, with forward slashes.

    ``file:/D:/a%20b.svs`` and ``D:\a b.svs`` are both ``D:/a b.svs``, ``file://server/x`` is ``//server/x``.
    """
    text = uri
    if text.lower().startswith("file:"):
        text = urllib.parse.unquote(text[5:])
        if text.startswith("///"):
            text = text[2:]
    text = text.replace("\\", "/") if DRIVE.match(text.replace("\\", "/")) or text.startswith("\\\\") else text
    drive = DRIVE.match(text)
    return text[1:] if drive and text.startswith("/") else text


def parse_path_maps(texts: tuple[str, ...]) -> dict[str, str]:
    """Return old and new beginnings of paths from ``OLD=NEW`` words.

    Raises
    ------
    UsageError
        A word has no two sides.
    """
    maps: dict[str, str] = {}
    for text in texts:
        old, separator, new = text.partition("=")
        if not (separator and old.strip() and new.strip()):
            msg = f"expected --path-map OLD=NEW, found '{text}'; for example --path-map D:/slides=/data/slides"
            raise UsageError(msg)
        maps[plain_path(old.strip()).rstrip("/")] = new.strip()
    return maps


def find_image(project: Project, image: ProjectImage, path_maps: Mapping[str, str]) -> Path:
    """Return the image file.

    Raises
    ------
    UsageError
        It is not there, or there are several of its name; the message is one line that says so.
    """
    stored = plain_path(image.uri)
    for candidate in _candidates(project, stored, path_maps):
        if candidate.is_file():
            return candidate
    name = stored.rsplit("/", 1)[-1]
    same_name = sorted(set(_named(name, project.folder)))
    if len(same_name) == 1:
        return same_name[0]
    if same_name:
        listed = ", ".join(map(str, same_name[:3]))
        msg = f"expected one file {name} near the project, found {len(same_name)}: {listed}; pass --path-map OLD=NEW"
        raise UsageError(msg)
    msg = f"expected the image {image.name} at {stored}, found nothing there or near by; pass --path-map OLD=NEW"
    raise UsageError(msg)


def _candidates(project: Project, stored: str, path_maps: Mapping[str, str]) -> Iterator[Path]:
    for old, new in path_maps.items():
        rest = _below(stored, old)
        if rest is not None:
            yield Path(new) / rest
    if not DRIVE.match(stored) or os.name == "nt":
        yield Path(stored)
    if project.saved_uri:
        yield from _moved_along(project, stored, plain_path(project.saved_uri))


def _moved_along(project: Project, stored: str, saved: str) -> Iterator[Path]:
    """Yield where the image is if it moved together with the project, folder by folder upwards."""
    old, new = saved.rsplit("/", 1)[0], project.folder
    while old and new != new.parent:
        rest = _below(stored, old)
        if rest is not None:
            yield new / rest
            return
        old, new = old.rpartition("/")[0], new.parent


def _below(path: str, folder: str) -> str | None:
    """Return the rest of ``path`` under ``folder``; drives and what follows ignore case, as Windows does."""
    if DRIVE.match(path) and path.lower().startswith(folder.lower() + "/"):
        return path[len(folder) + 1 :]
    return path[len(folder) + 1 :] if path.startswith(folder + "/") else None


def _named(name: str, folder: Path) -> Iterator[Path]:
    """Yield files called ``name`` in the project's folder and, a few levels deep, in the one around it."""
    left = SEARCH_ENTRIES
    for start in (folder, folder.parent):
        for place, folders, files in os.walk(start):
            depth = len(Path(place).relative_to(start).parts)
            if depth >= SEARCH_DEPTH:
                folders.clear()
            left -= len(files) + len(folders)
            if name in files:
                yield (Path(place) / name).resolve()
            if left < 0:
                return
