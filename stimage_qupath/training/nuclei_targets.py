"""What a StarDist network learns from a label image (Schmidt et al. 2018, doi 10.1007/978-3-030-00934-2_30)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from stardist.geometry import star_dist
from stardist.utils import edt_prob

IGNORED: Final = -1
"""Label of pixels that nothing is learned from, as in StarDist itself: nobody said what is there."""


@dataclass(frozen=True, slots=True)
class NucleiTargets:
    """Targets of one image on the grid of the network.

    Attributes
    ----------
    prob
        (row, col) float32: distance to the edge of the nucleus, 1 at its middle, 0 outside of nuclei.
    dist
        (row, col, ray) float32: distance to the edge along each ray, px of the image; 0 outside of nuclei.
    known
        (row, col) bool: where the label is not :data:`IGNORED`.
    """

    prob: NDArray[np.float32]
    dist: NDArray[np.float32]
    known: NDArray[np.bool_]


def nuclei_targets(labels: NDArray[np.int32], *, n_rays: int, grid: tuple[int, int], margin: int = 0) -> NucleiTargets:
    """Return the targets of a label image.

    Parameters
    ----------
    labels
        (row, col) int32: 0 background, positive nuclei, negative unknown.
    n_rays
        Rays of the network.
    grid
        Pixels of the image per point of the network's result, row and column.
    margin
        Pixels on each side, a multiple of the grid, that are looked at and then cut off, so that a nucleus that the
        border cuts is measured whole.
    """
    known = labels >= 0
    nuclei = np.where(known, labels, 0).astype(np.int32)
    if nuclei.min() > 0:  # no edge in sight, hence nothing to measure a distance to
        nuclei, known = np.zeros_like(nuclei), np.zeros_like(known)
    rows, cols = (slice(margin, size - margin, step) for size, step in zip(labels.shape, grid, strict=True))
    inner = tuple(slice(margin // step, (size - margin) // step) for size, step in zip(labels.shape, grid, strict=True))
    dist = star_dist(nuclei, n_rays=n_rays, grid=grid, mode="cpp")
    return NucleiTargets(
        prob=np.asarray(edt_prob(nuclei)[rows, cols], dtype=np.float32),
        dist=np.asarray(dist[inner], dtype=np.float32),
        known=known[rows, cols],
    )
