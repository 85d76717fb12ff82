"""Features on disk, so that a second training on the same sections costs seconds.

One file holds the features of one slide's places by one encoder. Its name is a hash of everything that they depend on:
the slide's content, the encoder with its weights, the pixel size, the places, and the version of this package. A file
is written beside its name and then renamed, so that any number of processes may share a folder; one that is damaged
is computed again; the least recently used go when the folder exceeds its limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stimage_qupath import __version__
from stimage_qupath.models.encoders import Encoder, Fingerprinted

FORMAT = 1
"""Raised whenever the same key would stand for other features."""
FOLDER_VARIABLE = "STIMAGE_QUPATH_CACHE"
LIMIT_BYTES = 10 * 2**30
"""10 GiB: two million places by the widest encoder."""
WHOLE_FILE_BYTES = 2**30
"""Up to here a slide's hash is not worth keeping: a disk reads that in seconds."""
SAMPLE_BYTES = 2**20
SUFFIX = ".safetensors"
FEATURES = "features"
CHECKSUM = "sha256"

_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return ``STIMAGE_QUPATH_CACHE``, or this package's place in the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "stimage-qupath" / "features"


def choose_cache(folder: Path | None, *, off: bool = False) -> FeatureCache | None:
    """Return the cache in ``folder``, or in the user's cache folder; None where it is ``off``."""
    return None if off else FeatureCache(folder or default_folder())


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """A folder of features.

    Attributes
    ----------
    folder
        Made when first written to.
    limit_bytes
        Size beyond which the least recently used files go.
    """

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def features(
        self,
        encoder: Encoder,
        *,
        slide_sha256: str,
        mpp: float,
        points_px: NDArray[np.float64],
        compute: Callable[[], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Return kept features, or compute and keep them.

        Parameters
        ----------
        encoder
            What computes them; one that is not :class:`stimage_qupath.models.encoders.Fingerprinted` is always run.
        slide_sha256
            Of the image file.
        mpp
            um per level-0 pixel that the slide is read with.
        points_px
            (place, 2) x and y, level-0 px.
        compute
            Called where nothing is kept.

        Returns
        -------
        ndarray
            (place, feature) float32.
        """
        if not isinstance(encoder, Fingerprinted):
            return compute()
        name = feature_key(encoder.fingerprint(), slide_sha256=slide_sha256, mpp=mpp, points_px=points_px)
        path = self.folder / f"{name}{SUFFIX}"
        kept = _read(path, shape=(len(points_px), encoder.card.width))
        if kept is not None:
            return kept
        features = compute()
        self._keep(path, lambda part: _write(part, features))
        return features

    def image_sha256(self, path: Path) -> str:
        """Return the SHA-256 of an image file; that of a large one is kept.

        A file over 1 GiB is taken for the one that was hashed before if its size, its time of change and its first,
        middle and last MiB are the same.
        """
        status = path.stat()
        if status.st_size <= WHOLE_FILE_BYTES:
            return file_sha256(path)
        note = self.folder / f"{_sample(path, status)}.sha256"
        try:
            text = note.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            text = ""
        if len(text) == 64 and set(text) <= set("0123456789abcdef"):
            return text
        digest = file_sha256(path)
        self._keep(note, lambda part: part.write_text(digest, encoding="ascii"))
        return digest

    def _keep(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write a file under its final name at once, whoever else does the same; a full disk only costs the file."""
        part = path.with_name(f"{path.stem}.{os.getpid()}-{uuid.uuid4().hex}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(part)
            part.replace(path)
        except (OSError, SafetensorError) as error:
            _log.warning("features are not kept in %s: %s", self.folder, error)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        self._evict(keep=path)

    def _evict(self, *, keep: Path) -> None:
        """Remove the least recently used files until the folder is within its limit."""
        files = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            try:
                status = path.stat()
            except OSError:  # another process removed it meanwhile
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit_bytes:
                return
            if path != keep:
                try:
                    path.unlink()
                except OSError:  # in use on Windows, or gone already
                    continue
                total -= size


def feature_key(fingerprint: str, *, slide_sha256: str, mpp: float, points_px: NDArray[np.float64]) -> str:
    """Return the hash under which features are kept; see the module's text for what enters.

    Parameters
    ----------
    fingerprint
        Of the encoder with its weights.
    slide_sha256, mpp
        The slide and how it is read.
    points_px
        (place, 2); their order matters.
    """
    places = np.ascontiguousarray(points_px, dtype=np.float64)
    header = f"{FORMAT}\n{__version__}\n{fingerprint}\n{slide_sha256}\n{float(mpp)!r}\n{places.shape}\n"
    return hashlib.sha256(header.encode() + places.astype("<f8").tobytes()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sample(path: Path, status: os.stat_result) -> str:
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
    with path.open("rb") as file:
        for start in (0, status.st_size // 2, status.st_size - SAMPLE_BYTES):
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _write(path: Path, features: NDArray[np.float32]) -> None:
    kept = np.ascontiguousarray(features, dtype=np.float32)
    save_file({FEATURES: kept}, path, metadata={CHECKSUM: hashlib.sha256(kept).hexdigest()})


def _read(path: Path, *, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Return kept features and mark them as used; None where there are none, or not those that were written."""
    try:
        with safe_open(path, framework="numpy") as file:
            expected = (file.metadata() or {}).get(CHECKSUM)
            features: NDArray[np.float32] = file.get_tensor(FEATURES)
        if features.shape != shape or features.dtype != np.float32:
            return None
        if hashlib.sha256(np.ascontiguousarray(features)).hexdigest() != expected:
            return None
    except (OSError, SafetensorError):
        return None
    with contextlib.suppress(OSError):  # a folder that may only be read still serves
        os.utime(path)
    return features
