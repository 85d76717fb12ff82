"""Features one by one as small pictures on the encoder's grid: what stands there once each is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from stimage_qupath.attribution.scene import Scene

PATCH_PIXELS: Final = 2**19
"""Of patches that are computed together: little enough to stay near the processor."""
PATCH_MARGIN_PX: Final = 144
"""By which a patch of the maps is larger than its feature, both sides together."""


def batches(boxes: NDArray[np.intp], align: int) -> Iterator[NDArray[np.intp]]:
    """Yield features that lie over equally many steps of a grid across and down, as many as fit a batch.

    Parameters
    ----------
    boxes
        (feature, 4) left, top, right, bottom; right and bottom exclusive, empty ones all 0 and left out.
    align
        Pixels a step.
    """
    there = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
    steps = -(-boxes[there, 2:] // align) - boxes[there, :2] // align
    sizes, kind = np.unique(steps, axis=0, return_inverse=True)
    for number, size in enumerate(sizes):
        members = there[kind.ravel() == number]
        most = max(1, PATCH_PIXELS // int(np.prod(size * align + PATCH_MARGIN_PX)))
        for start in range(0, len(members), most):
            yield members[start : start + most]


def repainted(
    scene: Scene, filled: NDArray[np.uint8], boxes: NDArray[np.intp], features: NDArray[np.intp], align: int
) -> tuple[Tensor, Tensor]:
    """Return where features of one batch lie and what is there without them, each alone.

    Parameters
    ----------
    scene, filled
        Block, and what stands where something is removed.
    boxes, features, align
        As :func:`batches` takes and gives them.

    Returns
    -------
    tuple of Tensor
        Corners, (part, 2) x and y in steps of ``align``; and pictures, (part, 3, height, width) float32, 0-255.
    """
    corners = boxes[features, :2] // align
    width, height = (-(-boxes[features[0], 2:] // align) - corners[0]) * align
    x, y = (corners * align).T
    rows = np.minimum(y[:, None] + np.arange(height), scene.labels.shape[0] - 1)[:, :, None]
    columns = np.minimum(x[:, None] + np.arange(width), scene.labels.shape[1] - 1)[:, None, :]
    gone = scene.labels[rows, columns] == features[:, None, None]
    pictures = np.where(gone[..., None], filled[rows, columns], scene.image[rows, columns])
    return torch.from_numpy(corners.astype(np.int64)), torch.from_numpy(pictures).movedim(-1, 1).float()


def near_places(boxes: NDArray[np.intp], centres: NDArray[np.float64], reach: float) -> NDArray[np.bool_]:
    """Return which features lie within ``reach`` of a place along both axes, (feature,)."""
    there = boxes[:, 2] > boxes[:, 0]
    if not len(centres):
        return np.zeros(len(boxes), dtype=bool)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = cKDTree(centres).query(middles, p=np.inf)[0]
    return np.asarray(there & (distance <= reach))


def as_tensor(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return an image, (height, width, 3), as (3, height, width) float32, 0-255."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).float()
