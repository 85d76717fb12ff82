"""An ensemble of softmax heads: how probable each type is, and how far the members agree.

With ``p_m`` the probabilities of member m and ``p`` their mean, the entropy of ``p`` splits exactly:
``H(p) = mean_m H(p_m) + I``. The first part is aleatoric, what every member finds ambiguous; the mutual information
``I >= 0`` is epistemic, what the members disagree about (Depeweg et al. 2018, arXiv 1710.07283). All in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax, xlogy

from stimage_qupath.models.ensemble import FEATURE_LIMIT


@dataclass(frozen=True, slots=True)
class SoftmaxHeads:
    """Weights of the members: logit = bias + standardised features x weight.

    Attributes
    ----------
    feature_mean, feature_sd
        (feature,) standardisation, from training.
    weight
        (member, feature, class).
    bias
        (member, class).
    temperature
        Logits are divided by it; above 1 it makes probabilities less sure.
    """

    feature_mean: NDArray[np.float32]
    feature_sd: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit each other, weights that are not finite and a temperature that is none."""
        members, features, classes = self.weight.shape
        found = (self.bias.shape, self.feature_mean.shape, self.feature_sd.shape)
        if found != ((members, classes), (features,), (features,)):
            msg = f"expected heads that fit a weight of shape {self.weight.shape}, found {found}"
            raise ValueError(msg)
        arrays = (self.weight, self.bias, self.feature_mean, self.feature_sd)
        if not all(np.isfinite(a).all() for a in arrays) or not (self.feature_sd > 0).all():
            msg = "expected finite weights and spreads above 0, found others; the model folder is damaged"
            raise ValueError(msg)
        if not 0 < self.temperature < np.inf:
            msg = f"expected a temperature above 0, found {self.temperature}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class TypePrediction:
    """What the ensemble says of n places.

    Attributes
    ----------
    probability
        (place, class) float32, mean over members; rows sum to 1.
    entropy
        (place,) float32 of that mean, nats.
    mutual_information
        (place,) float32, the epistemic part of the entropy; the rest is aleatoric.
    """

    probability: NDArray[np.float32]
    entropy: NDArray[np.float32]
    mutual_information: NDArray[np.float32]

    @property
    def expected_entropy(self) -> NDArray[np.float32]:
        """The aleatoric part: mean over members of each one's entropy, (place,)."""
        return self.entropy - self.mutual_information

    @property
    def codes(self) -> NDArray[np.intp]:
        """The most probable class of each place, (place,)."""
        return np.asarray(self.probability.argmax(axis=1))


@dataclass(frozen=True, slots=True)
class CellTypeEnsemble:
    """Heads and the types that they tell apart.

    Attributes
    ----------
    classes
        Names, in the order of the heads' columns.
    heads
        The members.
    """

    classes: tuple[str, ...]
    heads: SoftmaxHeads

    def __post_init__(self) -> None:
        """Refuse names that are doubled or do not fit the heads."""
        if len(set(self.classes)) != len(self.classes) or len(self.classes) != self.heads.bias.shape[1]:
            msg = f"expected {self.heads.bias.shape[1]} different classes, found {', '.join(self.classes)}"
            raise ValueError(msg)

    @property
    def members(self) -> int:
        """Number of members."""
        return len(self.heads.bias)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of each member after the temperature, (member, place, class).

        The softmax over the last axis is that member's probability. Standardised features are held within
        ``FEATURE_LIMIT``, as for genes.

        Parameters
        ----------
        features
            (place, feature) as :class:`stimage_qupath.prediction.nucleus_features.NucleusFeatures` gives them.
        """
        heads = self.heads
        if features.ndim != 2 or features.shape[1] != len(heads.feature_mean):
            msg = f"expected {len(heads.feature_mean)} features a place, found an array of shape {features.shape}"
            raise ValueError(msg)
        standardised = (features - heads.feature_mean) / heads.feature_sd
        known = np.clip(standardised, -FEATURE_LIMIT, FEATURE_LIMIT).astype(np.float32)
        return np.asarray((known @ heads.weight + heads.bias[:, None]) / np.float32(heads.temperature))

    def predict(self, features: NDArray[np.float32], *, batch_size: int = 8192) -> TypePrediction:
        """Return the types of places.

        Parameters
        ----------
        features
            (place, feature).
        batch_size
            Places at a time; the result does not depend on it.
        """
        parts = [
            combine(softmax(self.logits(features[start : start + batch_size]).astype(np.float64), axis=-1))
            for start in range(0, max(len(features), 1), batch_size)
        ]
        joined = (np.concatenate([getattr(p, name) for p in parts]) for name in TypePrediction.__dataclass_fields__)
        return TypePrediction(*joined)


def combine(probability: NDArray[np.float64]) -> TypePrediction:
    """Return what members together say.

    Parameters
    ----------
    probability
        (member, place, class), each row of the last axis sums to 1.
    """
    mean = probability.mean(axis=0)
    total = entropy(mean)
    # Rounding may leave the difference a hair under 0, which no information is.
    epistemic = np.maximum(total - entropy(probability).mean(axis=0), 0)
    return TypePrediction(mean.astype(np.float32), total.astype(np.float32), epistemic.astype(np.float32))


def entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``-sum p log p`` over the last axis, nats; 0 log 0 is 0."""
    return np.asarray(-xlogy(probability, probability).sum(axis=-1))


def log_likelihood(logits: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of the members' mean probability, weighted by soft targets, (place,).

    Parameters
    ----------
    logits
        (member, place, class).
    target
        (place, class), rows sum to 1.
    """
    log_each = log_softmax(logits, axis=-1)
    top = log_each.max(axis=0)
    log_mean = top + np.log(np.exp(log_each - top).mean(axis=0))
    return np.asarray((target * log_mean).sum(axis=-1))
