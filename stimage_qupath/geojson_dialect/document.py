"""Bytes of a GeoJSON file to plain Python values, guarded against gzip and nesting bombs."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import orjson

from stimage_qupath.errors import AnnotationError, UsageError

DEFAULT_LIMIT_BYTES: Final = 4 * 2**30
"""Largest text that is read: a million nuclei with fifty measurements each fit."""
READ_BYTES: Final = 2**20
GZIP_MAGIC: Final = b"\x1f\x8b"
UTF8_BOM: Final = b"\xef\xbb\xbf"
NON_FINITE: Final = re.compile(rb"\bNaN\b|\bInfinity\b")
EASTERN_DIGITS: Final = re.compile(r"[\u0660-\u0669\u06f0-\u06f9]")


def read_document(path: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> object:
    """Return the JSON value in ``path``, plain or gzip (told by content).

    Raises
    ------
    UsageError
        The path is missing, a folder, or not readable.
    AnnotationError
        The file is empty, larger than ``limit_bytes`` once unpacked, damaged, not UTF-8 or not JSON.
    """
    try:
        text = b"".join(_limited(_chunks(path), path, limit_bytes))
    except FileNotFoundError as error:
        msg = f"expected a GeoJSON file at {path}, found nothing there; check the path"
        raise UsageError(msg) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        msg = f"expected a whole gzip file, found damaged data in {path.name} ({error}); export or copy it again"
        raise AnnotationError(msg) from error
    except OSError as error:
        msg = f"expected a readable GeoJSON file at {path}, found: {error.strerror or error}; check the path"
        raise UsageError(msg) from error
    text = text.removeprefix(UTF8_BOM)
    if not text.strip():
        msg = f"expected GeoJSON in {path.name}, found an empty file; export the annotations from QuPath again"
        raise AnnotationError(msg)
    return _parse(text, path)


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the text a piece at a time, unpacked when the content is gzip."""
    with path.open("rb") as stream:
        source = gzip.GzipFile(fileobj=stream) if stream.peek(2).startswith(GZIP_MAGIC) else stream
        while chunk := source.read(READ_BYTES):
            yield chunk


def _limited(chunks: Iterator[bytes], path: Path, limit_bytes: int) -> Iterator[bytes]:
    """Pass pieces on until they exceed the limit, so that a gzip bomb never unfolds."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit_bytes:
            msg = (
                f"expected at most {limit_bytes:,} bytes of GeoJSON, found more in {path.name}; "
                "export fewer objects, or annotations alone"
            )
            raise AnnotationError(msg)
        yield chunk


def _parse(text: bytes, path: Path) -> object:
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
    if EASTERN_DIGITS.search(text.decode("utf-8", "ignore")):
        advice = "set QuPath's locale to English (US), since it writes colours in local digits, and export again"
    msg = f"expected JSON in {path.name}, found: {fault}; {advice}"
    raise AnnotationError(msg) from fault
