"""What ``validate`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stimage_qupath.config.base import Settings, at_least
from stimage_qupath.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateSettings(Settings):
    """Hold the predictions of a finished run against a person's annotations.

    Attributes
    ----------
    run
        Run folder; it is only read.
    annotations
        GeoJSON exported from QuPath: annotations with classes, or classified cells, detections and points.
    output
        Folder to make; None: ``NAME-validation`` beside the run.
    by
        What tells annotations apart: their ``class`` or their ``name``.
    rest
        What a class is compared with: ``annotated`` nuclei of other classes, or ``all`` other nuclei of the run.
    second
        Annotations of the same slide by another person, or None.
    genes
        Genes of the run's panel; empty: those it wrote for QuPath.
    block_um
        Side of a spatial block.
    replicates, permutations
        Of the bootstrap and of the permutation test.
    seed
        Of both.
    force
        Replace an earlier validation.
    """

    run: Path
    annotations: Path
    output: Path | None = None
    by: Literal["class", "name"] = "class"
    rest: Literal["annotated", "all"] = "annotated"
    second: Path | None = None
    genes: tuple[str, ...] = ()
    block_um: float = 600.0
    replicates: int = 1000
    permutations: int = 999
    seed: int = 0
    force: bool = False

    flow: ClassVar[str] = "validate"

    def _check(self) -> None:
        at_least("replicates", self.replicates, 100)
        at_least("permutations", self.permutations, 99)
        at_least("seed", self.seed, 0)
        if not 20 <= self.block_um <= 10_000:
            msg = f"expected spatial blocks between 20 and 10000 um, found {self.block_um}"
            raise UsageError(msg)
