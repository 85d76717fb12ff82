"""One image of a TIFF file as a grid of tiles or strips: where each lies, and how its bytes become RGB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from stimage_qupath.errors import ImageError
from stimage_qupath.slide.colour import WHITE, over_white, rgb_from_ycbcr

Decode: TypeAlias = Callable[[bytes, int], NDArray[np.uint8]]
"""Bytes and index of a segment to its samples, (height, width, sample)."""

# Values of TIFF tags, from the TIFF 6.0 specification and, for Aperio's own, the OpenSlide documentation.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
_PLANAR_SEPARATE: Final = 2
_ALPHA_PREMULTIPLIED, _ALPHA = 1, 2
_UNCOMPRESSED: Final = 1
_JPEG: Final = frozenset({6, 7, 34892, 33007})
APERIO_JPEG2000_YCBCR: Final = 33003
_CODEC_GIVES_RGB: Final = _JPEG | {22610, 33005, 34712, 34933, 34934, 50001, 50002, 52546}
_VIRTUAL_STRIP_BYTES: Final = 2**18


class ForeignTiffError(ImageError):
    """A TIFF whose layout or compression only its vendor's reader knows; OpenSlide may."""


@dataclass(frozen=True)
class TiffImage:
    """One resolution inside a TIFF file.

    Attributes
    ----------
    width, height
        Size in pixels.
    segment_width, segment_height
        Size of a tile, or of a strip (full width).
    planes
        1, or the number of colours where each has segments of its own.
    offsets, byte_counts
        (plane * row * column,) place of each segment in the file; 0 bytes means left out.
    decode
        Bytes of a segment to samples.
    to_rgb
        (height, width, sample) to (height, width, 3) RGB over white.
    """

    width: int
    height: int
    segment_width: int
    segment_height: int
    planes: int
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    decode: Decode
    to_rgb: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

    def segments(self, row: int, column: int) -> list[int]:
        """Return the index of each plane's segment at this place of the grid."""
        across = -(-self.width // self.segment_width)
        per_plane = across * -(-self.height // self.segment_height)
        return [plane * per_plane + row * across + column for plane in range(self.planes)]


def image_of(page: TiffPage, tif: TiffFile) -> TiffImage:
    """Return the page as a grid of segments.

    Raises
    ------
    ImageError
        If the page is no 8-bit RGB or grey image, or its segments are not all inside the file.
    ForeignTiffError
        If no codec here decodes its compression.
    """
    name = tif.filename
    _refuse_other_than_8_bit(page, name)
    if page.is_tiled:
        segment_width, segment_height = page.tilewidth, page.tilelength
    else:
        segment_width, segment_height = page.imagewidth, min(page.rowsperstrip, page.imagelength)
    planes = page.samplesperpixel if page.planarconfig == _PLANAR_SEPARATE else 1
    offsets = np.asarray(page.dataoffsets, dtype=np.int64)
    byte_counts = np.asarray(page.databytecounts, dtype=np.int64)
    image = TiffImage(
        width=page.imagewidth,
        height=page.imagelength,
        segment_width=segment_width,
        segment_height=segment_height,
        planes=planes,
        offsets=offsets,
        byte_counts=byte_counts,
        decode=_decoder(page, name),
        to_rgb=_rgb_converter(page, name),
    )
    if min(len(offsets), len(byte_counts)) < image.segments(0, 0)[-1] + _grid_size(image):
        msg = f"expected a whole TIFF, found {name} without the places of all its tiles; copy it again, it is damaged"
        raise ImageError(msg)
    return _split_single_strip(image, page)


def _grid_size(image: TiffImage) -> int:
    return -(-image.width // image.segment_width) * -(-image.height // image.segment_height)


def is_8_bit_colour(page: TiffPage) -> bool:
    """Return whether the page is an 8-bit RGB, grey or palette image."""
    samples = page.samplesperpixel - len(page.extrasamples)
    colours = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, PALETTE: 1, RGB: 3, YCBCR: 3}
    return page.dtype == np.uint8 and page.bitspersample == 8 and colours.get(int(page.photometric)) == samples


def _refuse_other_than_8_bit(page: TiffPage, name: str) -> None:
    if not is_8_bit_colour(page):
        found = f"{page.bitspersample}-bit {getattr(page.photometric, 'name', page.photometric)}"
        channels = f"{page.samplesperpixel} channel{'s' if page.samplesperpixel != 1 else ''}"
        msg = f"expected 8-bit RGB brightfield, found {found} with {channels} in {name}; export it as 8-bit RGB"
        raise ImageError(msg)


def _decoder(page: TiffPage, name: str) -> Decode:
    page_decode = page.decode
    try:
        page_decode(None, 0)  # without bytes a decoder only says whether it exists
    except (ValueError, NotImplementedError) as error:
        msg = f"expected a TIFF compression that can be decoded here, found {name}: {error}"
        raise ForeignTiffError(msg) from error
    options: dict[str, Any] = {} if page.jpegtables is None else {"jpegtables": page.jpegtables}

    def decode(data: bytes, index: int) -> NDArray[np.uint8]:
        samples: NDArray[np.uint8] = np.asarray(page_decode(data, index, **options)[0], dtype=np.uint8)[0]  # depth 0
        return samples

    return decode


def _split_single_strip(image: TiffImage, page: TiffPage) -> TiffImage:
    """Return the image with strips of a few rows where all its bytes lie in one uncompressed strip.

    Python and ImageJ write TIFF like this; decoded as it stands, the strip is the whole image in memory.
    """
    samples = 1 if image.planes > 1 else page.samplesperpixel
    row_bytes = image.width * samples
    rows = max(1, _VIRTUAL_STRIP_BYTES // row_bytes)
    plain = page.compression == _UNCOMPRESSED and page.predictor == 1 and page.fillorder == 1 and not page.is_tiled
    whole = image.segment_height == image.height > rows and image.byte_counts.min() >= row_bytes * image.height
    if not (plain and whole):
        return image
    starts = np.arange(0, image.height, rows)
    heights = np.minimum(rows, image.height - starts)

    def decode(data: bytes, index: int) -> NDArray[np.uint8]:
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, image.width, samples)

    return TiffImage(
        width=image.width,
        height=image.height,
        segment_width=image.width,
        segment_height=rows,
        planes=image.planes,
        offsets=(image.offsets[:, None] + starts * row_bytes).ravel(),
        byte_counts=np.tile(heights * row_bytes, image.planes),
        decode=decode,
        to_rgb=image.to_rgb,
    )


def _rgb_converter(page: TiffPage, name: str) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return the function from samples to RGB over white for this page's colour model."""
    photometric = int(page.photometric)
    colours = page.samplesperpixel - len(page.extrasamples)
    alpha = int(page.extrasamples[0]) if page.extrasamples else None
    separate = page.planarconfig == _PLANAR_SEPARATE
    ycbcr = page.compression == APERIO_JPEG2000_YCBCR or (
        photometric == YCBCR and (separate or page.compression not in _CODEC_GIVES_RGB)
    )
    palette = _palette(page, name) if photometric == PALETTE else None

    def to_rgb(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
        rgb = samples[..., :colours]
        if palette is not None:
            rgb = palette[rgb[..., 0]]
        elif photometric == WHITE_IS_ZERO:
            rgb = WHITE - rgb
        elif ycbcr:
            rgb = rgb_from_ycbcr(rgb)
        if alpha in (_ALPHA, _ALPHA_PREMULTIPLIED):
            rgb = over_white(rgb, samples[..., colours : colours + 1], premultiplied=alpha == _ALPHA_PREMULTIPLIED)
        # A copy where the samples are grey (one channel seen three times) or a view of a larger buffer.
        return np.array(np.broadcast_to(rgb, (*rgb.shape[:2], 3)))

    return to_rgb


def _palette(page: TiffPage, name: str) -> NDArray[np.uint8]:
    if page.colormap is None or page.colormap.shape != (3, 256):
        msg = f"expected a palette of 256 colours, found none in {name}; export it as 8-bit RGB"
        raise ImageError(msg)
    return np.asarray(page.colormap.T >> 8, dtype=np.uint8)
