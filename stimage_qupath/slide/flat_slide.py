"""PNG, JPEG and BMP: one level, decoded whole when it is opened."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin

from stimage_qupath.errors import ImageError
from stimage_qupath.slide.base import Level, Slide
from stimage_qupath.slide.colour import WHITE

# The plugins are called by themselves: Image.open would also refuse images of more than 179 Mpx, which whole sections
# are, by a limit that is one setting for the whole process.
_PLUGINS: Final[dict[bytes, Callable[[io.BytesIO], Image.Image]]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
# What Pillow's plugins raise on damaged bytes.
_MALFORMED: Final = (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, struct.error, zlib.error)
_MOST_PX: Final = 2**30  # 3 GiB of RGB
_DEEP_MODES: Final = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_PNG_END: Final = b"IEND\xaeB`\x82"  # the last chunk, always empty, so its checksum is always this
_JPEG_START_OF_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


def is_flat(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is PNG, JPEG or BMP."""
    return any(head.startswith(magic) for magic in _PLUGINS)


class FlatSlide(Slide):
    """A flat image; transparent pixels lie over white.

    It states no pixel size (dots per inch are of a screen), and a JPEG's EXIF orientation is ignored, as QuPath does.

    Parameters
    ----------
    path
        File.

    Raises
    ------
    ImageError
        If the file is damaged, cut short anywhere, has 16-bit pixels, or more than 2^30 of them.
    """

    reader = "flat"

    def __init__(self, path: Path) -> None:
        self._pixels = _decode(path)
        height, width = self._pixels.shape[:2]
        super().__init__(path, levels=(Level(width, height, 1.0, 1.0),), mpp_xy=None)

    @property
    def read_tiles(self) -> int:
        """One: the image was decoded whole."""
        return 1

    @property
    def bad_tiles(self) -> int:
        """None: a damaged image is not opened."""
        return 0

    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        return self._pixels[y : y + height, x : x + width].copy()

    def close(self) -> None:
        """Let go of the pixels; reading afterwards is a ValueError."""
        super().close()
        self._pixels = np.empty((0, 0, 3), dtype=np.uint8)


def _decode(path: Path) -> NDArray[np.uint8]:
    data = path.read_bytes()
    plugin = next((plugin for magic, plugin in _PLUGINS.items() if data.startswith(magic)), None)
    try:
        if plugin is None or _ends_early(data):
            msg = "it ends before its last pixel"
            raise OSError(msg)
        with plugin(io.BytesIO(data)) as image:
            _refuse_unsuitable(image, path.name)
            return _rgb_over_white(image)
    except _MALFORMED as error:
        msg = f"expected a whole PNG, JPEG or BMP, found {path.name} damaged or truncated ({error}); copy it again"
        raise ImageError(msg) from error


def _ends_early(data: bytes) -> bool:
    """Return whether the last bytes of a JPEG or PNG are missing, which a decoder may forgive.

    Neither of a JPEG's markers can occur inside its compressed scan, where 0xFF is followed by 0x00 or a restart.
    """
    if data.startswith(_JPEG_START_OF_SCAN[:1]):
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_START_OF_SCAN)
    return data.startswith(b"\x89PNG") and _PNG_END not in data


def _refuse_unsuitable(image: Image.Image, name: str) -> None:
    if image.mode in _DEEP_MODES:
        msg = f"expected 8-bit RGB brightfield, found mode {image.mode} in {name}; export it as 8-bit RGB"
        raise ImageError(msg)
    if image.width * image.height > _MOST_PX:
        msg = f"expected at most 2^30 px in a flat image, found {image.size} in {name}; convert it to a tiled TIFF"
        raise ImageError(msg)


def _rgb_over_white(image: Image.Image) -> NDArray[np.uint8]:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, (WHITE, WHITE, WHITE))
        image.paste(layer, mask=layer.getchannel("A"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
