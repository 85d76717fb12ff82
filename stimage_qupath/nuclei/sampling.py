"""Samples of the tissue of a slide, for what has to be measured once for all of it.

They depend on the slide alone: never on the regions that somebody selected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.stain import optical_density

TISSUE_OD: Final = 0.12
"""Mean optical density above which a pixel is tissue: three quarters of white let through."""

_OVERVIEW_UM: Final = 16.0  # pixel of the overview in which windows are chosen
_WINDOW: Final = 8  # side of a window, overview pixels (128 µm)
_LEAST_TISSUE: Final = 0.1  # share of a window
_MOST_WINDOWS: Final = 64


def tissue_samples(
    slide: Slide, *, mpp: float, working_mpp: float
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield windows of tissue at a working pixel size, at most 64, spread evenly over the slide.

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
    is_tissue : numpy.ndarray
        (row, col) bool.
    """
    step = _WINDOW * _OVERVIEW_UM / mpp  # side of a window, level-0 px
    size = round(_WINDOW * _OVERVIEW_UM / working_mpp)
    for row, col in _chosen(slide, mpp=mpp):
        rgb = slide.read_region(col * step, row * step, width=size, height=size, downsample=working_mpp / mpp)
        yield rgb, _is_tissue(rgb)


def _chosen(slide: Slide, *, mpp: float) -> Iterator[tuple[int, int]]:
    """Yield row and column of the windows."""
    downsample = _OVERVIEW_UM / mpp
    rows = math.ceil(slide.height / downsample / _WINDOW)
    cols = math.ceil(slide.width / downsample / _WINDOW)
    overview = slide.read_region(0, 0, width=cols * _WINDOW, height=rows * _WINDOW, downsample=downsample)
    share = _is_tissue(overview).reshape(rows, _WINDOW, cols, _WINDOW).mean(axis=(1, 3))
    windows = np.argwhere(share >= _LEAST_TISSUE)
    kept = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _MOST_WINDOWS)).round().astype(np.intp))
    yield from windows[kept].tolist()


def _is_tissue(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(optical_density(rgb).mean(axis=-1) > TISSUE_OD)
