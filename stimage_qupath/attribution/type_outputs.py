"""A cell type as what is explained: its logit, of each member of an ensemble of cell types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from stimage_qupath.attribution.targets import Explained
from stimage_qupath.errors import UsageError
from stimage_qupath.models.cell_type import CellTypeEnsemble
from stimage_qupath.models.ensemble import FEATURE_LIMIT

CELL_TYPE: Final = "cell-type:"


class MemberLogits(Protocol):
    """Features to logits, whatever lies between.

    Attributes
    ----------
    classes
        Names of the types.
    members
        How many heads there are.
    """

    classes: tuple[str, ...]
    members: int

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits, (..., member, class), of features, (..., feature); differentiable."""
        ...


class SoftmaxLogits:
    """The logits of an ensemble of softmax heads, as :meth:`CellTypeEnsemble.logits` gives them, on tensors.

    Parameters
    ----------
    ensemble
        Cell types.
    """

    def __init__(self, ensemble: CellTypeEnsemble) -> None:
        self.classes, self.members = ensemble.classes, ensemble.members
        heads = ensemble.heads
        parts = (heads.weight, heads.bias, heads.feature_mean, heads.feature_sd)
        self._parts = tuple(torch.as_tensor(np.asarray(part, np.float64)) for part in parts)
        self._temperature = heads.temperature

    def __call__(self, features: Tensor) -> Tensor:
        """See :class:`MemberLogits`."""
        weight, bias, mean, sd = (part.to(features) for part in self._parts)
        known = ((features - mean) / sd).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)
        return (torch.einsum("...f,mfc->...mc", known, weight) + bias) / self._temperature


@dataclass(frozen=True)
class TypeOutputs(Explained):
    """Features of a place to the logit of one type, centred, so that it says this type against the others.

    A softmax does not change when the same is added to all logits; so what counts is the logit minus the mean of all.

    Attributes
    ----------
    logits
        Of the members.
    target
        ``cell-type:`` and the name of a type.
    """

    logits: MemberLogits
    target: str

    def __post_init__(self) -> None:
        """Refuse a type that there is not."""
        name = self.target.removeprefix(CELL_TYPE)
        if not self.target.startswith(CELL_TYPE) or name not in self.logits.classes:
            there = ", ".join(f"'{CELL_TYPE}{name}'" for name in self.logits.classes)
            msg = f"expected a target out of {there}, found '{self.target}'"
            raise UsageError(msg)
        object.__setattr__(self, "genes", (f"Cell type: {name}",))

    @property
    def count(self) -> int:
        """Number of members."""
        return self.logits.members

    def __call__(self, features: Tensor) -> Tensor:
        """Return the centred logit of each member, (..., member), of features, (..., feature)."""
        found = self.logits(features)
        column = self.logits.classes.index(self.target.removeprefix(CELL_TYPE))
        return found[..., column] - found.mean(dim=-1)
