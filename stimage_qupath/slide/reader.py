"""Open an image file as a :class:`Slide`, whatever its format."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stimage_qupath.errors import ImageError, UsageError
from stimage_qupath.slide.base import DEFAULT_CACHE_BYTES, Level, Slide
from stimage_qupath.slide.flat_slide import FlatSlide, is_flat
from stimage_qupath.slide.openslide_slide import OpenSlideSlide
from stimage_qupath.slide.plane import FIRST, Plane
from stimage_qupath.slide.tiff_page import ForeignTiffError
from stimage_qupath.slide.tiff_slide import TiffSlide

__all__ = ["Level", "Slide", "open_slide"]

_DICOM_MAGIC: Final = b"DICM"  # after a preamble of 128 bytes
_TIFF_MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Formats of which OpenSlide alone knows the layout; some of them begin like a TIFF.
_OPENSLIDE_SUFFIXES: Final = frozenset({".ndpi", ".mrxs", ".svslide", ".scn", ".bif", ".vms", ".vmu", ".czi", ".dcm"})


def open_slide(path: Path, *, plane: Plane = FIRST, cache_bytes: int = DEFAULT_CACHE_BYTES) -> Slide:
    """Open an image; close it, or use it as a context manager.

    The content decides, not the name: PNG, JPEG and BMP are decoded whole, TIFF is read tile by tile, and the formats
    and compressions that are left go to OpenSlide.

    Parameters
    ----------
    path
        File.
    plane
        Which image of the file; another than the first is read from TIFF and OME-TIFF alone.
    cache_bytes
        Bound of the decoded tiles that are kept; has no effect on flat images.

    Raises
    ------
    UsageError
        If there is no file at ``path``.
    ImageError
        If it is no image, damaged, truncated, not 8-bit RGB brightfield, or does not hold ``plane``.
    MissingPartError
        If only OpenSlide reads it and OpenSlide is not installed.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        msg = f"expected an image file, found {found} at {path}; check the path"
        raise UsageError(msg)
    head = _head(path)
    is_tiff = head.startswith(_TIFF_MAGIC) and path.suffix.lower() not in _OPENSLIDE_SUFFIXES
    if not (is_tiff or plane.is_first):
        plane.refuse(path.name, found="a format of which the first image alone is read")
    if path.suffix.lower() in _OPENSLIDE_SUFFIXES or head[128:132] == _DICOM_MAGIC:
        return OpenSlideSlide(path, cache_bytes=cache_bytes)
    if is_flat(head):
        return FlatSlide(path)
    if is_tiff:
        return _open_tiff(path, plane, cache_bytes)
    msg = f"expected an image, found no format that is known in {path.name}; convert it to OME-TIFF"
    raise ImageError(msg)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        msg = f"expected a readable image, found {path.name} unreadable ({error.strerror}); check its permissions"
        raise ImageError(msg) from error


def _open_tiff(path: Path, plane: Plane, cache_bytes: int) -> Slide:
    try:
        return TiffSlide(path, plane=plane, cache_bytes=cache_bytes)
    except ForeignTiffError as ours:
        if not plane.is_first:
            raise
        try:
            return OpenSlideSlide(path, cache_bytes=cache_bytes)
        except ImageError as theirs:
            msg = f"{ours}, and OpenSlide does not know it either; convert it to OME-TIFF"
            raise ImageError(msg) from theirs
