"""Elastic-net logistic regression of high against low, for all genes at once: the classifier of the STimage article.

Minimises, for each gene, the mean logistic loss plus ``penalty ((1 - q) / 2 |w|^2 + q |w|_1)`` with ``q`` the share of
the l1 norm, by accelerated proximal gradient (Beck and Teboulle 2009, SIAM J. Imaging Sci. 2) on matrices, since a fit
a gene by a library takes minutes for a panel. The intercept is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

L1_SHARE: Final = 0.5
PENALTIES: Final = (0.3, 0.1, 0.03, 0.01)
"""Descending, so that each fit starts from the one before."""
GENES_TO_CHOOSE: Final = 64
"""Genes on which the penalty is chosen."""
MOST_STEPS: Final = 400
TOLERANCE: Final = 1e-4
"""Largest change of a coefficient in a step at which the fit ends."""


@dataclass(frozen=True, slots=True)
class HighClassifier:
    """One logistic regression a gene.

    Attributes
    ----------
    coefficients
        (feature, gene).
    intercept
        (gene,).
    penalty
        That was chosen.
    """

    coefficients: Float
    intercept: Float
    penalty: float

    def probability(self, features: NDArray[np.floating]) -> Float:
        """Return the probability of high, (spot, gene)."""
        return np.asarray(special.expit(features @ self.coefficients + self.intercept))


def fit_classifier(features: NDArray[np.floating], high: Bool, section: NDArray[np.int64]) -> HighClassifier:
    """Fit one classifier a gene; the penalty is chosen by leaving out one training section at a time.

    Parameters
    ----------
    features
        (spot, feature), standardised.
    high
        (spot, gene) labels.
    section
        (spot,) index of the section; of a single one, fifths are left out.
    """
    groups = section if len(np.unique(section)) > 1 else np.arange(len(section)) * 5 // len(section)
    x, label = features.astype(np.float64), high.astype(np.float64)
    penalty = _choose(x, label[:, :: max(1, label.shape[1] // GENES_TO_CHOOSE)], groups)
    weights, intercept = _path(x, label, tuple(p for p in PENALTIES if p >= penalty))[-1]
    return HighClassifier(weights, intercept, penalty)


def _choose(x: Float, label: Float, groups: NDArray[np.int64]) -> float:
    """Return the penalty of the least logistic loss on what was left out."""
    losses = np.zeros(len(PENALTIES))
    for group in np.unique(groups):
        rows = groups == group
        for k, (weights, intercept) in enumerate(_path(x[~rows], label[~rows], PENALTIES)):
            score = x[rows] @ weights + intercept
            losses[k] += (np.logaddexp(0.0, score) - label[rows] * score).sum()
    return PENALTIES[int(losses.argmin())]


def _path(x: Float, label: Float, penalties: tuple[float, ...]) -> list[tuple[Float, Float]]:
    """Return coefficients and intercepts along a path of penalties."""
    n = len(x)
    # A column of ones carries the intercept; the logistic loss bends by a quarter at most.
    with_one = np.concatenate([x, np.ones((n, 1))], axis=1)
    bend = 0.25 * float(np.linalg.norm(with_one, 2)) ** 2 / n
    share = np.clip(label.mean(axis=0), 1 / (n + 2), 1 - 1 / (n + 2))
    now = np.zeros((with_one.shape[1], label.shape[1]))
    now[-1] = special.logit(share)
    found = []
    for penalty in penalties:
        now = fit_at(with_one, label, now, penalty=penalty, bend=bend)
        found.append((now[:-1], now[-1]))
    return found


def fit_at(with_one: Float, label: Float, start: Float, *, penalty: float, bend: float) -> Float:
    """Return the coefficients of one penalty, (feature + 1, gene), the intercept last.

    Parameters
    ----------
    with_one
        (spot, feature + 1), the last column ones.
    label
        (spot, gene) 0 or 1.
    start
        Where to begin.
    penalty
        Of the elastic net.
    bend
        Bound of the loss's second derivative.
    """
    n = len(label)
    step = 1 / (bend + penalty * (1 - L1_SHARE))
    ridge = np.full((len(start), 1), penalty * (1 - L1_SHARE))
    shrink = np.full((len(start), 1), step * penalty * L1_SHARE)
    ridge[-1] = shrink[-1] = 0.0
    now, ahead, momentum = start, start, 1.0
    for _ in range(MOST_STEPS):
        slope = with_one.T @ (special.expit(with_one @ ahead) - label) / n + ridge * ahead
        moved = ahead - step * slope
        new = np.sign(moved) * np.maximum(np.abs(moved) - shrink, 0.0)
        after = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        change = new - now
        ahead = new + (momentum - 1) / after * change
        now, momentum = new, after
        if np.abs(change).max() < TOLERANCE:
            break
    return now
