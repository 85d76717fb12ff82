"""High or low in a held-out section: the model's probabilities beside a classifier made for nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.models.ensemble import Ensemble
from stimage_qupath.validation.baselines import Spots
from stimage_qupath.validation.bootstrap import BlockBootstrap
from stimage_qupath.validation.classifier import HighClassifier, fit_classifier
from stimage_qupath.validation.high_low import chance_above, high_figures, is_high
from stimage_qupath.validation.predictive import CountMixture

Float = NDArray[np.float64]

NOTE: Final = (
    "high: depth-normalised count above the median of the rates fitted to the training spots; of genes detected in at "
    "least 20 % of those. at_depth knows the spot's measured depth, as observed_depth does; the others do not"
)


@dataclass(frozen=True, slots=True)
class HighBaselines:
    """Classifiers fitted to the training spots.

    Attributes
    ----------
    elastic_net
        On the model's own features, as in the STimage article.
    observed_depth
        On the measured log total of the spot alone: an oracle without an image.
    threshold
        (gene,) of the genes that have one.
    offered
        (gene,) which of the panel those are.
    """

    elastic_net: HighClassifier
    observed_depth: HighClassifier
    threshold: NDArray[np.float32]
    offered: NDArray[np.bool_]


def fit_high(train: Spots, ensemble: Ensemble, reference_total: float) -> HighBaselines | None:
    """Fit the classifiers; None where no gene is detected often enough.

    Parameters
    ----------
    train
        Training spots.
    ensemble
        The model, whose thresholds tell high from low.
    reference_total
        Counts of a spot of reference depth.
    """
    offered = ensemble.high_low.offered
    if not offered.any():
        return None
    threshold = ensemble.high_low.threshold[offered]
    size = train.totals / reference_total
    high = is_high(train.counts[:, offered], size, threshold)
    return HighBaselines(
        elastic_net=fit_classifier(train.features, high, train.section),
        observed_depth=fit_classifier(_depth(size), high, train.section),
        threshold=threshold,
        offered=offered,
    )


def _depth(size: Float) -> Float:
    """Return the log depth as the one feature."""
    return np.log(np.asarray(size, dtype=np.float64))[:, None]


def score_high(
    ensemble: Ensemble,
    mixture: CountMixture,
    counts: Float,
    size: Float,
    features: Float | None,
    baselines: HighBaselines | None,
    bootstrap: BlockBootstrap,
) -> dict[str, Any]:
    """Return the figures of one section, empty where no gene has spots on both sides.

    Parameters
    ----------
    ensemble, mixture
        The model and what it says at reference depth.
    counts, size
        (spot, gene) measured, and (spot,) depth in reference depths.
    features, baselines
        (spot, feature) standardised, and the classifiers; None without.
    bootstrap
        Resamples of the section's blocks.
    """
    offered = ensemble.high_low.offered
    threshold = ensemble.high_low.threshold[offered]
    high = is_high(counts[:, offered], size, threshold)
    chance = ensemble.high_low.probability(mixture.mean, ensemble.total_count)[:, offered]
    model = high_figures(chance, high, size, bootstrap)
    if model is None:
        return {}
    informed = chance_above(mixture.mean[:, :, offered], ensemble.total_count[:, offered], size, threshold)
    at_depth = high_figures(informed, high, size, bootstrap)
    both = high.any(axis=0) & ~high.all(axis=0)
    found = {"note": NOTE, "genes": int(both.sum()), "share_high": float(high[:, both].mean()), **model.to_dict()}
    if at_depth is not None:
        found["at_depth"] = {name: at_depth.to_dict()[name] for name in ("brier", "ece")}
    if baselines is not None and features is not None:
        predictions = {
            "elastic_net": baselines.elastic_net.probability(features),
            "observed_depth": baselines.observed_depth.probability(_depth(size)),
        }
        for name, prediction in predictions.items():
            figures = high_figures(prediction, high, size, bootstrap)
            if figures is not None:
                found[name] = figures.to_dict() | {"model_lead": model.minus(figures).to_dict()}
    return found
