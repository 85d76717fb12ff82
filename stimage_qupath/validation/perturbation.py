"""What happens to slides in other laboratories, done on purpose: blur, another stain, compression.

Each change is a function from an image at a known pixel size to an image of the same size, and
:class:`PerturbedSlide` applies it to a slide as it is read, level by level, so that a pixel does not depend on the
region it is read in. A change of scale is none of pixels: the slide is read with a wrong pixel size instead.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.stain import RUIFROK_JOHNSTON, optical_density
from stimage_qupath.slide.view import SlideView

Pixels = NDArray[np.uint8]

BLUR_UM: Final = (1.0, 2.0, 4.0)
STAIN_SHIFT: Final = (0.05, 0.1, 0.2)
JPEG_QUALITY: Final = 30
SCALE: Final = 1.5
JPEG_BLOCK_PX: Final = 8
TRUNCATE: Final = 4.0
"""Standard deviations at which the Gaussian is cut."""


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One change at one strength.

    Attributes
    ----------
    kind
        ``blur``, ``stain``, ``jpeg`` or ``scale``.
    strength
        In words, with its unit.
    strongest
        Whether it is the strongest of its kind, which an OOD score has to find.
    change
        ``(pixels, um per pixel) -> pixels``, or None for ``scale``.
    reach_um
        How far a pixel looks around itself.
    scale
        Factor by which structures look larger.
    """

    kind: str
    strength: str
    strongest: bool
    change: Callable[[Pixels, float], Pixels] | None = None
    reach_um: float = 0.0
    scale: float = 1.0

    @property
    def name(self) -> str:
        """Kind and strength."""
        return f"{self.kind} {self.strength}"


def perturbations(kind: str) -> tuple[Perturbation, ...]:
    """Return the strengths of one kind, the weakest first.

    Raises
    ------
    ValueError
        There is no such kind.
    """
    if kind not in KINDS:
        msg = f"expected a perturbation out of {', '.join(KINDS)}, found '{kind}'"
        raise ValueError(msg)
    if kind == "scale":
        return (Perturbation("scale", f"x{SCALE:g}", True, scale=SCALE),)
    if kind == "jpeg":
        return (Perturbation("jpeg", f"quality {JPEG_QUALITY}", True, partial(_apply_jpeg, quality=JPEG_QUALITY)),)
    if kind == "blur":
        return tuple(
            Perturbation("blur", f"{s:g} um", s == BLUR_UM[-1], partial(_apply_blur, sigma_um=s), (TRUNCATE + 1) * s)
            for s in BLUR_UM
        )
    return tuple(
        Perturbation("stain", f"{s:g}", s == STAIN_SHIFT[-1], partial(_apply_stain, shift=s)) for s in STAIN_SHIFT
    )


KINDS: Final = ("stain", "blur", "jpeg", "scale")


def blur(pixels: Pixels, *, sigma_px: float) -> Pixels:
    """Return the image through a Gaussian; what lies beyond its border looks as the border does."""
    soft = ndimage.gaussian_filter(
        pixels.astype(np.float32), (sigma_px, sigma_px, 0), mode="nearest", truncate=TRUNCATE
    )
    return np.asarray(np.rint(soft), dtype=np.uint8)


def shift_stain(pixels: Pixels, *, shift: float) -> Pixels:
    """Return the image with ``shift`` more hematoxylin and less eosin, in optical density.

    ``OD + shift (v_H - v_E)`` with the stain vectors of Ruifrok and Johnston, of length 1; glass takes on the colour
    too, as it does under another lamp.
    """
    vectors = RUIFROK_JOHNSTON[:2] / np.linalg.norm(RUIFROK_JOHNSTON[:2], axis=1, keepdims=True)
    density = optical_density(pixels) + (shift * (vectors[0] - vectors[1])).astype(np.float32)
    return np.asarray(np.clip(np.rint(255 * 10.0**-density), 0, 255), dtype=np.uint8)


def compress(pixels: Pixels, *, quality: int) -> Pixels:
    """Return the image through JPEG without chroma subsampling, whose blocks of 8 px do not depend on each other."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file).convert("RGB"))


def _apply_blur(pixels: Pixels, mpp: float, *, sigma_um: float) -> Pixels:
    return blur(pixels, sigma_px=sigma_um / mpp)


def _apply_stain(pixels: Pixels, mpp: float, *, shift: float) -> Pixels:
    return shift_stain(pixels, shift=shift)


def _apply_jpeg(pixels: Pixels, mpp: float, *, quality: int) -> Pixels:
    return compress(pixels, quality=quality)


class PerturbedSlide(SlideView):
    """A slide whose pixels went through a change.

    Parameters
    ----------
    source
        Open slide.
    perturbation
        Not of the kind ``scale``.
    mpp
        um per level-0 pixel.
    """

    def __init__(self, source: Slide, perturbation: Perturbation, *, mpp: float) -> None:
        if perturbation.change is None:
            msg = f"expected a change of pixels, found '{perturbation.name}'; read the slide at another pixel size"
            raise ValueError(msg)
        own = None if source.mpp_x is None or source.mpp_y is None else (source.mpp_x, source.mpp_y)
        super().__init__(source, levels=source.levels, mpp_xy=own, change=f"perturb {perturbation.name}")
        self._perturb = perturbation.change
        self._reach_um = perturbation.reach_um
        self._mpp = mpp

    def _block_shape(self, level: int) -> tuple[int, int]:
        return self._source._block_shape(level)

    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> Pixels:
        shape = self.levels[level]
        mpp = self._mpp * shape.downsample_x
        reach = math.ceil(self._reach_um / mpp)
        # Whole JPEG blocks from the level's corner on, so that every read compresses the same ones.
        left, top = max(_block_before(x - reach), 0), max(_block_before(y - reach), 0)
        right = min(-_block_before(-(x + width + reach)), shape.width)
        bottom = min(-_block_before(-(y + height + reach)), shape.height)
        wide = self._source._read_inside(level, left, top, width=right - left, height=bottom - top)
        changed = self._perturb(wide, mpp)
        return np.ascontiguousarray(changed[y - top : y - top + height, x - left : x - left + width])


def _block_before(pixel: int) -> int:
    """Return the last corner of a JPEG block at or before a pixel."""
    return pixel // JPEG_BLOCK_PX * JPEG_BLOCK_PX
