"""Linear maps from features to many targets: ridge with a nested penalty, and their reduction to low rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.spots.residuals import column_pearson

Float = NDArray[np.float64]

PENALTIES = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0)


@dataclass(frozen=True, slots=True)
class LinearMap:
    """``mean + (x - centre) left right``.

    Attributes
    ----------
    centre
        (feature,).
    left, right
        (feature, rank) and (rank, target).
    mean
        (target,).
    """

    centre: Float
    left: Float
    right: Float
    mean: Float

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        wanted = (len(self.centre), len(self.right)), (self.left.shape[1], len(self.mean))
        if (self.left.shape, self.right.shape) != wanted:
            msg = f"expected left and right of shapes {wanted}, found {self.left.shape} and {self.right.shape}"
            raise ValueError(msg)

    def __call__(self, features: Float) -> Float:
        """Return the targets of some places, (place, target)."""
        return np.asarray(self.mean + (features - self.centre) @ self.left @ self.right)

    def reduced(self, features: Float, rank: int) -> LinearMap:
        """Return the map of at most ``rank`` that is nearest on ``features`` (those it was fitted to).

        The columns of ``left`` get the length 1, so that half precision holds both parts.
        """
        scores = (features - self.centre) @ self.left
        base, triangle = np.linalg.qr(scores)
        u, s, v = np.linalg.svd(triangle @ self.right, full_matrices=False)
        k = int(min(rank, (s > 1e-9 * max(s[0], 1e-300)).sum()))
        # scores right = base u s v; what maps features onto base u is found through the scores once more.
        to_scores = np.linalg.lstsq(scores, base @ u[:, :k], rcond=None)[0]
        left = self.left @ to_scores
        length = np.maximum(np.linalg.norm(left, axis=0), 1e-300)
        return LinearMap(self.centre, left / length, length[:, None] * s[:k, None] * v[:k], self.mean)


def fit_ridge(features: Float, targets: Float, section: NDArray[np.int64]) -> LinearMap:
    """Fit a ridge, its penalty chosen by leaving out one training section at a time (fifths of the rows of one).

    Parameters
    ----------
    features, targets
        (spot, feature) and (spot, target).
    section
        (spot,) index of the section.
    """
    groups = section if len(np.unique(section)) > 1 else np.arange(len(section)) * 5 // len(section)
    scores = np.zeros(len(PENALTIES))
    for group in np.unique(groups):
        rows = groups == group
        path = _Path(features[~rows], targets[~rows])
        for k, penalty in enumerate(PENALTIES):
            scores[k] += np.nan_to_num(column_pearson(targets[rows], path.at(penalty)(features[rows]))).mean()
    return _Path(features, targets).at(PENALTIES[int(scores.argmax())])


class _Path:
    """The ridge at any penalty, from one singular value decomposition."""

    def __init__(self, features: Float, targets: Float) -> None:
        self.centre, self.mean = features.mean(axis=0), targets.mean(axis=0)
        left, self.singular, self.right = np.linalg.svd(features - self.centre, full_matrices=False)
        self.projected = left.T @ (targets - self.mean)

    def at(self, penalty: float) -> LinearMap:
        """Return the map for one penalty."""
        shrunk = (self.singular / (self.singular**2 + penalty))[:, None] * self.projected
        return LinearMap(self.centre, self.right.T, shrunk, self.mean)
