"""Colour, stain and texture statistics of square windows: an encoder without weights.

Every pixel gets some thirty numbers (optical densities and their products, stain concentrations, soft histograms,
differences of Gaussians); a window's features are means, standard deviations and covariances of those over the window.
Sums over windows come from summed-area tables (Crow 1984, doi 10.1145/800031.808600), so that the price is one pass
over the image however many nuclei lie in it. Windows are clipped at the edge of the slide: a mean over what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.models.encoders import COLOUR, EncoderCard, card_fingerprint
from stimage_qupath.results import stop_if
from stimage_qupath.slide.stain import hematoxylin_eosin, optical_density

if TYPE_CHECKING:
    import torch

    from stimage_qupath.results import CancelCheck

MPP = 1.0
WINDOWS_UM = (100, 250, 400)
"""A spot, its neighbourhood, the surrounding tissue compartment."""
FILTER_REACH_PX = 26
"""How far the widest Gaussian (sigma 6, cut at 4 sigma) looks beyond a window, with rounding."""
HEMATOXYLIN_STEPS = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
EOSIN_STEPS = (0.02, 0.05, 0.1, 0.15, 0.25)
GLASS_BELOW_OD = 0.06
"""Mean optical density under which a pixel is bare glass."""
BASE = 5
"""Red, green, blue optical density, haematoxylin, eosin: those get mean and standard deviation."""
RGB_PAIRS = ((0, 1), (0, 2), (1, 2))
INDICATORS = len(HEMATOXYLIN_STEPS) + len(EOSIN_STEPS) + 1
TEXTURES = 6
PER_WINDOW = 2 * BASE + len(RGB_PAIRS) + INDICATORS + TEXTURES


class ColourEncoder:
    """Window statistics of colour, stain and texture, (place, 3 windows x 31)."""

    card = EncoderCard(
        name=COLOUR,
        source="window statistics computed from the pixels; no weights",
        licence="GPL-3.0-or-later",
        gated=False,
        mpp=MPP,
        tile_px=max(WINDOWS_UM) + 2 * FILTER_REACH_PX,
        width=len(WINDOWS_UM) * PER_WINDOW,
        pads_edges=False,
    )

    def fingerprint(self) -> str:
        """Return what the features depend on: there are no weights, so the card alone."""
        return card_fingerprint(self.card)

    def encode(
        self,
        image: NDArray[np.uint8],
        centres: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck,
    ) -> NDArray[np.float32]:
        """Return window statistics; see :class:`stimage_qupath.models.encoders.Encoder`."""
        stop_if(cancelled)
        corners = [window_corners(centres, side, image.shape[:2]) for side in WINDOWS_UM]
        means = np.stack([_window_means(channel, corners) for channel in pixel_maps(image)], axis=-1)
        return np.concatenate([window_features(means[window]) for window in range(len(corners))], axis=1)


def pixel_maps(image: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """Yield each pixel map in turn, (height, width); one is alive at a time."""
    density = optical_density(image)
    hematoxylin, eosin = hematoxylin_eosin(image)
    base = [density[..., 0], density[..., 1], density[..., 2], hematoxylin, eosin]
    yield from base
    for channel in base:
        yield channel * channel
    for a, b in RGB_PAIRS:
        yield base[a] * base[b]
    fine, middle, coarse = (ndimage.gaussian_filter(hematoxylin, sigma) for sigma in (1.0, 2.5, 6.0))
    for step in HEMATOXYLIN_STEPS:
        yield (fine > step).astype(np.float32)
    for step in EOSIN_STEPS:
        yield (eosin > step).astype(np.float32)
    yield (density.mean(axis=-1) < GLASS_BELOW_OD).astype(np.float32)
    yield np.abs(hematoxylin - fine)
    yield np.abs(fine - middle)
    yield np.abs(middle - coarse)
    yield np.maximum(middle - coarse, 0)
    eosin_middle, eosin_coarse = (ndimage.gaussian_filter(eosin, sigma) for sigma in (2.5, 6.0))
    yield np.abs(eosin - eosin_middle)
    yield np.abs(eosin_middle - eosin_coarse)


def window_corners(centres: NDArray[np.float64], side: int, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return left, top, right, bottom of each window, clipped to the image and at least one pixel, (4, place)."""
    height, width = shape
    left, top = np.floor(centres.T - side / 2 + 0.5)
    x0, x1 = np.clip(left, 0, width - 1), np.clip(left + side, 1, width)
    y0, y1 = np.clip(top, 0, height - 1), np.clip(top + side, 1, height)
    return np.stack([x0, y0, np.maximum(x1, x0 + 1), np.maximum(y1, y0 + 1)]).astype(np.intp)


def _window_means(channel: NDArray[np.float32], corners: list[NDArray[np.intp]]) -> NDArray[np.float64]:
    """Return the mean of ``channel`` in each window, (window size, place)."""
    table = np.zeros((channel.shape[0] + 1, channel.shape[1] + 1))
    np.cumsum(channel, axis=0, dtype=np.float64, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    means = []
    for x0, y0, x1, y1 in corners:
        total = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        means.append(total / ((x1 - x0) * (y1 - y0)))
    return np.stack(means)


def window_features(means: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn raw moments of one window size, (place, channel), into features, (place, 31)."""
    first, second = means[:, :BASE], means[:, BASE : 2 * BASE]
    spread = np.sqrt(np.maximum(second - first**2, 0))
    pairs = means[:, 2 * BASE : 2 * BASE + len(RGB_PAIRS)]
    covariances = pairs - np.stack([first[:, a] * first[:, b] for a, b in RGB_PAIRS], axis=1)
    rest = means[:, 2 * BASE + len(RGB_PAIRS) :]
    return np.concatenate([first, spread, covariances, rest], axis=1).astype(np.float32)
