"""How well a network outlines the nuclei of annotated images, and the thresholds that suit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from stardist.matching import matching

from stimage_qupath.nuclei.stardist_network import StarDistNetwork
from stimage_qupath.nuclei.stardist_segmenter import (
    DEFAULT_THRESHOLDS,
    PERCENTILES,
    BoundStarDistSegmenter,
    StarDistSegmenter,
)
from stimage_qupath.training.nuclei_dataset import NucleiImage

PROB_THRESHOLDS: Final = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
NMS_THRESHOLDS: Final = (0.2, 0.3, 0.4, 0.5)
IOU: Final = 0.5
"""Overlap from which an outline counts as found."""


def bound_to(segmenter: StarDistSegmenter, image: NucleiImage) -> BoundStarDistSegmenter:
    """Return a segmenter with the intensity range of an image, as if that were a slide."""
    low, high = np.percentile(image.rgb, PERCENTILES)
    return BoundStarDistSegmenter(segmenter, low=float(low), high=float(max(high, low + 1)))


def average_precision(network: StarDistNetwork, images: Sequence[NucleiImage], *, device: torch.device) -> float:
    """Return AP at IoU 0.5, the mean over images, at StarDist's usual thresholds."""
    segmenter = StarDistSegmenter(network, DEFAULT_THRESHOLDS["prob"], DEFAULT_THRESHOLDS["nms"], device)
    return _score(segmenter, images)


def best_thresholds(
    network: StarDistNetwork, images: Sequence[NucleiImage], *, device: torch.device
) -> tuple[dict[str, float], float]:
    """Return the thresholds of highest AP at IoU 0.5 on annotated images, and that AP.

    First the probability at the usual overlap, then the overlap at that probability.
    """
    best = StarDistSegmenter(network, DEFAULT_THRESHOLDS["prob"], DEFAULT_THRESHOLDS["nms"], device)
    best_score = _score(best, images)
    for name, values in (("prob_threshold", PROB_THRESHOLDS), ("nms_threshold", NMS_THRESHOLDS)):
        for value in values:
            candidate = replace(best, **{name: value})  # type: ignore[arg-type]
            score = _score(candidate, images)
            if score > best_score:
                best, best_score = candidate, score
    return {"prob": best.prob_threshold, "nms": best.nms_threshold}, best_score


def outward_offset(
    network: StarDistNetwork, images: Sequence[NucleiImage], thresholds: Mapping[str, float], *, device: torch.device
) -> float:
    """Return by how many pixels outlines are too small: the median over matched nuclei of the radii's difference.

    A radius is that of the circle of equal area.
    """
    segmenter = StarDistSegmenter(network, thresholds["prob"], thresholds["nms"], device)
    differences = [np.empty(0)]
    for image in images:
        truth, found = np.maximum(image.labels, 0), bound_to(segmenter, image).label(image.rgb)
        matched = matching(truth, found, thresh=IOU, report_matches=True)
        pairs = np.array([p for p, s in zip(matched.matched_pairs, matched.matched_scores, strict=True) if s >= IOU])
        if len(pairs):
            radii = [np.sqrt(np.bincount(m.ravel())[n] / np.pi) for m, n in zip((truth, found), pairs.T, strict=True)]
            differences.append(radii[0] - radii[1])
    together = np.concatenate(differences)
    return float(np.median(together)) if len(together) else 0.0


def matched_counts(truth: NDArray[np.int32], found: NDArray[np.int32]) -> tuple[int, int, int]:
    """Return true positives, false positives and missed nuclei at IoU 0.5.

    What was found mostly on pixels of unknown label counts for nothing.
    """
    unknown = np.bincount(found[truth < 0].ravel(), minlength=int(found.max()) + 1)
    ours = np.where((unknown / np.maximum(np.bincount(found.ravel()), 1) > IOU)[found], 0, found)
    result = matching(np.maximum(truth, 0), ours, thresh=IOU)
    return int(result.tp), int(result.fp), int(result.fn)


def _score(segmenter: StarDistSegmenter, images: Sequence[NucleiImage]) -> float:
    """Return the mean over images of TP / (TP + FP + FN); images without nuclei and findings are left out."""
    scores = []
    for image in images:
        tp, fp, fn = matched_counts(image.labels, bound_to(segmenter, image).label(image.rgb))
        if tp + fp + fn:
            scores.append(tp / (tp + fp + fn))
    return float(np.mean(scores)) if scores else 0.0
