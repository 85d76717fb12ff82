"""What stands where something was taken away: never black, which no slide shows.

Each fill turns a block into a picture without its nuclei (and, for what lies between, without its detail); a method
copies from it the pixels of what it removes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.errors import UsageError
from stimage_qupath.slide.colour import WHITE
from stimage_qupath.slide.stain import optical_density

Fill: TypeAlias = Callable[[NDArray[np.uint8], NDArray[np.bool_], float], NDArray[np.uint8]]
"""``fill(image, nuclei, mpp)``: (height, width, 3) uint8, (height, width) bool, um per pixel."""

BLUR_UM: Final = 8.0
"""Sigma about a nucleus wide: nuclei dissolve, the compartment stays."""
NEAR_UM: Final = 3.0
"""Sigma of the ring around a nucleus."""
WIDE_UM: Final = 20.0
"""Sigma of the surroundings of the tissue between nuclei."""
GLASS_BELOW_OD: Final = 0.06
"""Mean optical density under which a pixel is bare glass."""


def inpainted(image: NDArray[np.uint8], nuclei: NDArray[np.bool_], mpp: float) -> NDArray[np.uint8]:
    """Return nuclei replaced by what surrounds them, and the tissue between by the mean of its surroundings.

    Both are means over pixels outside nuclei under a Gaussian (normalised convolution; Knutsson and Westin 1993, doi
    10.1109/CVPR.1993.341081); where the near Gaussian sees none the wide one serves.
    """
    outside = (~nuclei).astype(np.float32)
    near = _masked_mean(image, outside, NEAR_UM / mpp)
    wide = _masked_mean(image, outside, WIDE_UM / mpp)
    wide = np.where(np.isnan(wide), np.float32(image.reshape(-1, 3).mean(axis=0)), wide)
    near = np.where(np.isnan(near), wide, near)
    return _bytes(np.where(nuclei[..., None], near, wide))


def blurred(image: NDArray[np.uint8], nuclei: NDArray[np.bool_], mpp: float) -> NDArray[np.uint8]:
    """Return the block under a Gaussian, nuclei and all."""
    return _bytes(_gaussian(image.astype(np.float32), BLUR_UM / mpp))


def mean_stain(image: NDArray[np.uint8], nuclei: NDArray[np.bool_], mpp: float) -> NDArray[np.uint8]:
    """Return one colour: the mean optical density of what is not bare glass."""
    density = optical_density(image)
    tissue = density[density.mean(axis=-1) >= GLASS_BELOW_OD]
    mean = tissue.mean(axis=0) if len(tissue) else np.zeros(3)
    return np.broadcast_to(_bytes(WHITE * 10.0**-mean), image.shape)


def white(image: NDArray[np.uint8], nuclei: NDArray[np.bool_], mpp: float) -> NDArray[np.uint8]:
    """Return glass."""
    return np.full_like(image, WHITE)


FILLS: Final[dict[str, Fill]] = {"inpainted": inpainted, "blurred": blurred, "mean_stain": mean_stain, "white": white}


def choose_fill(name: str) -> Fill:
    """Return the fill called ``name``; UsageError names those there are."""
    if name not in FILLS:
        msg = f"expected a fill out of {', '.join(FILLS)}, found '{name}'; black is not offered: no slide shows it"
        raise UsageError(msg)
    return FILLS[name]


def _masked_mean(image: NDArray[np.uint8], mask: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Return the mean of masked pixels under a Gaussian, NaN where there is next to none."""
    share = ndimage.gaussian_filter(mask, sigma)
    total = _gaussian(image * mask[..., None], sigma)
    enough = share > 1e-3
    return np.where(enough[..., None], total / np.where(enough, share, 1)[..., None], np.float32(np.nan))


def _gaussian(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(image, (sigma, sigma, 0)))


def _bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)
