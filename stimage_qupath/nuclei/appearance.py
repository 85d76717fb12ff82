"""How nuclei and the rim around each are stained: what the eye tells cell types by, besides shape.

Each number is a mean or a standard deviation over the pixels of a nucleus, or over a ring of 3 um outside it, where the
cytoplasm is. Every ring is whole: what lies in it of a neighbour says how crowded the cells are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon as pixels_inside

from stimage_qupath.slide.stain import hematoxylin_eosin, optical_density

MPP: Final = 0.5
"""Pixel size that appearance is measured at, um."""
RING_UM: Final = 3.0
"""Width of the ring: the cytoplasm of a lymphocyte is thinner, that of a carcinoma cell wider."""
GRAIN_UM: Final = 1.0
"""Size from which on chromatin counts as grain: deviations from a Gaussian of this sigma."""
CHANNELS: Final = ("red", "green", "blue", "hematoxylin", "eosin", "grain")
WIDTH: Final = 4 * len(CHANNELS)
"""Mean and standard deviation of each channel in the nucleus, then in the ring."""
MARGIN_PX: Final = 64
"""Beyond a centroid: half of the largest nuclei, 50 um, and the ring."""


def appearance(image: NDArray[np.uint8], outlines: NDArray[np.object_]) -> NDArray[np.float32]:
    """Measure nuclei of an image.

    Parameters
    ----------
    image
        (row, col, 3) uint8 at :data:`MPP`.
    outlines
        (nucleus,) shapely Polygons in pixels of the image; what lies outside it is not measured.

    Returns
    -------
    ndarray
        (nucleus, :data:`WIDTH`) float32, finite: means, then standard deviations of :data:`CHANNELS` over the nucleus,
        then the same over the ring.
    """
    channels = _channels(image)
    height, width = image.shape[:2]
    wider = shapely.buffer(outlines, RING_UM / MPP)
    inside = [_pixels(outline, (height, width)) for outline in outlines]
    around = [np.setdiff1d(_pixels(w, (height, width)), i) for w, i in zip(wider, inside, strict=True)]
    return np.concatenate([_moments(channels, inside), _moments(channels, around)], axis=1)


def _channels(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the values of each pixel, (channel, pixel)."""
    density = optical_density(image)
    hematoxylin, eosin = hematoxylin_eosin(image)
    grain = np.abs(hematoxylin - ndimage.gaussian_filter(hematoxylin, GRAIN_UM / MPP))
    found = np.stack([*np.moveaxis(density, -1, 0), hematoxylin, eosin, grain])
    return found.reshape(len(CHANNELS), -1).astype(np.float64)


def _pixels(outline: shapely.Polygon, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Return the flat indices of the pixels whose middle lies in the outline, at least one near its own middle."""
    xy = shapely.get_coordinates(shapely.get_exterior_ring(outline)) - 0.5  # pixel (i, j) is centred half a pixel on
    rows, columns = pixels_inside(xy[:, 1], xy[:, 0], shape=shape)  # type: ignore[no-untyped-call]
    if len(rows):
        return np.asarray(rows * shape[1] + columns)
    x, y = np.clip(xy.mean(axis=0).round().astype(int), 0, (shape[1] - 1, shape[0] - 1)).tolist()
    return np.array([y * shape[1] + x])


def _moments(channels: NDArray[np.float64], pixels: list[NDArray[np.intp]]) -> NDArray[np.float32]:
    """Return mean and standard deviation of each channel over each set of pixels, (set, 2 x channel); 0 for none."""
    if not pixels:
        return np.empty((0, 2 * len(channels)), dtype=np.float32)
    sizes = np.array([len(some) for some in pixels])
    values = channels[:, np.concatenate(pixels)]
    group = np.repeat(np.arange(len(pixels)), sizes)
    n = np.maximum(sizes, 1)
    mean = np.stack([np.bincount(group, row, minlength=len(pixels)) / n for row in values])
    centred = values - mean[:, group]
    variance = np.stack([np.bincount(group, row * row, minlength=len(pixels)) / n for row in centred])
    return np.concatenate([mean, np.sqrt(variance)]).T.astype(np.float32)
