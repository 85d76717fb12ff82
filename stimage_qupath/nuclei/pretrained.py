"""StarDist's public H&E model: found where StarDist itself keeps it, or downloaded from its release."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Final

from stimage_qupath.errors import MissingPartError
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.nuclei.stardist_network import CONFIG_FILE, WEIGHT_FILES

PRETRAINED: Final = "2D_versatile_he"
MODEL_FILES: Final = (CONFIG_FILE, "thresholds.json", *WEIGHT_FILES)
"""What is taken out of an archive; anything else in it stays there."""
LIMIT_BYTES: Final = 100 * 2**20
"""Of an archive, and of each file in it; the public model has 5 MB."""
TIMEOUT_SECONDS: Final = 30.0
READ_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Release:
    """A model as its authors publish it.

    Attributes
    ----------
    address
        Of the archive.
    sha256
        Of the archive.
    """

    address: str
    sha256: str


VERSATILE_HE: Final = Release(
    address="https://github.com/stardist/stardist-models/releases/download/v0.1/python_2D_versatile_he.zip",
    sha256="f1696ef0631bd7e1c0e5c0d3017e2b4c6a95e284c6aab9c22fc2f08317817b28",  # stardist 0.9.1, models/__init__.py
)


def cache_folder() -> Path:
    """Return where StarDist keeps its public models: below Keras' folder, which ``KERAS_HOME`` moves."""
    keras = os.environ.get("KERAS_HOME") or "~/.keras"
    return Path(keras).expanduser() / "models" / "StarDist2D"


def pretrained_folder(*, download: bool = False, release: Release = VERSATILE_HE) -> Path:
    """Return the folder of the public H&E model.

    Parameters
    ----------
    download
        Whether to fetch it where it is missing.
    release
        From where.

    Raises
    ------
    MissingPartError
        It is not there and cannot be had; the message says from where to get it and where to put it.
    OutputError
        The folder cannot be written.
    """
    root = cache_folder() / PRETRAINED
    found = _model_in(root)
    if found is None and download:
        _fetch(release, root)
        found = _model_in(root)
    if found is None:
        msg = (
            f"expected StarDist's {PRETRAINED} in {root}, found none; pass --download, or download {release.address} "
            "and unpack it there"
        )
        raise MissingPartError(msg)
    return found


def _model_in(root: Path) -> Path | None:
    """Return the folder below ``root`` that holds a model; Keras puts it one deeper from one version to the next."""
    found = sorted(path.parent for path in root.rglob(CONFIG_FILE)) if root.is_dir() else []
    return next((folder for folder in found if any((folder / name).is_file() for name in WEIGHT_FILES)), None)


def _fetch(release: Release, root: Path) -> None:
    """Download an archive and put its model files into ``root``, all of them or none."""
    partial = root.with_name(f"{root.name}.{secrets.token_hex(4)}.partial")
    with output_errors(root):
        partial.mkdir(parents=True)
    try:
        archive = partial / "model.zip"
        with output_errors(root), archive.open("wb") as file:
            digest = _download(release, root, file)
        if digest != release.sha256:
            msg = f"expected an archive with SHA-256 {release.sha256} at {release.address}, found {digest}; try again"
            raise MissingPartError(msg)
        _unpack(archive, partial, release)
        archive.unlink()
        with output_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            for path in sorted(partial.iterdir(), key=lambda path: path.name == CONFIG_FILE):  # the last makes it whole
                path.replace(root / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download(release: Release, root: Path, file: IO[bytes]) -> str:
    """Copy what is at the address into ``file`` and return its SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        response = urllib.request.urlopen(release.address, timeout=TIMEOUT_SECONDS)
    except (OSError, HTTPException) as error:
        raise _unreachable(release, root, error) from error
    with response:
        while chunk := _read(response, release, root):
            size += len(chunk)
            if size > LIMIT_BYTES:
                msg = f"expected at most {LIMIT_BYTES:,} bytes at {release.address}, found more; it is no model"
                raise MissingPartError(msg)
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _read(response: IO[bytes], release: Release, root: Path) -> bytes:
    """Read on; what breaks here is the network, not the disk."""
    try:
        return response.read(READ_BYTES)
    except (OSError, HTTPException) as error:
        raise _unreachable(release, root, error) from error


def _unreachable(release: Release, root: Path, error: Exception) -> MissingPartError:
    reason = getattr(error, "reason", error) if not isinstance(error, urllib.error.HTTPError) else error
    return MissingPartError(
        f"expected to download {release.address}, found: {reason}; download it on a machine with a connection and "
        f"unpack it in {root}"
    )


def _unpack(archive: Path, folder: Path, release: Release) -> None:
    """Take the model files out of an archive by their bare names, so that no path in it leads anywhere."""
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                name = member.filename.replace("\\", "/").rsplit("/", 1)[-1]
                if name not in MODEL_FILES or (folder / name).exists():
                    continue
                if member.file_size > LIMIT_BYTES:
                    msg = f"expected {name} of at most {LIMIT_BYTES:,} bytes in {release.address}, found more"
                    raise MissingPartError(msg)
                with content.open(member) as source, output_errors(folder), (folder / name).open("wb") as target:
                    target.write(source.read(LIMIT_BYTES))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # the latter two: encrypted, odd methods
        msg = f"expected a zip archive with a StarDist model at {release.address}, found: {error}"
        raise MissingPartError(msg) from error
