"""A block of a slide as the explainer sees it: pixels, what they belong to, and the places whose predictions count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ELSEWHERE = -1
"""Label of pixels that another block explains."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Pixels divided into features, and weighted places.

    Attributes
    ----------
    image
        (height, width, 3) uint8 at the encoder's pixel size; holds every window whole, or to the edge of the slide.
    labels
        (height, width) int32: the feature of each pixel. The first ``nuclei`` features are nuclei, the others are cells
        of a grid over what lies between them; :data:`ELSEWHERE` belongs to no feature of this block.
    nuclei
        How many features are nuclei.
    features
        How many there are.
    centres
        (place, 2) float64, x and y in pixels of ``image``.
    weights
        (place,) float64, how many of the run's predictions rest on a place.
    mpp
        um per pixel.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    nuclei: int
    features: int
    centres: NDArray[np.float64]
    weights: NDArray[np.float64]
    mpp: float

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        if self.labels.shape != self.image.shape[:2]:
            msg = f"expected labels of shape {self.image.shape[:2]}, found {self.labels.shape}"
            raise ValueError(msg)
        if self.labels.size and not ELSEWHERE <= self.labels.min() <= self.labels.max() < self.features:
            msg = f"expected labels from {ELSEWHERE} to {self.features - 1}, found {self.labels.min()} to "
            msg += f"{self.labels.max()}"
            raise ValueError(msg)
        if not 0 <= self.nuclei <= self.features or len(self.weights) != len(self.centres):
            msg = f"expected at most {self.features} nuclei and a weight a place, found {self.nuclei} and "
            msg += f"{len(self.weights)} for {len(self.centres)}"
            raise ValueError(msg)

    @property
    def explained(self) -> NDArray[np.bool_]:
        """Which pixels belong to a feature of this block, (height, width)."""
        return np.asarray(self.labels != ELSEWHERE)

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Pixels of each feature, (feature,)."""
        return np.bincount(self.labels[self.explained], minlength=self.features)

    def without(self, features: NDArray[np.bool_], filled: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image with some features, (feature,) bool, replaced by what ``filled`` shows there."""
        gone = np.append(features, False)[self.labels]  # ELSEWHERE indexes the last entry
        return np.where(gone[..., None], filled, self.image)


@dataclass(frozen=True, slots=True)
class Contributions:
    """What each feature of a scene contributed.

    Attributes
    ----------
    sums
        (feature, output) float64: over places, weight x contribution to the output there. Positive: its pixels, as
        they are, raise the output.
    difference
        (output,) float64: over places, weight x (output as it is - output with every feature replaced); what the sums
        of a complete method add up to.
    """

    sums: NDArray[np.float64]
    difference: NDArray[np.float64]

    @property
    def gap(self) -> NDArray[np.float64]:
        """By how much the sums miss the difference, (output,)."""
        return np.asarray(self.sums.sum(axis=0) - self.difference)
