"""What ``train-cell-types`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.config.choices import DEVICES, Precision
from stimage_qupath.errors import UsageError

Level = Literal["nucleus", "neighbourhood", "region"]
Prior = Literal["training", "equal"]
LOOKS = ("appearance", "shape")
NUCLEUS_VIEWS = 4
"""On blocks left out, read in yet other stains and scales, two already lower the loss by a sixth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCellTypesSettings(Settings):
    """Train a classifier of nuclei, of the mixture of types around a place, or of tissue regions.

    Attributes
    ----------
    dataset
        CSV table of images and their labels.
    output
        Model folder to make.
    name
        Name on the card.
    level
        ``nucleus``: the type of each, from classified nuclei; ``neighbourhood``: the mixture of types, from the
        proportions of spots; ``region``: the tissue, from classified annotations.
    encoder
        A name that ``stimage-qupath encoders`` lists, or ``none``; None takes ``nucleus`` for nuclei, else ``context``.
    encoder_weights
        Local checkpoint of the encoder.
    precision
        What networks compute features in.
    looks
        What is looked at besides, of nuclei alone: ``appearance`` (stain of nucleus and rim) and ``shape``; None takes
        both for nuclei.
    views
        Further views of each image to learn from, in other stains and scales; None makes four for nuclei, else none.
    reference
        AnnData of cells whose type is known, for Xenium bundles.
    reference_column
        Column of its ``obs`` with the types.
    members
        Members of the ensemble.
    balanced
        Rare classes count as much as frequent ones while heads are fitted; not for mixtures.
    prior
        What the probabilities assume of the shares of the classes: those among the labels, or ``equal`` ones.
    cache, no_cache, licence, seed, device, batch_size, force
        As for training on expression.
    """

    dataset: Path
    output: Path
    name: str | None = None
    level: Level = "nucleus"
    encoder: str | None = None
    encoder_weights: Path | None = None
    precision: Precision = "float32"
    looks: tuple[str, ...] | None = None
    views: int | None = None
    reference: Path | None = None
    reference_column: str = "cell_type"
    members: int = 10
    balanced: bool = True
    prior: Prior = "training"
    cache: Path | None = None
    no_cache: bool = False
    licence: str = "not stated"
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    force: bool = False

    flow: ClassVar[str] = "train-cell-types"

    @property
    def views_of_image(self) -> int:
        """Further views of each image that are made."""
        return (NUCLEUS_VIEWS if self.level == "nucleus" else 0) if self.views is None else self.views

    def _check(self) -> None:
        one_of("device", self.device, DEVICES)
        at_least("members", self.members, 2)
        at_least("seed", self.seed, 0)
        if self.views is not None:
            at_least("views", self.views, 0)
        if self.batch_size is not None:
            at_least("batch_size", self.batch_size, 1)
        for look in self.looks or ():
            one_of("looks", look, LOOKS)
        if self.looks and self.level != "nucleus":
            msg = f"expected {' and '.join(self.looks)} only of nuclei, found level {self.level}; leave --looks out"
            raise UsageError(msg)
        if self.encoder == "none" and (self.level != "nucleus" or self.looks == ()):
            msg = "expected an encoder, appearance or shape to tell types by, found none of them; pass one"
            raise UsageError(msg)
