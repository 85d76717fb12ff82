"""Labels by a network that is there already (self-training), where people have outlined some nuclei or none.

The teacher looks at four mirror images and its answers are averaged. What it is sure of is a nucleus, and so is what
the classical segmenter outlines where the teacher half suspects one. What only one of the two sees, and where the
teacher doubts, is unknown: nothing is learned from there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.nuclei.classical import ClassicalSegmenter
from stimage_qupath.nuclei.sampling import is_stained
from stimage_qupath.nuclei.stardist_segmenter import BoundStarDistSegmenter, StarDistSegmenter
from stimage_qupath.training.nuclei_dataset import NucleiImage
from stimage_qupath.training.nuclei_score import bound_to
from stimage_qupath.training.nuclei_targets import IGNORED

_DOUBTFUL: Final = 0.2  # probability from which background is unknown
_AGREED: Final = 0.25  # highest probability inside a classical outline from which the two agree
_SAME: Final = 0.2  # share of an outline that is labelled already, from which it is no new nucleus


def self_trained(image: NucleiImage, teacher: StarDistSegmenter, *, adds: bool = True) -> NucleiImage:
    """Return an image with the nuclei that its labels lack, and with unknown pixels where there may be more.

    Parameters
    ----------
    image
        Its own labels stay as they are.
    teacher
        With the threshold from which it is sure.
    adds
        Whether nuclei are added; else they are unknown too, which is what a validation image needs.
    """
    found, probability = _mirrored(bound_to(teacher, image), image.rgb)
    classical = ClassicalSegmenter().calibrated_on([(image.rgb, is_stained(image.rgb))]).label(image.rgb)
    agreed = ndimage.maximum(probability, classical, np.arange(classical.max() + 1)) >= _AGREED
    labels = np.maximum(image.labels, 0)
    if adds:
        labels = _joined(labels, found)
        labels = _joined(labels, np.where(agreed[classical], classical, 0).astype(np.int32))
    doubtful = (image.labels < 0) | (probability > _DOUBTFUL) | (classical > 0)
    unknown = ndimage.binary_dilation(doubtful) & (labels == 0)
    return replace(image, labels=np.where(unknown, IGNORED, labels).astype(np.int32))


def _joined(labels: NDArray[np.int32], more: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return labels with the nuclei of ``more`` that they hardly have."""
    size = int(more.max()) + 1
    pixels = np.bincount(more.ravel(), minlength=size)
    known = np.bincount(more[labels > 0], minlength=size)
    new = (known < _SAME * pixels)[more] & (more > 0) & (labels == 0)
    return np.where(new, more + labels.max(), labels).astype(np.int32)


def _mirrored(teacher: BoundStarDistSegmenter, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the labels by the mean of four mirror images, and the mean probability of each pixel."""
    height, width = rgb.shape[:2]
    down, across = teacher.segmenter.network.config.divisor
    padded = np.pad(rgb, ((0, -height % down), (0, -width % across), (0, 0)), mode="reflect")
    answers = [_seen(teacher, padded, rows=rows, cols=cols) for rows in (False, True) for cols in (False, True)]
    prob, dist = (np.asarray(np.mean(part, axis=0), dtype=np.float32) for part in zip(*answers, strict=True))
    labels = teacher.rendered(prob, dist, (height, width))
    step = teacher.segmenter.network.config.grid
    return labels, np.kron(prob, np.ones(step, dtype=np.float32))[:height, :width]


def _seen(
    teacher: BoundStarDistSegmenter, rgb: NDArray[np.uint8], *, rows: bool, cols: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what the network says of an image that is shown to it mirrored, put back."""
    axes = tuple(axis for axis, flipped in enumerate((rows, cols)) if flipped)
    # One pixel on, or grid points would fall between those of the image as it is.
    prob, dist = teacher.predict(np.ascontiguousarray(np.roll(np.flip(rgb, axes), (1,) * len(axes), axes)))
    prob, dist = (np.roll(np.flip(part, axes), (1,) * len(axes), axes) for part in (prob, dist))
    count = dist.shape[-1]
    ray = np.arange(count)  # ray k points 2 pi k / count from right towards down
    if rows:
        ray = -ray
    if cols:
        ray = count // 2 - ray
    return prob, dist[..., ray % count]
