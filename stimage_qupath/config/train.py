"""What ``train`` and ``train-nuclei`` are asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.config.choices import (
    DEVICES,
    MOST_AGGREGATE_UM,
    STAIN_NORMALISATIONS,
    Likelihood,
    Precision,
    Recalibrate,
)
from stimage_qupath.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(Settings):
    """Train an ensemble on measured sections.

    Attributes
    ----------
    dataset
        CSV table of sections.
    output
        Model folder to make.
    name
        Name on the card.
    genes
        File with one symbol or accession a line, or a word that :func:`stimage_qupath.spots.panel_choice.choose_panel`
        knows, such as ``pam50`` or ``svg:500``; None chooses the most variable genes of the training sections.
    panel_size
        Genes to choose where no file is given.
    min_detection
        Expression floor of chosen genes: share of the spots with a count, in the section where it is highest.
    gene_table
        CSV with the columns ``gene_id, symbol``, for counts that name accessions alone.
    aggregate_um
        Add small bins and single cells up to discs of this diameter; None leaves them.
    stain_normalisation
        ``none``, ``macenko``, ``reinhard``, ``vahadane``, or ``auto``: what the inner split says is best.
    encoder
        A name that ``stimage-qupath encoders`` lists, or ``timm:<model>``; several joined by ``+`` share the members.
    encoder_weights
        Local checkpoint of the encoder, or a folder laid out as the hub's snapshot.
    precision
        What networks compute features in.
    cache
        Folder where features are kept; None takes the user's.
    no_cache
        Compute features anew and keep none.
    members
        Members of the ensemble.
    likelihood
        ``nb``, or ``poisson`` for comparison.
    recalibrate
        How intervals are corrected on out-of-fold predictions: ``conformal``, ``temperature``, ``both`` or ``none``.
    hold_out
        Sections kept out of training and scored once.
    fine_tune
        Learn the encoder further on the training sections, end to end.
    fine_tune_epochs
        Rounds of that at most; None: 20.
    learning_rate
        Of the encoder's last layer; None: 1e-4.
    licence
        Of the training data, for the card.
    seed, device, batch_size, threads, force
        As for a prediction.
    """

    dataset: Path
    output: Path
    name: str | None = None
    genes: Path | None = None
    panel_size: int = 1000
    min_detection: float = 0.2
    gene_table: Path | None = None
    aggregate_um: float | None = None
    stain_normalisation: str = "none"
    encoder: str = "context"
    encoder_weights: Path | None = None
    precision: Precision = "float32"
    cache: Path | None = None
    no_cache: bool = False
    members: int = 10
    likelihood: Likelihood = "nb"
    recalibrate: Recalibrate = "conformal"
    hold_out: tuple[str, ...] = ()
    fine_tune: bool = False
    fine_tune_epochs: int | None = None
    learning_rate: float | None = None
    licence: str = "not stated"
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    threads: int = 2
    force: bool = False

    flow: ClassVar[str] = "train"

    def _check(self) -> None:
        one_of("device", self.device, DEVICES)
        at_least("members", self.members, 2)
        at_least("panel_size", self.panel_size, 1)
        at_least("threads", self.threads, 1)
        one_of("stain_normalisation", self.stain_normalisation, STAIN_NORMALISATIONS)
        self._check_fine_tuning()
        if not 0 <= self.min_detection <= 1:
            msg = f"expected min_detection between 0 and 1, found {self.min_detection}"
            raise UsageError(msg)
        if self.aggregate_um is not None and not 0 < self.aggregate_um <= MOST_AGGREGATE_UM:
            msg = f"expected aggregate_um above 0 and up to {MOST_AGGREGATE_UM:g}, found {self.aggregate_um}"
            raise UsageError(msg)

    def _check_fine_tuning(self) -> None:
        given = [name for name in ("fine_tune_epochs", "learning_rate") if getattr(self, name) is not None]
        if given and not self.fine_tune:
            msg = f"expected {' and '.join(given)} only with fine tuning, found it without; add --fine-tune"
            raise UsageError(msg)
        if self.fine_tune_epochs is not None:
            at_least("fine_tune_epochs", self.fine_tune_epochs, 1)
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            msg = f"expected a learning rate above 0 and up to 1, found {self.learning_rate}"
            raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainNucleiSettings(Settings):
    """Train a nucleus network on annotated images.

    Attributes
    ----------
    dataset
        CSV table of images and their labels.
    output
        Model folder to make.
    name
        Name on the card.
    start_from
        ``bundled``, or a model folder whose weights training begins with; None: random weights.
    epochs
        Rounds, after each of which the validation images are scored.
    steps
        Batches a round; None: as many as cover the images once.
    learning_rate
        The highest; None: that of the fit, 2e-3.
    precision
        ``float32``, or ``bfloat16``: faster on recent processors, not the same to the last digit.
    validation_fraction
        Share of the images that epoch and thresholds are chosen on, where the table does not say which.
    seed, device, batch_size, threads, force
        As for a prediction.
    """

    dataset: Path
    output: Path
    name: str | None = None
    start_from: str | None = None
    epochs: int = 60
    steps: int | None = None
    learning_rate: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    validation_fraction: float = 0.2
    seed: int = 0
    device: str = "auto"
    batch_size: int = 8
    threads: int = 2
    force: bool = False

    flow: ClassVar[str] = "train-nuclei"

    def _check(self) -> None:
        one_of("device", self.device, DEVICES)
        for name in ("epochs", "batch_size", "threads"):
            at_least(name, getattr(self, name), 1)
        if self.steps is not None:
            at_least("steps", self.steps, 1)
        at_least("seed", self.seed, 0)
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            msg = f"expected learning_rate between 0 and 1, both excluded, found {self.learning_rate}"
            raise UsageError(msg)
        if not 0 < self.validation_fraction < 1:
            msg = f"expected validation_fraction between 0 and 1, both excluded, found {self.validation_fraction}"
            raise UsageError(msg)
