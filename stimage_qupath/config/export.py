"""What ``export`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stimage_qupath.config.base import Settings
from stimage_qupath.errors import UsageError

ExportFormat = Literal["geojson", "csv", "parquet", "h5ad", "spatialdata"]
ExportObject = Literal["cells", "tiles", "uncertain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings(Settings):
    """Write a finished run, or a part of it, for another program.

    Attributes
    ----------
    run
        Run folder; it is only read.
    output
        File to make; a folder for ``spatialdata``.
    format
        ``geojson`` for QuPath (compressed where the name ends in ``.gz``), ``csv`` in the form of QuPath's measurement
        table (tabs where the name ends in ``.tsv``), ``parquet``, ``h5ad``, or ``spatialdata``.
    genes
        Genes of the run's panel; empty: those it wrote for QuPath, and in ``h5ad`` the whole panel.
    regions
        Ids or names of the regions; empty: all.
    object
        ``cells``; or, as GeoJSON, ``tiles`` (squares with the means of their nuclei) or ``uncertain`` (areas to
        review).
    tile_um
        Side of a square.
    quantile
        A nucleus counts as uncertain if its relative epistemic SD is above that of this share of the nuclei.
    force
        Replace ``output``.
    """

    run: Path
    output: Path
    format: ExportFormat
    genes: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    object: ExportObject = "cells"
    tile_um: float = 100.0
    quantile: float = 0.9
    force: bool = False

    flow: ClassVar[str] = "export"

    def _check(self) -> None:
        if self.object != "cells" and self.format != "geojson":
            msg = f"expected format geojson for {self.object}, found {self.format}; pass --format geojson"
            raise UsageError(msg)
        if not 5 <= self.tile_um <= 5000:
            msg = f"expected tiles between 5 and 5000 um, found {self.tile_um}"
            raise UsageError(msg)
        if not 0.5 <= self.quantile < 1:
            msg = f"expected a quantile from 0.5 to under 1, found {self.quantile}"
            raise UsageError(msg)
