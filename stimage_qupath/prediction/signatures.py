"""Signature scores of places, member by member, from the features that their predictions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.models.ensemble import Ensemble
from stimage_qupath.models.negative_binomial import LOG_MEAN_RANGE
from stimage_qupath.signatures.definition import Fit, Signature, fit, usable, weight_matrix
from stimage_qupath.signatures.scores import MemberScores, member_scores

BATCH: Final = 512
"""Places whose member means are in memory at a time."""


@dataclass(frozen=True, slots=True)
class SignatureScorer:
    """Signatures on an ensemble.

    Attributes
    ----------
    fits
        The signatures that the panel holds enough genes of.
    ensemble
        The ensemble on their genes alone.
    weights
        (gene, signature), in the order of the ensemble's panel and of ``fits``.
    """

    fits: tuple[Fit, ...]
    ensemble: Ensemble
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, ensemble: Ensemble, signatures: Sequence[Signature]) -> tuple[Self, tuple[str, ...]]:
        """Return the scorer, and a sentence for each signature that the panel holds too little of.

        Raises
        ------
        UsageError
            The panel holds too little of every signature.
        """
        kept, refused = usable([fit(signature, ensemble.panel.genes) for signature in signatures])
        wanted = {gene for found in kept for gene in found.weights}
        genes = tuple(gene for gene in ensemble.panel if gene in wanted)
        return cls(kept, ensemble.take_genes(genes), weight_matrix(kept, genes)), refused

    def __call__(self, features: NDArray[np.float32]) -> MemberScores:
        """Return the scores of some places.

        Parameters
        ----------
        features
            (place, feature) from the ensemble's encoder.
        """
        known, total_count = self.ensemble.known(features), self.ensemble.total_count.astype(np.float64)
        members = np.empty((len(features), len(total_count), len(self.fits)))
        aleatoric = np.empty((len(features), len(self.fits)))
        for start in range(0, len(features), BATCH):
            rows = slice(start, start + BATCH)
            log_mean = self.ensemble.heads.log_mean(known[rows]).astype(np.float64)
            found = member_scores(np.exp(np.clip(log_mean, *LOG_MEAN_RANGE)), total_count, self.weights)
            members[rows], aleatoric[rows] = found.members, found.aleatoric
        return MemberScores(members, aleatoric)
