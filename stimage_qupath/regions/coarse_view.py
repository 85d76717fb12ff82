"""A whole slide at once, at pixels coarse enough for it."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.slide.base import Slide

COARSE_MPP: Final = 8.0
"""um per pixel at which a slide is small enough, and at which the tissue mask was set up."""
_LARGEST_PX: Final = 8192
"""65 mm at 8 um; more is a wrong pixel size, not a slide, and the view gets coarser."""


def coarse_view(slide: Slide, downsample: float) -> tuple[NDArray[np.uint8], float]:
    """Return the whole slide, (height, width, 3) uint8, and how many level-0 pixels each of its pixels is wide.

    Parameters
    ----------
    slide
        Open slide.
    downsample
        Wanted level-0 px per pixel; at least 1 is taken, and more where the view would be wider than 8192 px.
    """
    downsample = max(1.0, downsample, max(slide.width, slide.height) / _LARGEST_PX)
    width, height = math.ceil(slide.width / downsample), math.ceil(slide.height / downsample)
    return slide.read_region(0, 0, width=width, height=height, downsample=downsample), downsample
