"""What ``explain`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.config.choices import DEVICES
from stimage_qupath.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainSettings(Settings):
    """Say of each nucleus of a finished run how much it drove the prediction of some genes.

    Attributes
    ----------
    run
        Run folder; gets the attributions.
    genes
        Genes to explain.
    method, fill
        How (see :mod:`stimage_qupath.attribution.methods`), and what stands where something is removed (see
        :mod:`stimage_qupath.attribution.fills`).
    target
        ``log mean``, ``member K``, ``epistemic`` or ``high``.
    difference
        Two of the genes, of which the second's map is taken from the first's; empty: none.
    image
        The slide, where it is no longer at the place that the run noted.
    stride_um
        Spacing of the places whose predictions are explained; None chooses by the encoder.
    samples
        Perturbations a window, of LIME and KernelSHAP.
    resume
        Go on with an explanation that was interrupted.
    clear_dead_locks
        Take over a lock of another machine that was not renewed for minutes.
    faithfulness, faithfulness_blocks
        Also test whether the attributions are true of the model, on that many blocks of the slide at most.
    annotations
        GeoJSON exported from QuPath, in whose classes nuclei of high attribution are counted; None: nowhere.
    device, batch_size, seed
        As for a prediction.
    """

    run: Path
    genes: tuple[str, ...]
    method: str = "ablation"
    fill: str = "white"
    target: str = "log mean"
    difference: tuple[str, ...] = ()
    image: Path | None = None
    stride_um: float | None = None
    samples: int = 500
    resume: bool = False
    clear_dead_locks: bool = False
    faithfulness: bool = False
    faithfulness_blocks: int = 60
    annotations: Path | None = None
    device: str = "auto"
    batch_size: int | None = None
    seed: int = 0

    flow: ClassVar[str] = "explain"

    def _check(self) -> None:
        one_of("device", self.device, DEVICES)
        at_least("samples", self.samples, 2)
        at_least("faithfulness_blocks", self.faithfulness_blocks, 1)
        if self.batch_size is not None:
            at_least("batch_size", self.batch_size, 1)
        if not self.genes:
            msg = "expected a gene to explain, found none; pass --gene"
            raise UsageError(msg)
        if self.difference and not (len(set(self.difference)) == 2 and set(self.difference) <= set(self.genes)):
            msg = f"expected a difference of two of {', '.join(self.genes)}, found {', '.join(self.difference)}"
            raise UsageError(msg)
        if self.stride_um is not None and not 1 <= self.stride_um <= 1000:
            msg = f"expected a stride between 1 and 1000 um, found {self.stride_um}"
            raise UsageError(msg)
