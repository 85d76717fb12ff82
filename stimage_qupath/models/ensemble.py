"""An ensemble of negative binomial heads on one frozen encoder, run as one batched product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.models.high_low import HighLow
from stimage_qupath.models.lone_threads import in_lone_threads
from stimage_qupath.models.negative_binomial import LOG_MEAN_RANGE, LOG_TOTAL_COUNT_RANGE, mixture_quantile
from stimage_qupath.models.recalibration import Recalibration
from stimage_qupath.models.uncertainty import OutlierScore, total_variance
from stimage_qupath.results import Panel, Prediction

INTERVAL = (0.05, 0.95)
VALUES_AT_ONCE = {"cpu": 2**18}
"""Means (place x member x gene) that are worked on at a time: on a processor what its cache holds, in a fifth of the
time; elsewhere :data:`VALUES_ON_DEVICE`."""
VALUES_ON_DEVICE = 2**26
FEATURE_LIMIT = 4.0
"""Standardised features beyond are held there: log means are linear in them, and would run away where nothing is known.
Such places have a high OOD score, which sees the features as they are."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Weights of the members: log mean = bias + (standardised features x projection) x loading.

    Attributes
    ----------
    feature_mean, feature_sd
        (feature,) standardisation, from the training tiles.
    projection
        (member, feature, factor): the few directions of the features that carry expression.
    loading
        (member, factor, gene).
    bias
        (member, gene), log of counts at reference depth.
    log_total_count
        (member, gene).
    """

    feature_mean: NDArray[np.float32]
    feature_sd: NDArray[np.float32]
    projection: NDArray[np.float32]
    loading: NDArray[np.float32]
    bias: NDArray[np.float32]
    log_total_count: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit each other, and weights that are not finite."""
        members, features, factors = self.projection.shape
        genes = self.loading.shape[-1]
        found = tuple(a.shape for a in (self.loading, self.bias, self.log_total_count, self.feature_mean))
        expected = ((members, factors, genes), (members, genes), (members, genes), (features,))
        if found != expected or self.feature_sd.shape != (features,):
            msg = f"expected heads that fit a projection of shape {self.projection.shape}, found {found}"
            raise ValueError(msg)
        arrays = (self.projection, self.loading, self.bias, self.log_total_count, self.feature_mean)
        sd = self.feature_sd
        if not all(np.isfinite(a).all() for a in (*arrays, sd)) or not (sd > 0).all():
            msg = "expected finite weights, found NaN or infinity; the model folder is damaged or training failed"
            raise ValueError(msg)

    @property
    def weight(self) -> NDArray[np.float32]:
        """Change of each log mean for a unit of each standardised feature, (member, feature, gene)."""
        return np.asarray(self.projection @ self.loading)

    def log_mean(self, standardised: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the log mean at reference depth of standardised features, (member, place, gene)."""
        return np.asarray((standardised @ self.projection) @ self.loading + self.bias[:, None])

    def take_genes(self, columns: NDArray[np.intp]) -> Heads:
        """Return the heads of some genes."""
        return replace(
            self,
            loading=self.loading[:, :, columns],
            bias=self.bias[:, columns],
            log_total_count=self.log_total_count[:, columns],
        )

    def standardise(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return features in training's units, (place, feature)."""
        return np.asarray((features - self.feature_mean) / self.feature_sd, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Heads, the genes they predict, and what training says of their limits.

    Attributes
    ----------
    panel, heads
        The genes and the members.
    outliers
        Distance from the training tiles.
    recalibration
        What is changed before variances and intervals are read off.
    high_low
        Thresholds between low and high.
    """

    panel: Panel
    heads: Heads
    outliers: OutlierScore
    recalibration: Recalibration
    high_low: HighLow

    def predict(
        self,
        features: NDArray[np.float32],
        *,
        device: torch.device,
        batch_size: int | None = None,
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
            Places at a time; None takes what is fast. Memory is ``batch_size x member x gene``.
        interval_genes
            Columns of the genes that also get the 5th and 95th percentile of the mixture and the probability of being
            high; the others hold NaN.
        """
        known = self.known(features)
        shape = (len(features), len(self.panel))
        mean, aleatoric, epistemic = (np.empty(shape, dtype=np.float32) for _ in range(3))
        extra = None if interval_genes is None else np.full((3, *shape), np.nan, dtype=np.float32)
        log_mean_of = self._log_mean(device)
        total_count = self.total_count
        on_device = _tensor(total_count, device)
        at_once = batch_size or max(1, VALUES_AT_ONCE.get(device.type, VALUES_ON_DEVICE) // self.heads.bias.size)

        def predict_from(start: int) -> None:
            rows = slice(start, start + at_once)
            members = log_mean_of(_tensor(known[rows], device)).clamp_(*LOG_MEAN_RANGE).exp_()
            for out, values in zip((mean, aleatoric, epistemic), total_variance(members, on_device), strict=True):
                out[rows] = values.cpu().numpy()
            if extra is not None:
                chosen = members.cpu().numpy()[:, :, interval_genes]
                extra[:, rows, interval_genes] = self._shape(chosen, total_count, interval_genes)

        with torch.inference_mode():
            in_lone_threads(predict_from, range(0, len(features), at_once), device=device)
        p05, p95, high = (None, None, None) if extra is None else extra
        score = self.outliers(self.heads.standardise(features))
        return Prediction(
            mean=mean, aleatoric=aleatoric, epistemic=epistemic, ood_score=score, p05=p05, p95=p95, high=high
        )

    @property
    def total_count(self) -> NDArray[np.float32]:
        """Total count of each member and gene after recalibration, (member, gene)."""
        log_r = self.recalibration.apply(self.heads.log_total_count)
        return np.exp(np.clip(log_r, *LOG_TOTAL_COUNT_RANGE)).astype(np.float32)

    def _shape(
        self, mean: NDArray[np.float32], total_count: NDArray[np.float32], genes: NDArray[np.intp] | None
    ) -> NDArray[np.float32]:
        """Return both ends of the interval and P(high) of some genes, (3, place, gene); ``mean`` is theirs alone."""
        r = total_count[:, genes]
        ends = [mixture_quantile(self.recalibration.levels(at)[genes], mean, r[:, None]) for at in INTERVAL]
        return np.stack([*ends, HighLow(self.high_low.threshold[genes]).probability(mean, r)])

    def known(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return standardised features, held within what the log means may be asked about, (place, feature)."""
        return np.clip(self.heads.standardise(features), -FEATURE_LIMIT, FEATURE_LIMIT)

    def _log_mean(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the map from standardised features to log means, (member, place, gene)."""
        bias = _tensor(self.heads.bias, device)[:, None]
        projection, loading = _tensor(self.heads.projection, device), _tensor(self.heads.loading, device)
        return lambda features: torch.baddbmm(bias, features @ projection, loading)

    def take_genes(self, genes: tuple[str, ...]) -> Ensemble:
        """Return the same ensemble for some of its genes, in the order given."""
        columns = self.panel.index(genes)
        return replace(
            self,
            panel=Panel(genes),
            heads=self.heads.take_genes(columns),
            recalibration=self.recalibration.take(columns),
            high_low=self.high_low.take(columns),
        )


def _tensor(values: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=device)
