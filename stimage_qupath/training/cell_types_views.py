"""Labelled slides as other laboratories would have stained and scanned them, so that types do not hang on one stain.

The change is the same for every pixel of a view. Another scale is none of pixels: the slide is read with a wrong pixel
size, which changes what is seen through the windows and the sizes of the nuclei alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.slide.reader import Slide
from stimage_qupath.slide.view import SlideView
from stimage_qupath.training.nuclei_augmentation import AugmentationSettings, Stain

AUGMENTATION: Final = AugmentationSettings()
"""As for the training of the nucleus network: scale by up to 1.4, stains by a third."""


class RestainedSlide(SlideView):
    """A slide in other stains; closing it leaves its source open, which other views still read.

    Parameters
    ----------
    source
        Open slide.
    stain
        What is done to each pixel.
    """

    def __init__(self, source: Slide, stain: Stain) -> None:
        mpp = None if source.mpp_x is None or source.mpp_y is None else (source.mpp_x, source.mpp_y)
        super().__init__(source, levels=source.levels, mpp_xy=mpp, change="restained")
        self._stain = stain

    def read_region(self, x: float, y: float, *, width: int, height: int, downsample: float = 1.0) -> NDArray[np.uint8]:
        """Return a region in the other stains; see :meth:`Slide.read_region`."""
        return self._changed(self._source.read_region(x, y, width=width, height=height, downsample=downsample))

    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        return self._changed(self._source._read_inside(level, x, y, width=width, height=height))

    def _changed(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.rint(self._stain.apply(pixels.astype(np.float32))).astype(np.uint8)


def other_views(slide: Slide, mpp: float, *, count: int, seed: int) -> Iterator[tuple[Slide, float]]:
    """Yield the slide in other stains, each with the pixel size to read it with.

    Parameters
    ----------
    slide, mpp
        The slide and its true pixel size.
    count, seed
        Number of views and their seed.
    """
    rng = np.random.default_rng(seed)
    reach = np.log(AUGMENTATION.scale)
    for _ in range(count):
        scale = float(np.exp(rng.uniform(-reach, reach)))
        yield RestainedSlide(slide, Stain.draw(rng, AUGMENTATION)), mpp * scale
