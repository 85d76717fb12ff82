"""An ensemble of negative binomial heads on one frozen encoder, run as one batched product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.models.negative_binomial import LOG_MEAN_RANGE, LOG_TOTAL_COUNT_RANGE, mixture_quantile
from stimage_qupath.models.uncertainty import OutlierScore, total_variance
from stimage_qupath.results import Panel, Prediction

INTERVAL = (0.05, 0.95)
FEATURE_LIMIT = 4.0
"""Standardised features beyond are held there: log means are linear in them, and would run away where nothing is known.
Such places have a high OOD score, which sees the features as they are."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Weights of the members: log mean = bias + standardised features x weight.

    Attributes
    ----------
    feature_mean, feature_sd
        (feature,) standardisation, from the training tiles.
    weight
        (member, feature, gene).
    bias
        (member, gene), log of counts at reference depth.
    log_total_count
        (member, gene).
    """

    feature_mean: NDArray[np.float32]
    feature_sd: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    log_total_count: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit each other, and weights that are not finite."""
        members, features, genes = self.weight.shape
        found = (self.bias.shape, self.log_total_count.shape, self.feature_mean.shape, self.feature_sd.shape)
        if found != ((members, genes), (members, genes), (features,), (features,)):
            msg = f"expected heads that fit a weight of shape {self.weight.shape}, found {found}"
            raise ValueError(msg)
        if not all(np.isfinite(a).all() for a in (self.weight, self.bias, self.log_total_count, self.feature_mean)):
            msg = "expected finite weights, found NaN or infinity; the model folder is damaged or training failed"
            raise ValueError(msg)

    def standardise(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features in training's units, (place, feature)."""
        return np.asarray((features - self.feature_mean) / self.feature_sd, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Heads, the genes they predict, and the limit of what they were trained on."""

    panel: Panel
    heads: Heads
    outliers: OutlierScore

    def predict(
        self,
        features: NDArray[np.float32],
        *,
        device: torch.device,
        batch_size: int = 256,
        interval_genes: NDArray[np.intp] | None = None,
    ) -> Prediction:
        """Return mean, both variances and the OOD score of each place, at reference depth.

        Parameters
        ----------
        features
            (place, feature) from the ensemble's encoder.
        device
            Where the product runs.
        batch_size
            Places at a time; memory is ``batch_size x member x gene``.
        interval_genes
            Columns of the genes that also get the 5th and 95th percentile of the mixture; the others hold NaN.
        """
        known = self.known(features)
        shape = (len(features), len(self.panel))
        mean, aleatoric, epistemic = (np.empty(shape, dtype=np.float32) for _ in range(3))
        quantiles = None if interval_genes is None else np.full((len(INTERVAL), *shape), np.nan, dtype=np.float32)
        log_mean_of = self._log_mean(device)
        total_count = _tensor(np.exp(np.clip(self.heads.log_total_count, *LOG_TOTAL_COUNT_RANGE)), device)
        with torch.inference_mode():
            for start in range(0, len(features), batch_size):
                rows = slice(start, start + batch_size)
                members = log_mean_of(_tensor(known[rows], device)).clamp(*LOG_MEAN_RANGE).exp()
                for out, values in zip((mean, aleatoric, epistemic), total_variance(members, total_count), strict=True):
                    out[rows] = values.cpu().numpy()
                if quantiles is not None:
                    quantiles[:, rows, interval_genes] = _quantiles(members, total_count, interval_genes)
        low, high = (None, None) if quantiles is None else quantiles
        score = self.outliers(self.heads.standardise(features))
        return Prediction(mean=mean, aleatoric=aleatoric, epistemic=epistemic, ood_score=score, p05=low, p95=high)

    def known(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return standardised features, held within what the log means may be asked about, (place, feature)."""
        return np.clip(self.heads.standardise(features), -FEATURE_LIMIT, FEATURE_LIMIT)

    def _log_mean(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the map from standardised features to log means, (place, member, gene)."""
        bias = _tensor(self.heads.bias, device)
        # (feature, member x gene): one matrix product serves every member.
        weight = _tensor(self.heads.weight.transpose(1, 0, 2).reshape(len(self.heads.feature_mean), -1), device)
        return lambda features: (features @ weight).view(-1, *bias.shape) + bias

    def take_genes(self, genes: tuple[str, ...]) -> Ensemble:
        """Return the same ensemble for some of its genes, in the order given."""
        columns = self.panel.index(genes)
        heads = Heads(
            feature_mean=self.heads.feature_mean,
            feature_sd=self.heads.feature_sd,
            weight=self.heads.weight[:, :, columns],
            bias=self.heads.bias[:, columns],
            log_total_count=self.heads.log_total_count[:, columns],
        )
        return Ensemble(panel=Panel(genes), heads=heads, outliers=self.outliers)


def _tensor(values: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=device)


def _quantiles(members: Tensor, total_count: Tensor, genes: NDArray[np.intp] | None) -> NDArray[np.float32]:
    """Return both ends of the interval of some genes, (end, place, gene)."""
    mean = members.permute(1, 0, 2).cpu().numpy()[:, :, genes]
    r = total_count.cpu().numpy()[:, None, genes]
    return np.stack([mixture_quantile(level, mean, r) for level in INTERVAL])
