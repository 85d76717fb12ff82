"""Bytes of a GeoJSON file to plain Python values, guarded against gzip and nesting bombs."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson

from stimage_qupath.errors import AnnotationError, UsageError

DEFAULT_LIMIT_BYTES: Final = 4 * 2**30
"""Largest text that is read: a million nuclei with fifty measurements each fit."""
MOST_TIMES_PACKED: Final = 100
"""How many times its packed bytes a text may hold: outlines and measurements reach ten, deflate's most is 1,032."""
SMALL_BYTES: Final = 2**25
"""A text so small may be packed as tightly as it likes."""
READ_BYTES: Final = 2**20
GZIP_MAGIC: Final = b"\x1f\x8b"
UTF8_BOM: Final = b"\xef\xbb\xbf"
NON_FINITE: Final = re.compile(rb"\bNaN\b|\bInfinity\b")
EASTERN_DIGITS: Final = re.compile(rb"\xd9[\xa0-\xa9]|\xdb[\xb0-\xb9]")
"""U+0660 to U+0669 and U+06F0 to U+06F9 in UTF-8."""


def read_document(path: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> object:
    """Return the JSON value in ``path``, plain or gzip (told by content).

    Raises
    ------
    UsageError
        The path is missing, a folder, or not readable.
    AnnotationError
        The file is empty, larger than ``limit_bytes`` once unpacked, a gzip bomb, damaged, not UTF-8 or not JSON.
    """
    text = bytearray()  # grows in place: a list of pieces and what they are joined to would be twice the text
    try:
        for piece in _pieces(path, limit_bytes):
            text += piece
    except FileNotFoundError as error:
        msg = f"expected a GeoJSON file at {path}, found nothing there; check the path"
        raise UsageError(msg) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        msg = f"expected a whole gzip file, found damaged data in {path.name} ({error}); export or copy it again"
        raise AnnotationError(msg) from error
    except OSError as error:
        msg = f"expected a readable GeoJSON file at {path}, found: {error.strerror or error}; check the path"
        raise UsageError(msg) from error
    if text.startswith(UTF8_BOM):
        del text[: len(UTF8_BOM)]
    if not text or text.isspace():
        msg = f"expected GeoJSON in {path.name}, found an empty file; export the annotations from QuPath again"
        raise AnnotationError(msg)
    return _parse(text, path)


def _pieces(path: Path, limit_bytes: int) -> Iterator[bytes]:
    """Yield the text a piece at a time, unpacked when the content is gzip, up to where it is more than we take."""
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size > limit_bytes:  # before the first byte is held
            raise _too_large(path, limit_bytes)
        packed = stream.peek(2).startswith(GZIP_MAGIC)
        source = gzip.GzipFile(fileobj=stream) if packed else stream
        size = 0
        while piece := source.read(READ_BYTES):
            size += len(piece)
            if size > limit_bytes:
                raise _too_large(path, limit_bytes)
            if packed and size > max(SMALL_BYTES, MOST_TIMES_PACKED * stream.tell()):
                msg = (
                    f"expected at most {MOST_TIMES_PACKED} bytes of GeoJSON for each packed byte, found more in "
                    f"{path.name}: a gzip bomb; if it is none, unpack it first"
                )
                raise AnnotationError(msg)
            yield piece


def _too_large(path: Path, limit_bytes: int) -> AnnotationError:
    return AnnotationError(
        f"expected at most {limit_bytes:,} bytes of GeoJSON, found more in {path.name}; "
        "export fewer objects, or annotations alone"
    )


def _parse(text: bytearray, path: Path) -> object:
    """Parse strictly, and once more leniently where QuPath before 0.5 wrote a bare ``NaN``."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        fault = error
    if NON_FINITE.search(text):
        try:
            return json.loads(text)  # knows NaN and Infinity, which JSON does not
        except (ValueError, RecursionError):
            pass  # the strict parser's complaint names the first fault
    advice = "export it from QuPath as GeoJSON in UTF-8"
    if EASTERN_DIGITS.search(text):
        advice = "set QuPath's locale to English (US), since it writes colours in local digits, and export again"
    msg = f"expected JSON in {path.name}, found: {fault}; {advice}"
    raise AnnotationError(msg) from fault
