"""The Groovy scripts, put where QuPath finds them, and taken away again.

They go to ``scripts/STimage`` in QuPath's user folder (``Automate > User scripts``) or in a project (``Automate >
Project scripts``). ``stimage-settings.json`` beside them names the Python they start; ``stimage-installed.json`` holds
the SHA-256 of each file written, so that a file that somebody edited is never overwritten or removed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from stimage_qupath import __version__
from stimage_qupath.errors import MissingPartError, OutputError, UsageError

SETTINGS: Final = "stimage-settings.json"
MANIFEST: Final = "stimage-installed.json"
MENU: Final = "STimage menu.groovy"
FOLDER: Final = Path("scripts") / "STimage"


@dataclass(frozen=True, slots=True)
class Changes:
    """What an installation or its removal did in one folder.

    Attributes
    ----------
    folder
        Where.
    written, removed
        Names of files.
    kept
        Names of files that somebody had edited: beside the new one after an installation, where they were after a
        removal.
    """

    folder: Path
    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def script_folders(*, user_dir: Path | None = None, project: Path | None = None) -> list[Path]:
    """Return the folders to install into.

    Parameters
    ----------
    user_dir
        QuPath's user folder (``Edit > Preferences``); None takes every ``QuPath/v*`` in the home folder.
    project
        A ``.qpproj`` file, or the folder that holds one.

    Raises
    ------
    UsageError
        Both are given, or one of them is not what it should be.
    MissingPartError
        None is given and there is no user folder.
    """
    if user_dir is not None and project is not None:
        msg = "expected a user folder or a project, found both; install into one after the other"
        raise UsageError(msg)
    if project is not None:
        return [_project_folder(project) / FOLDER]
    if user_dir is not None:
        if not user_dir.is_dir():
            msg = f"expected QuPath's user folder, found none at {user_dir}; see Edit > Preferences in QuPath"
            raise UsageError(msg)
        return [user_dir.resolve() / FOLDER]
    found = sorted(folder for folder in (Path.home() / "QuPath").glob("v*") if folder.is_dir())
    if not found:
        msg = f"expected QuPath's user folder in {Path.home() / 'QuPath'}, found none; "
        msg += "start QuPath once, or pass --user-dir (Edit > Preferences shows it)"
        raise MissingPartError(msg)
    return [folder / FOLDER for folder in found]


def install(folder: Path, *, interpreter: Path | None = None) -> Changes:
    """Write the scripts and their settings into ``folder``, or bring them up to date.

    A script that was edited since the last installation stays as ``NAME (edited).groovy``.

    Parameters
    ----------
    folder
        Usually of :func:`script_folders`.
    interpreter
        Python with this package; None takes the one that runs.

    Raises
    ------
    OutputError
        The folder cannot be written to.
    """
    python = Path(sys.executable) if interpreter is None else interpreter
    settings = {"interpreter": str(python.absolute()), "package": __version__}
    files = {path.name: path.read_bytes() for path in sorted(_source().glob("*.groovy"))}
    files[SETTINGS] = json.dumps(settings, indent=1).encode("ascii")
    before, kept = _manifest(folder), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            there = folder / name
            if there.exists() and _digest(there.read_bytes()) not in (before.get(name), _digest(content)):
                there.replace(_free_name(there))
                kept.append(name)
            there.write_bytes(content)
        gone = [name for name in before if name not in files and _is_untouched(folder / name, before[name])]
        for name in gone:
            (folder / name).unlink()
        manifest = {"package": __version__, "files": {name: _digest(content) for name, content in files.items()}}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except OSError as error:
        msg = f"expected to write the scripts into {folder}, found: {error}; choose a folder that can be written to"
        raise OutputError(msg) from error
    return Changes(folder, written=tuple(files), removed=tuple(gone), kept=tuple(kept))


def uninstall(folder: Path) -> Changes:
    """Remove what :func:`install` wrote into ``folder``, except what was edited since.

    Raises
    ------
    UsageError
        Nothing was installed there.
    OutputError
        A file cannot be removed.
    """
    before = _manifest(folder)
    if not before:
        msg = f"expected installed scripts in {folder}, found none; nothing was removed"
        raise UsageError(msg)
    removed = [name for name, digest in before.items() if _is_untouched(folder / name, digest)]
    kept = [name for name in before if name not in removed and (folder / name).exists()]
    try:
        for name in (*removed, MANIFEST):
            (folder / name).unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        msg = f"expected to remove the scripts from {folder}, found: {error}; close QuPath and try again"
        raise OutputError(msg) from error
    return Changes(folder, removed=tuple(removed), kept=tuple(kept))


def _source() -> Path:
    """Return the folder of the scripts: inside an installed package, beside it in a source tree."""
    package = Path(str(resources.files("stimage_qupath")))
    return next(p for p in (package / "qupath" / "groovy", package.parent / "groovy") if p.is_dir())


def _project_folder(project: Path) -> Path:
    folder = project.parent if project.suffix == ".qpproj" else project
    if not (project.is_file() if project.suffix == ".qpproj" else any(project.glob("*.qpproj"))):
        msg = f"expected a QuPath project, found none at {project}; give its project.qpproj"
        raise UsageError(msg)
    return folder.resolve()


def _manifest(folder: Path) -> dict[str, str]:
    """Return the files written last time and their digests; a manifest that cannot be read counts as none."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    plain = isinstance(files, dict) and all(Path(name).name == name for name in files)
    return files if plain else {}


def _is_untouched(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(path.read_bytes()) == digest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _free_name(path: Path) -> Path:
    """Return ``NAME (edited)`` beside ``path``, numbered if that is taken."""
    names = (f"{path.stem} (edited{n}){path.suffix}" for n in ("", *(f" {i}" for i in range(2, 10_000))))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())
