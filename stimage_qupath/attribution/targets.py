"""What is explained: numbers that follow from the features of a place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stimage_qupath.errors import UsageError
from stimage_qupath.models.ensemble import FEATURE_LIMIT, Ensemble
from stimage_qupath.models.negative_binomial import LOG_MEAN_RANGE

LOG_MEAN: Final = "log mean"
EPISTEMIC: Final = "epistemic"
HIGH: Final = "high"
MEMBER: Final = "member "


@dataclass(frozen=True, slots=True)
class Slopes:
    """How outputs follow the features of places: the slope of an output is a sum over kinds of mix x shared.

    Attributes
    ----------
    shared
        (kind, place, feature).
    mix
        (output, kind, feature). Outputs that are linear share one kind, which says where features are within limits;
        of others each is a kind of its own.
    """

    shared: Tensor
    mix: Tensor


class Explained(ABC):
    """Features of a place to the outputs that are explained, one or one a member for each name.

    Attributes
    ----------
    genes
        Names of what is explained: genes, or a cell type.
    """

    genes: tuple[str, ...]

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of outputs of a place."""

    @abstractmethod
    def __call__(self, features: Tensor) -> Tensor:
        """Return the outputs, (..., output), of features, (..., feature); differentiable, members within names."""

    def by_gene(self, features: Tensor) -> Tensor:
        """Return the mean over members of the outputs, (..., gene), of features, (..., feature); differentiable."""
        found: Tensor = self(features).unflatten(-1, (len(self.genes), -1)).mean(dim=-1)
        return found

    def slopes(self, features: Tensor) -> Slopes:
        """Return the slopes of the outputs at places, from their features, (place, feature)."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = features.clone().requires_grad_()
            values = self(leaf).sum(dim=0)  # places do not look at each other
            rows = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in values]
        kinds = torch.eye(len(rows), dtype=features.dtype, device=features.device)
        return Slopes(torch.stack(rows), kinds[:, :, None].expand(-1, -1, features.shape[1]))

    def of_arrays(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the outputs of arrays, in double precision: differences of nearly equal numbers are taken of them."""
        with torch.inference_mode():
            return np.asarray(self(torch.as_tensor(np.asarray(features, np.float64))).numpy())

    def summarise(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return mean and SD over members, (..., gene) each, of values by output; no SD where there is one member.

        The mean over members of an attribution is the attribution of their mean: methods are linear in what they
        explain. Gradient methods give no SD, since members share one backward pass.
        """
        by_gene = values.reshape(*values.shape[:-1], len(self.genes), -1)
        sd = by_gene.std(axis=-1).astype(np.float32) if by_gene.shape[-1] > 1 else None
        return by_gene.mean(axis=-1).astype(np.float32), sd


@dataclass(frozen=True)
class Outputs(Explained):
    """Features of a place to the outputs that are explained.

    Attributes
    ----------
    ensemble
        Heads.
    genes
        Genes to explain.
    target
        ``log mean`` (of each member, so that mean and spread over the ensemble follow), ``member K`` (log mean of the
        K-th, from 0), ``epistemic`` (variance over members of the mean, counts^2) or ``high`` (probability that the
        gene is above its training median).
    """

    ensemble: Ensemble
    genes: tuple[str, ...]
    target: str = LOG_MEAN
    _weights: tuple[Tensor, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Choose the weights; refuse a target that there is not."""
        chosen = self.ensemble.take_genes(self.genes)
        heads, threshold = chosen.heads, chosen.high_low.threshold
        members = self._chosen(len(heads.bias))
        if self.target == HIGH and np.isnan(threshold).any():
            none = ", ".join(gene for gene, t in zip(self.genes, threshold, strict=True) if np.isnan(t))
            msg = f"expected genes that can be called high, found {none}, seen in too few training spots; leave it out"
            raise UsageError(msg)
        tensors = (
            heads.weight[members],
            heads.bias[members],
            heads.feature_mean,
            heads.feature_sd,
            chosen.total_count[members],
            threshold,
        )
        object.__setattr__(self, "_weights", tuple(torch.as_tensor(np.asarray(t, np.float64)) for t in tensors))

    def _chosen(self, members: int) -> list[int]:
        if self.target in (LOG_MEAN, EPISTEMIC, HIGH):
            return list(range(members))
        number = self.target.removeprefix(MEMBER)
        if self.target.startswith(MEMBER) and number.isdigit() and int(number) < members:
            return [int(number)]
        msg = (
            f"expected the target '{LOG_MEAN}', '{EPISTEMIC}', '{HIGH}' or '{MEMBER}0' to '{MEMBER}{members - 1}', "
            f"found '{self.target}'"
        )
        raise UsageError(msg)

    @property
    def count(self) -> int:
        """Number of outputs of a place."""
        return len(self.genes) * (1 if self.target in (EPISTEMIC, HIGH) else len(self._weights[1]))

    def __call__(self, features: Tensor) -> Tensor:
        """Return the outputs, (..., output), of features, (..., feature); differentiable."""
        weight, bias, mean, sd, total_count, threshold = (t.to(features) for t in self._weights)
        known = ((features - mean) / sd).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)
        log_mean = torch.einsum("...f,mfg->...gm", known, weight) + bias.T
        if self.target == EPISTEMIC:
            return log_mean.clamp(*LOG_MEAN_RANGE).exp().var(dim=-1, correction=0)
        if self.target == HIGH:
            r = total_count.T.expand_as(log_mean)
            at = r * threshold[:, None] / log_mean.clamp(*LOG_MEAN_RANGE).exp()
            chance: Tensor = torch.special.gammaincc(r, at).mean(dim=-1)
            return chance
        return log_mean.flatten(-2)

    def slopes(self, features: Tensor) -> Slopes:
        """Return the slopes of the outputs at places, from their features, (place, feature)."""
        if self.target in (EPISTEMIC, HIGH):
            return super().slopes(features)
        weight, _, mean, sd, _, _ = (t.to(features) for t in self._weights)
        within = ((features - mean) / sd).abs() <= FEATURE_LIMIT
        return Slopes((within / sd)[None], weight.permute(2, 0, 1).flatten(0, 1)[:, None])
