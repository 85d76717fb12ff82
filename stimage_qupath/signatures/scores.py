"""Linear scores of the members of an ensemble, and both kinds of uncertainty of their mean.

Symbols: ``mu_mg`` expected count of gene ``g`` by member ``m``, ``r_mg`` its total count, ``w_g`` the gene's weight.

- Score of a member: ``S_m = sum_g w_g log2(1 + mu_mg)``. The score is the mean over members.
- Epistemic variance: the variance of ``S_m`` over members, divisor M. Members share their factors, so that their genes
  err together; taking the score of each member first is what keeps that.
- Aleatoric variance: that of the score of a hypothetical spot's counts around what the member expects, by the delta
  method: ``mean_m sum_g w_g^2 (mu + mu^2 / r) / ((1 + mu) ln 2)^2``. Given the member, genes are taken to vary
  independently of each other. It is too large for genes of less than a count, where ``log2(1 + y)`` bends most.

By the law of total variance the sum of both is the variance of the score over members and counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MemberScores:
    """Scores of places.

    Attributes
    ----------
    members
        (place, member, signature) score of each member.
    aleatoric
        (place, signature) variance.
    """

    members: Float
    aleatoric: Float

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other."""
        places, _, signatures = self.members.shape
        if self.aleatoric.shape != (places, signatures):
            msg = f"expected aleatoric of shape {(places, signatures)}, found {self.aleatoric.shape}"
            raise ValueError(msg)

    @property
    def score(self) -> Float:
        """Mean over members, (place, signature)."""
        return np.asarray(self.members.mean(axis=1))

    @property
    def epistemic(self) -> Float:
        """Variance over members, divisor M, (place, signature)."""
        return np.asarray(self.members.var(axis=1))

    @property
    def sd(self) -> Float:
        """Root of both variances together, (place, signature)."""
        return np.sqrt(self.aleatoric + self.epistemic)


def log_expression(mean: Float) -> Float:
    """Return ``log2(1 + mean)``."""
    return np.asarray(np.log1p(mean) / np.log(2))


def member_scores(mean: Float, total_count: Float, weights: Float) -> MemberScores:
    """Return the scores of some places.

    Parameters
    ----------
    mean
        (member, place, gene) expected counts.
    total_count
        (member, gene); infinite for a Poisson.
    weights
        (gene, signature).
    """
    scores = log_expression(mean) @ weights
    variance = (mean + mean**2 / total_count[:, None]) / ((1 + mean) * np.log(2)) ** 2
    return MemberScores(scores.transpose(1, 0, 2), variance.mean(axis=0) @ weights**2)
