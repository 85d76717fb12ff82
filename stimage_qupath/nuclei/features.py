"""Shape and stain of nuclei, under QuPath's own names."""

from __future__ import annotations

from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.slide.stain import hematoxylin_eosin

PLAUSIBLE_DIAMETER_UM: Final = (4.0, 20.0)
"""Median nucleus of any tissue: a resting lymphocyte has 6 µm, a large carcinoma nucleus 18 µm."""


def shape_measurements(polygons: NDArray[np.object_], *, mpp: float) -> dict[str, NDArray[np.float32]]:
    """Measure outlines.

    Circularity is 4 pi area / length^2 and solidity area / area of the convex hull; both are 1 for a disc. The largest
    diameter is the greatest distance of two vertices, the smallest is the least distance of two parallel lines that
    hold the nucleus between them (largest and smallest calliper).

    Parameters
    ----------
    polygons
        (nucleus,) shapely Polygons, level-0 px.
    mpp
        Level-0 pixel size, µm.

    Returns
    -------
    dict
        Name (see :mod:`stimage_qupath.names`) to (nucleus,) float32, finite.
    """
    area, length = shapely.area(polygons), shapely.length(polygons)
    hulls = shapely.convex_hull(polygons)
    largest, smallest = _callipers(hulls)
    measured = {
        names.AREA: area * mpp**2,
        names.LENGTH: length * mpp,
        names.CIRCULARITY: 4 * np.pi * area / length**2,
        names.SOLIDITY: area / shapely.area(hulls),
        names.MAX_DIAMETER: largest * mpp,
        names.MIN_DIAMETER: smallest * mpp,
    }
    return {name: np.asarray(values, dtype=np.float32) for name, values in measured.items()}


def stain_measurements(
    rgb: NDArray[np.uint8], labels: NDArray[np.int32], values: NDArray[np.int32]
) -> dict[str, NDArray[np.float32]]:
    """Return the mean optical density of haematoxylin and eosin over the pixels of each nucleus.

    Parameters
    ----------
    rgb
        (row, col, 3) uint8.
    labels
        (row, col) int32, 0 is background.
    values
        (nucleus,) labels to measure; each occurs in ``labels``.

    Returns
    -------
    dict
        Name (see :mod:`stimage_qupath.names`) to (nucleus,) float32, finite.
    """
    where = np.flatnonzero(labels)
    label = labels.ravel()[where]
    pixels = np.bincount(label)[values]
    stains = zip((names.HEMATOXYLIN_MEAN, names.EOSIN_MEAN), hematoxylin_eosin(rgb.reshape(-1, 3)[where]), strict=True)
    return {name: (np.bincount(label, weights=density)[values] / pixels).astype(np.float32) for name, density in stains}


def diameter_warning(median_um: float, mpp: float) -> str | None:
    """Return what to tell the user when nuclei are so large or small that the pixel size must be wrong.

    Parameters
    ----------
    median_um
        Median over nuclei of the diameter of the disc of equal area, µm.
    mpp
        Level-0 pixel size that was used, µm.

    Returns
    -------
    str or None
        One sentence, or None when 4 to 20 µm.
    """
    least, most = PLAUSIBLE_DIAMETER_UM
    if least <= median_um <= most:
        return None
    return (
        f"expected nuclei of {least:g} to {most:g} µm median diameter, found {median_um:.1f} µm at a pixel size of "
        f"{mpp:.4g} µm; check the pixel size of the image or give the right one with --mpp"
    )


def _callipers(hulls: NDArray[np.object_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return largest and smallest calliper of convex polygons.

    Hulls with equally many vertices are measured together, every vertex against every side.
    """
    largest, smallest = np.zeros(len(hulls)), np.zeros(len(hulls))
    vertices = shapely.get_num_coordinates(hulls)
    for count in np.unique(vertices):
        alike = np.flatnonzero(vertices == count)
        xy = shapely.get_coordinates(hulls[alike]).reshape(len(alike), count, 2)
        corners, sides = xy[:, :-1], np.diff(xy, axis=1)
        between = corners[:, :, None] - corners[:, None]  # (hull, to, from, 2)
        largest[alike] = np.hypot(between[..., 0], between[..., 1]).max(axis=(1, 2))
        cross = sides[:, None, :, 0] * between[..., 1] - sides[:, None, :, 1] * between[..., 0]
        height = np.abs(cross).max(axis=1) / np.hypot(sides[..., 0], sides[..., 1])
        smallest[alike] = height.min(axis=1)
    return largest, smallest
