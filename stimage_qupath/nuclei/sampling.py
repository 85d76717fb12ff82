"""Samples of the tissue of a slide, for what has to be measured once for all of it.

They depend on the slide alone: never on the regions that somebody selected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.regions.tissue_mask import tissue_mask
from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.stain import optical_density

STAINED_OD: Final = 0.05
"""Mean optical density above which a pixel is stained: less than nine tenths of white let through."""

_WINDOW_UM: Final = 128.0
_MOST_WINDOWS: Final = 64
_LEAST_TISSUE: Final = 0.1  # share of a window
_FINEST: Final = 16  # overview pixels along a window: 8 µm each
_LARGEST_OVERVIEW_PX: Final = 8192  # beyond 65 mm the pixel size is wrong, and the overview gets coarser
_LEAST_PIECE_UM2: Final = 4_000.0
_LARGEST_HOLE_UM2: Final = 100_000.0


def tissue_samples(
    slide: Slide, *, mpp: float, working_mpp: float
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield windows of tissue at a working pixel size, at most 64, spread evenly over the slide.

    Where the slide has nothing that looks like H&E, windows are chosen wherever there is any stain.

    Parameters
    ----------
    slide
        Open slide.
    mpp
        Level-0 pixel size, µm.
    working_mpp
        Pixel size of the windows, µm.

    Yields
    ------
    rgb : numpy.ndarray
        (row, col, 3) uint8.
    is_stained : numpy.ndarray
        (row, col) bool.
    """
    step = _WINDOW_UM / mpp  # side of a window, level-0 px
    size = round(_WINDOW_UM / working_mpp)
    for row, col in _chosen(slide, step=step, mpp=mpp):
        rgb = slide.read_region(col * step, row * step, width=size, height=size, downsample=working_mpp / mpp)
        yield rgb, is_stained(rgb)


def _chosen(slide: Slide, *, step: float, mpp: float) -> list[tuple[int, int]]:
    """Return row and column of the windows."""
    rows, cols = math.ceil(slide.height / step), math.ceil(slide.width / step)
    fine = min(_FINEST, max(1, _LARGEST_OVERVIEW_PX // max(rows, cols)))
    overview = slide.read_region(0, 0, width=cols * fine, height=rows * fine, downsample=step / fine)
    mask = tissue_mask(overview, mpp=_WINDOW_UM / fine, min_area_um2=_LEAST_PIECE_UM2, max_hole_um2=_LARGEST_HOLE_UM2)
    for candidate in (mask, is_stained(overview)):
        share = candidate.reshape(rows, fine, cols, fine).mean(axis=(1, 3))
        windows = np.argwhere(share >= _LEAST_TISSUE)
        if len(windows):
            break
    kept = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _MOST_WINDOWS)).round().astype(np.intp))
    return [(row, col) for row, col in windows[kept].tolist()]


def is_stained(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels are stained, (row, col) bool."""
    return np.asarray(optical_density(rgb).mean(axis=-1) > STAINED_OD)
