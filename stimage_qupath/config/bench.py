"""What ``bench`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.config.choices import DEVICES, STARTER


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings(Settings):
    """Time every stage on this machine.

    Attributes
    ----------
    slide
        Slide to use; None makes a synthetic one.
    mpp
        um per pixel, where the slide states none.
    cells
        About how many nuclei the synthetic slide shall have.
    model
        Model to predict with.
    segmenter
        What outlines nuclei.
    explain
        Whether to time the explanation of a gene too.
    repeats
        Runs; the median of each stage counts.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    threads
        Blocks read ahead.
    output
        JSON file to write, or None.
    """

    slide: Path | None = None
    mpp: float | None = None
    cells: int = 2000
    model: str = STARTER
    segmenter: str = "classical"
    explain: bool = False
    repeats: int = 3
    device: str = "auto"
    threads: int = 2
    output: Path | None = None

    flow: ClassVar[str] = "bench"

    def _check(self) -> None:
        one_of("device", self.device, DEVICES)
        at_least("cells", self.cells, 100)
        at_least("repeats", self.repeats, 1)
        at_least("threads", self.threads, 1)
