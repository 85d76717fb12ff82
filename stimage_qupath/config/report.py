"""What ``report`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stimage_qupath.config.base import Settings, at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings(Settings):
    """Make one page of a finished run.

    Attributes
    ----------
    run
        Run folder.
    output
        File to make; None: ``report.html`` in the run folder, in place of an earlier one.
    slide
        The slide, where it is no longer at the place that the run noted.
    genes
        Genes of the run's panel; empty: those it wrote for QuPath.
    annotations
        QuPath GeoJSON to draw and to sum up, besides the regions of the run; None: none.
    permutations, seed
        Of the test of local clusters.
    force
        Replace ``output``.
    """

    run: Path
    output: Path | None = None
    slide: Path | None = None
    genes: tuple[str, ...] = ()
    annotations: Path | None = None
    permutations: int = 999
    seed: int = 0
    force: bool = False

    flow: ClassVar[str] = "report"

    def _check(self) -> None:
        at_least("permutations", self.permutations, 99)
        at_least("seed", self.seed, 0)
