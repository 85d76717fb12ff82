"""Batches of views of annotated images, each with its targets; the same for the same seed, whatever the threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.nuclei.stardist_network import StarDistConfig
from stimage_qupath.nuclei.stardist_segmenter import PERCENTILES
from stimage_qupath.training.nuclei_augmentation import AugmentationSettings, Stain, degraded, view
from stimage_qupath.training.nuclei_dataset import NucleiImage
from stimage_qupath.training.nuclei_restaining import restained
from stimage_qupath.training.nuclei_targets import nuclei_targets

MARGIN_PX: Final = 16  # 8 µm: most of a nucleus that the border of a view cuts
_RANGE_SAMPLE: Final = 4096  # pixels of an image from which its range of intensity is measured
_RANGE_JITTER: Final = 0.04  # SD of either end of that range, as a share of it: slides are measured by samples too


@dataclass(frozen=True, slots=True)
class NucleiBatch:
    """Views and what the network should say of them.

    Attributes
    ----------
    images
        (view, channel, row, col), normalised.
    prob, known
        (view, row, col) on the grid.
    dist
        (view, row, col, ray) on the grid, px.
    """

    images: Tensor
    prob: Tensor
    dist: Tensor
    known: Tensor


@dataclass(frozen=True, slots=True)
class NucleiSampler:
    """Draws views of annotated images.

    Attributes
    ----------
    images
        What there is; an image is drawn in proportion to its area and weight.
    config
        Of the network: rays and grid.
    patch_px
        Side of a view, a multiple of what the network can halve.
    augmentation
        How far views differ from the images.
    seed
        Of all that is drawn.
    """

    images: Sequence[NucleiImage]
    config: StarDistConfig
    patch_px: int
    augmentation: AugmentationSettings
    seed: int

    def __post_init__(self) -> None:
        """Refuse nothing to draw from, and views that the network cannot halve."""
        if not self.images or any(self.patch_px % d for d in self.config.divisor):
            msg = (
                f"expected images, and views of a multiple of {self.config.divisor} px, found {len(self.images)} "
                f"images and {self.patch_px} px"
            )
            raise ValueError(msg)

    def batches(self, count: int, *, size: int, first: int = 0, threads: int = 1) -> Iterator[NucleiBatch]:
        """Yield ``count`` batches of ``size`` views, from view number ``first`` on, a few prepared ahead."""
        share = np.array([image.labels.size * image.weight for image in self.images])
        share = share / share.sum()
        numbers = iter(range(first, first + count * size))
        with ThreadPoolExecutor(threads) as pool:
            ahead = [pool.submit(self._view, n, share) for n in islice(numbers, 3 * size)]
            for _ in range(count):
                views = [future.result() for future in ahead[:size]]
                ahead = ahead[size:] + [pool.submit(self._view, n, share) for n in islice(numbers, size)]
                yield NucleiBatch(*(torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True)))

    def _view(self, number: int, share: NDArray[np.float64]) -> tuple[NDArray[Any], ...]:
        rng = np.random.default_rng([self.seed, number])
        image = self.images[rng.choice(len(self.images), p=share)]
        height, width = image.labels.shape
        source = restained(image.rgb, image.labels, rng=rng) if rng.random() < image.restain else image.rgb
        rgb, labels = view(
            source,
            image.labels,
            centre=(rng.uniform(0, height), rng.uniform(0, width)),
            size=self.patch_px,
            margin=MARGIN_PX,
            rng=rng,
            settings=self.augmentation,
        )
        stain = Stain.draw(rng, self.augmentation)
        low, high = _range(source, stain, rng)
        if self.augmentation.light:
            low, high = np.array([low, high]) + (high - low) * rng.normal(0, _RANGE_JITTER, 2)
        rgb = (degraded(stain.apply(rgb), rng=rng, settings=self.augmentation) - low) / (high - low)
        targets = nuclei_targets(labels, n_rays=self.config.n_rays, grid=self.config.grid, margin=MARGIN_PX)
        return rgb.transpose(2, 0, 1).astype(np.float32), targets.prob, targets.dist, targets.known


def _range(rgb: NDArray[np.uint8], stain: Stain, rng: np.random.Generator) -> tuple[float, float]:
    """Return the grey levels that become 0 and 1: the restained image's, as a slide has its own."""
    pixels = rgb.reshape(-1, 3)
    chosen = pixels[rng.integers(len(pixels), size=_RANGE_SAMPLE)].astype(np.float32)
    low, high = np.percentile(stain.apply(chosen), PERCENTILES)
    return float(low), float(max(high, low + 1))
