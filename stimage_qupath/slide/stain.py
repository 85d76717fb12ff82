"""Optical density, and how much hematoxylin and eosin each pixel holds.

Light that passes a stain of concentration c is weakened to ``I = background * 10^(-c v)`` per colour, with ``v`` the
stain's optical densities in red, green and blue (Beer-Lambert). The densities of several stains add up, so the
concentrations are those of a linear system of three stains in three colours.

References
----------
A. C. Ruifrok and D. A. Johnston. Quantification of histochemical staining by color deconvolution. Analytical and
Quantitative Cytology and Histology 23:291-299, 2001.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

RUIFROK_JOHNSTON: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""(stain, colour) densities of hematoxylin, eosin and DAB; as published, not normalised."""

_DENSITY_TO_STAIN: Final = np.linalg.inv(RUIFROK_JOHNSTON)
_NEGATIVE_LOG10: Final = -np.log10(np.maximum(np.arange(256), 1)).astype(np.float32)


def optical_density(rgb: NDArray[np.uint8], background: ArrayLike = 255) -> NDArray[np.float32]:
    """Return ``-log10(intensity / background)`` of each colour.

    Parameters
    ----------
    rgb
        (..., 3) uint8. Black counts as the darkest grey level above it, since its density would be infinite.
    background
        Intensity where nothing is stained: one number, or one for each colour.

    Returns
    -------
    numpy.ndarray
        (..., 3) float32; negative where a pixel is brighter than the background.

    Raises
    ------
    ValueError
        If ``rgb`` is not (..., 3) uint8 or the background is not above 0.
    """
    _check(rgb)
    white = np.broadcast_to(np.asarray(background, dtype=np.float64), (3,))
    if not (np.isfinite(white).all() and (white > 0).all()):
        msg = f"expected a background above 0, found {white.tolist()}"
        raise ValueError(msg)
    return _NEGATIVE_LOG10.take(rgb) + np.log10(white).astype(np.float32)


def hematoxylin_eosin(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the concentrations of hematoxylin and eosin by the vectors of Ruifrok and Johnston.

    Parameters
    ----------
    rgb
        (..., 3) uint8.

    Returns
    -------
    tuple of numpy.ndarray
        Hematoxylin and eosin, (...) float32 each, in optical density. Noise and foreign colours may be negative:
        clipped values would make means of pale areas too high.

    Raises
    ------
    ValueError
        If ``rgb`` is not (..., 3) uint8.
    """
    stains = optical_density(rgb) @ _DENSITY_TO_STAIN[:, :2].astype(np.float32)
    return stains[..., 0], stains[..., 1]


def _check(rgb: NDArray[np.uint8]) -> None:
    if rgb.dtype != np.uint8 or rgb.shape[-1:] != (3,):
        msg = f"expected (..., 3) uint8 pixels, found {rgb.shape} {rgb.dtype}"
        raise ValueError(msg)
