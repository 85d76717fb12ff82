"""Pixels brought to what the rest of the package sees: 8-bit RGB over white."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

WHITE: Final = 255


def over_white(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], *, premultiplied: bool = False) -> NDArray[np.uint8]:
    """Return ``rgb`` laid over white; ``alpha`` is (..., 1)."""
    if alpha.min() == WHITE:
        return rgb
    opacity = alpha.astype(np.float32) / WHITE
    colour = rgb.astype(np.float32) * (1.0 if premultiplied else opacity)
    return np.asarray(np.clip(np.rint(colour + WHITE * (1 - opacity)), 0, WHITE), dtype=np.uint8)


def rgb_from_ycbcr(ycbcr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB of full-range YCbCr (ITU-R BT.601, as in JFIF); (..., 3) uint8."""
    luma = ycbcr[..., 0].astype(np.float32)
    blue = ycbcr[..., 1].astype(np.float32) - 128
    red = ycbcr[..., 2].astype(np.float32) - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    return np.asarray(np.clip(np.rint(rgb), 0, WHITE), dtype=np.uint8)
