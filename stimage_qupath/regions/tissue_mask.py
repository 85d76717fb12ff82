"""Which pixels of a coarse view of an H&E slide are tissue.

Hematoxylin and eosin both take away green most, and one of red and blue clearly less. What is grey (dust, shadow, black
ink, scanner edges) has no such gap; green, cyan and blue ink take away more red than green; red, orange and brown ink
take away about as much blue as green. So the gap between green and the lesser of red and blue, in optical density above
the background, is the signal; Otsu's threshold divides it. The limits were set on seven breast sections of one
laboratory (her2st) and two public slides of other scanners (CMU-1, TCGA-CR-7395).

References
----------
N. Otsu. A threshold selection method from gray-level histograms. IEEE Transactions on Systems, Man, and Cybernetics
9:62-66, 1979.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from stimage_qupath.slide.stain import optical_density

# Optical densities (log10).
_GAP_LIMITS: Final = (0.03, 0.07)  # where Otsu's threshold may lie: above eosin smeared on the glass, below pale stroma
_FAINT_GAP: Final = 0.015  # enough where there is texture, as in fat
_TEXTURE: Final = 0.02  # standard deviation; the smear and the glass have less than half
_SMOOTH: Final = 0.012  # glass at 8 um has less, tissue more
_PALE: Final = 0.25
_DENSE: Final = 0.15  # ink is at least this dense in its densest colour
_DENSEST_RED: Final = 0.8  # dark blue ink has the hue of hematoxylin, but no section is as dense over many pixels
# Ratios of densities.
_MOST_RED: Final = 1.25  # red over green; sections have up to 1.15
_MOST_BLUE: Final = 0.85  # blue over green; sections have up to 0.80
_LEAST_COLOUR: Final = 0.2  # (largest - least) over largest
# Shares and grey levels.
_LEAST_GLASS: Final = 0.01
_BLACK: Final = 25

_BLUR_PX: Final = 1.0
_TEXTURE_WINDOW_PX: Final = 5
_RIM_PX: Final = 2  # mixed pixels between ink or padding and what lies beside
_GAP_CLOSED_UM: Final = 40.0
_SPECK_UM: Final = 16.0
_LEAST_INK_UM2: Final = 3_600.0


def tissue_mask(rgb: NDArray[np.uint8], *, mpp: float, min_area_um2: float, max_hole_um2: float) -> NDArray[np.bool_]:
    """Return which pixels are tissue.

    Parameters
    ----------
    rgb
        (height, width, 3) uint8, at about 8 um per pixel.
    mpp
        um per pixel of ``rgb``.
    min_area_um2
        Pieces of less are dropped.
    max_hole_um2
        Holes of less are filled, but for holes made by ink.

    Returns
    -------
    numpy.ndarray
        (height, width) bool.
    """
    padding, density, texture = _above_glass(rgb)
    gap = density[..., 1] - np.minimum(density[..., 0], density[..., 2])
    foreign = _foreign_colour(density)
    # A window reaches over the edge of what it measures by half its width, which the erosion takes back.
    textured = ndimage.binary_erosion(texture > _TEXTURE, np.ones((_TEXTURE_WINDOW_PX,) * 2), border_value=1)
    tissue = (gap > _threshold(gap[~padding & ~foreign])) | ((gap > _FAINT_GAP) & textured)
    barred = padding | _ink(foreign & (density.max(axis=-1) > _DENSE), mpp)
    tissue = _cleaned(tissue & ~foreign & ~barred, mpp) & ~barred
    tissue |= _small_parts(~tissue, max_hole_um2 / mpp**2) & ~barred
    return tissue & ~_small_parts(tissue, min_area_um2 / mpp**2)


def ink_mask(rgb: NDArray[np.uint8], *, mpp: float) -> NDArray[np.bool_]:
    """Return which pixels are pen strokes or dirt: dense, and of a colour that no mixture of H and E has.

    Parameters
    ----------
    rgb
        (height, width, 3) uint8, at about 8 um per pixel.
    mpp
        um per pixel of ``rgb``.

    Returns
    -------
    numpy.ndarray
        (height, width) bool; black padding around a scan is none.
    """
    padding, density, _ = _above_glass(rgb)
    return _ink(_foreign_colour(density) & (density.max(axis=-1) > _DENSE) & ~padding, mpp) & ~padding


def _above_glass(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Return where the view is black padding, the smooth density above the glass, and the local texture."""
    padding = _grown(ndimage.binary_opening(rgb.max(axis=-1) < _BLACK, _disk(1)), _RIM_PX)
    raw = optical_density(rgb)
    texture = _local_deviation(raw[..., 1])
    background = _background(raw, glass=(texture < _SMOOTH) & (raw[..., 1] < _PALE) & ~padding)
    density = np.maximum(ndimage.gaussian_filter(raw - background, (_BLUR_PX, _BLUR_PX, 0)), 0.0)
    return padding, density, texture


def _background(density: NDArray[np.float32], *, glass: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the density of the empty glass in each colour, 0 where the image shows next to none of it."""
    if glass.mean() < _LEAST_GLASS:
        return np.zeros(3, dtype=np.float32)
    return np.asarray(np.median(density[glass], axis=0), dtype=np.float32)


def _local_deviation(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the standard deviation in a window around each pixel."""
    mean = ndimage.uniform_filter(values, _TEXTURE_WINDOW_PX)
    square = ndimage.uniform_filter(values * values, _TEXTURE_WINDOW_PX)
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0.0)), dtype=np.float32)


def _foreign_colour(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pixels have a colour that no mixture of hematoxylin and eosin has."""
    red, green, blue = np.moveaxis(density, -1, 0)
    largest = density.max(axis=-1)
    grey = largest - density.min(axis=-1) < _LEAST_COLOUR * largest
    return np.asarray((red > _MOST_RED * green) | (blue > _MOST_BLUE * green) | grey | (red > _DENSEST_RED))


def _threshold(gap: NDArray[np.float32]) -> float:
    """Return Otsu's threshold, kept within limits: it also divides what is all glass or all tissue."""
    low, high = _GAP_LIMITS
    if gap.size == 0 or gap.min() == gap.max():
        return low
    return float(np.clip(threshold_otsu(gap), low, high))  # type: ignore[no-untyped-call]


def _ink(foreign: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Return pen strokes and dirt with their rims; single odd pixels, as pigment makes them, are none."""
    solid = ndimage.binary_opening(foreign, _disk(1))
    solid &= ~_small_parts(solid, _LEAST_INK_UM2 / mpp**2)
    return _grown(solid, _RIM_PX)


def _cleaned(mask: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Close gaps, then drop specks; the mask goes on beyond the image as it is at its border."""
    close, speck = max(1, round(_GAP_CLOSED_UM / mpp)), max(1, round(_SPECK_UM / mpp))
    margin = close + speck
    wide = np.pad(mask, margin, mode="edge")
    wide = ndimage.binary_closing(wide, _disk(close))
    wide = ndimage.binary_opening(wide, _disk(speck))
    return np.asarray(wide[margin:-margin, margin:-margin])


def _disk(radius: int) -> NDArray[np.bool_]:
    steps = np.arange(-radius, radius + 1) ** 2
    return np.asarray(np.add.outer(steps, steps) <= radius**2)


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, _disk(pixels)))


def _small_parts(mask: NDArray[np.bool_], area_px: float) -> NDArray[np.bool_]:
    """Return the connected parts (by sides) of less than ``area_px`` pixels."""
    labels, _ = ndimage.label(mask)
    small = np.bincount(labels.ravel()) < area_px
    small[0] = False
    return np.asarray(small[labels])
