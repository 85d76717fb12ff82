"""What ``evaluate`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.config.choices import DEVICES, PERTURBATIONS, Likelihood, Precision, Recalibrate
from stimage_qupath.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings(Settings):
    """Score predictions on measured sections.

    Attributes
    ----------
    dataset
        CSV table of sections.
    output
        Folder to make.
    model
        Model to score; None with ``leave_one_out``.
    leave_one_out
        Train on all but one ``section`` or ``patient`` in turn, and score what was left out.
    genes
        File with one symbol a line, or ``fold`` (chosen in each fold for variability; as None), or ``detected`` (seen
        in 5 % of the training spots). With a model: a file that restricts its panel.
    panel_size, encoder, encoder_weights, precision, members, likelihood, recalibrate
        As in training; for ``leave_one_out`` only.
    protocol
        ``stimage``, the protocol of this package, or ``hest``, that of HEST-Benchmark (encoder and sections only).
    perturb
        Kinds of change to the images under which the model is scored again: ``stain``, ``blur``, ``jpeg``, ``scale``.
    other_tissue
        Images of other tissue that the OOD score should find, ``PATH`` or ``PATH=MPP``.
    cache, no_cache
        As in training.
    replicates
        Of the bootstrap over spatial blocks.
    seed, device, batch_size, threads, force
        As for a prediction.
    """

    dataset: Path
    output: Path
    model: str | None = None
    leave_one_out: Literal["section", "patient"] | None = None
    genes: Path | None = None
    panel_size: int = 1000
    encoder: str = "context"
    encoder_weights: Path | None = None
    precision: Precision = "float32"
    cache: Path | None = None
    no_cache: bool = False
    members: int = 10
    likelihood: Likelihood = "nb"
    recalibrate: Recalibrate = "conformal"
    protocol: Literal["stimage", "hest"] = "stimage"
    perturb: tuple[str, ...] = ()
    other_tissue: tuple[str, ...] = ()
    replicates: int = 1000
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    threads: int = 2
    force: bool = False

    flow: ClassVar[str] = "evaluate"

    def _check(self) -> None:
        one_of("device", self.device, DEVICES)
        at_least("members", self.members, 2)
        at_least("replicates", self.replicates, 20)
        if self.leave_one_out is not None:
            one_of("leave_one_out", self.leave_one_out, ("section", "patient"))
        for kind in self.perturb:
            one_of("perturb", kind, PERTURBATIONS)
        if self.other_tissue and not self.perturb:
            msg = "expected other_tissue only with perturb, found it alone; add --perturb stain,blur,jpeg,scale"
            raise UsageError(msg)
        if self.protocol == "hest" and (self.model or self.perturb):
            msg = "expected an encoder alone with protocol hest, found a model or perturbations; leave those out"
            raise UsageError(msg)
        if self.protocol == "stimage" and (self.model is None) == (self.leave_one_out is None):
            msg = "expected either a model or a way to leave sections out, found both or neither; pass one of the two"
            raise UsageError(msg)
