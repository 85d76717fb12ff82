"""What the latent view is asked to show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stimage_qupath.config.base import Settings, at_least, one_of
from stimage_qupath.config.choices import DEVICES


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSettings(Settings):
    """Show nuclei of a finished run in the space of what the model sees of them.

    Attributes
    ----------
    run
        Run folder; gets the table and the pictures.
    genes
        Genes that nuclei are coloured by; empty: the first three of the run.
    image
        The slide, where it is no longer at the place that the run noted.
    places
        Nuclei that are drawn at most, drawn at random.
    device, batch_size, seed
        As for a prediction.
    """

    run: Path
    genes: tuple[str, ...] = ()
    image: Path | None = None
    places: int = 5000
    device: str = "auto"
    batch_size: int | None = None
    seed: int = 0

    flow: ClassVar[str] = "latent"

    def _check(self) -> None:
        one_of("device", self.device, DEVICES)
        at_least("places", self.places, 3)
        if self.batch_size is not None:
            at_least("batch_size", self.batch_size, 1)
