"""Which images of a TIFF file are the levels of one slide; labels, macros and thumbnails are not."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from tifffile import TiffFile, TiffFileError, TiffPage

from stimage_qupath.errors import ImageError
from stimage_qupath.slide.ome import OmeImage, ome_image
from stimage_qupath.slide.plane import FIRST, Plane
from stimage_qupath.slide.stack import stack_page
from stimage_qupath.slide.tiff_calibration import stated_mpp
from stimage_qupath.slide.tiff_page import (
    APERIO_JPEG2000_YCBCR,
    ForeignTiffError,
    TiffImage,
    image_of,
    is_8_bit_colour,
)

MALFORMED: Final = (
    TiffFileError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, OSError, struct.error
)  # fmt: skip
"""What tifffile and imagecodecs raise on damaged bytes."""

_REDUCED: Final = 1  # bits of NewSubfileType
_MACRO_OR_MASK: Final = 4 | 8


def read_pyramid(path: Path, plane: Plane = FIRST) -> tuple[tuple[TiffImage, ...], tuple[float, float] | None]:
    """Return the levels of a TIFF from the finest to the coarsest, and the um per pixel it states.

    The slide is the image at ``plane``; for OME-TIFF the metadata say on which page that is. The levels of the first
    one are its SubIFDs and, outside OME-TIFF, every further page of the same shape within rounding that is tiled or
    marked as reduced; of any other plane its SubIFDs alone.

    Raises
    ------
    ImageError
        If the file is damaged or truncated, no 8-bit RGB image, or does not hold that plane.
    ForeignTiffError
        If the levels are laid out in a vendor's way, or compressed so that no codec here decodes them.
    """
    try:
        with TiffFile(path) as tif:
            pages = [page for page in tif.pages if isinstance(page, TiffPage)]
            _refuse_truncated(tif, pages)
            _refuse_foreign_layout(tif)
            ome = ome_image(tif.ome_metadata, plane, name=path.name) if tif.ome_metadata else None
            base = _base_page(pages, ome, tif, plane)
            levels = tuple(image_of(page, tif) for page in _level_pages(base, pages, ome))
            _refuse_undecodable(base, levels[0], tif)
            return levels, stated_mpp(base if ome else pages[0], ome)
    except MALFORMED as error:
        msg = f"expected a TIFF image, found {path.name} damaged or truncated ({error}); copy it again"
        raise ImageError(msg) from error


def _refuse_truncated(tif: TiffFile, pages: list[TiffPage]) -> None:
    """Raise when the file ends before something it refers to."""
    size = tif.filehandle.size
    ends = [_next_page(tif), *(offset for page in pages for offset in page.subifds or ())]
    missing = sum(end > size for end in ends)
    for page in [*pages, *(sub for parent in pages for sub in parent.pages or ())]:
        offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
        parts = min(len(offsets), len(counts))
        # No parts at all: the tag that lists them lies past the end.
        missing += int(np.sum(offsets[:parts] + counts[:parts] > size)) if parts else 1
    if missing or not pages:
        msg = (
            f"expected a whole TIFF, found {tif.filename} truncated at {size} bytes "
            f"({missing or 'all'} of its parts lie past the end); copy it again"
        )
        raise ImageError(msg)


def _next_page(tif: TiffFile) -> int:
    """Return where the page after the last one that was found should be; 0 in a whole file."""
    slot = tif.pages.next_page_offset
    if slot is None:
        return 0
    tif.filehandle.seek(slot)
    return int(struct.unpack(tif.tiff.offsetformat, tif.filehandle.read(tif.tiff.offsetsize))[0])


def _refuse_foreign_layout(tif: TiffFile) -> None:
    """Raise on vendors' files whose tiles overlap, or whose levels are padded or spread over several areas."""
    vendors = {"Hamamatsu": tif.is_ndpi, "Leica": tif.is_scn, "Philips": tif.is_philips, "Ventana": tif.is_bif}
    for vendor, found in vendors.items():
        if found:
            msg = f"expected a plain TIFF pyramid, found the {vendor} layout in {tif.filename}"
            raise ForeignTiffError(msg)


def _base_page(pages: list[TiffPage], ome: OmeImage | None, tif: TiffFile, plane: Plane) -> TiffPage:
    index = ome.page if ome else stack_page(tif, plane)
    if index >= len(pages):
        plane.refuse(tif.filename, found=f"{len(pages)} pages")
    page = pages[index]
    if ome is None and page.shape != pages[0].shape:
        plane.refuse(tif.filename, found=f"page {index} of another size than the first")
    if ome is not None and ome.channels > page.samplesperpixel:
        msg = f"expected 8-bit RGB brightfield, found {ome.channels} channels in {tif.filename}; export it as 8-bit RGB"
        raise ImageError(msg)
    return page


def _level_pages(base: TiffPage, pages: list[TiffPage], ome: OmeImage | None) -> list[TiffPage]:
    """Return the base and its smaller copies, each smaller than the one before."""
    levels = [base]
    for page in sorted(_candidates(base, pages, ome), key=lambda page: -int(page.imagewidth)):
        last = levels[-1]
        if page.imagewidth < last.imagewidth and page.imagelength < last.imagelength and _same_shape(base, page):
            levels.append(page)
    return levels


def _candidates(base: TiffPage, pages: list[TiffPage], ome: OmeImage | None) -> Iterator[TiffPage]:
    yield from (page for page in base.pages or () if isinstance(page, TiffPage) and is_8_bit_colour(page))
    if ome is not None or base is not pages[0]:
        return
    for page in pages:
        kind = int(page.subfiletype)
        reduced = bool(kind & _REDUCED) and not kind & _MACRO_OR_MASK
        if page is not base and (page.is_tiled or reduced) and is_8_bit_colour(page):
            yield page


def _same_shape(base: TiffPage, page: TiffPage) -> bool:
    """Return whether one ratio, rounded to whole pixels, explains both the width and the height."""
    least_x, most_x = _nominal_ratios(base.imagewidth, page.imagewidth)
    least_y, most_y = _nominal_ratios(base.imagelength, page.imagelength)
    return max(least_x, least_y) <= min(most_x, most_y)


def _nominal_ratios(base: int, size: int) -> tuple[float, float]:
    """Return the range of ratios that rounding (down, up or to the nearest) turns into ``size`` pixels."""
    return base / (size + 1), base / (size - 1) if size > 1 else math.inf


def _refuse_undecodable(page: TiffPage, image: TiffImage, tif: TiffFile) -> None:
    """Raise when Aperio's YCbCr JPEG 2000 has chroma of fewer pixels, which only some codecs put together."""
    if page.compression != APERIO_JPEG2000_YCBCR:
        return
    if not image.byte_counts.any():
        return
    index = int(np.argmax(image.byte_counts > 0))
    tif.filehandle.seek(image.offsets[index])
    try:
        image.decode(tif.filehandle.read(image.byte_counts[index]), index)
    except MALFORMED as error:
        msg = f"expected JPEG 2000 that can be decoded here, found {tif.filename}: {error}"
        raise ForeignTiffError(msg) from error
