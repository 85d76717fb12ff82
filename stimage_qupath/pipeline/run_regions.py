"""The regions of a run, and annotations beside them: what is in each, and how the viewer draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from stimage_qupath.export.run_reader import Run
from stimage_qupath.geojson_dialect import default_color
from stimage_qupath.pipeline.labelling import owners
from stimage_qupath.regions.annotations import read_regions
from stimage_qupath.results import Region

PLAIN_COLOUR: Final = "#e0a800"
"""Of regions without a class: QuPath's yellow, dark enough for a white slide."""
MARGIN: Final = 0.03
MOST_LETTERS: Final = 40
TOLERANCE: Final = 1 / 4000
"""Of the slide's long side: finer outlines cannot be seen."""


@dataclass(frozen=True, slots=True)
class RunRegions:
    """Regions with the nuclei in them.

    Attributes
    ----------
    of_run, given
        The run's own regions, and annotations of a file.
    rows_of_run, rows_given
        The nuclei of each.
    mpp
        um per level-0 pixel.
    tolerance_px
        How far a drawn outline may be from the true one.
    """

    of_run: Sequence[Region]
    given: Sequence[Region]
    rows_of_run: Sequence[NDArray[np.intp]]
    rows_given: Sequence[NDArray[np.intp]]
    mpp: float
    tolerance_px: float

    def groups(self) -> Iterator[tuple[str, list[dict[str, Any]], int]]:
        """Yield title, rows and the viewer's first number of each table."""
        yield "Regions of the run", self._rows(self.of_run, self.rows_of_run), 0
        if self.given:
            yield "Annotations", self._rows(self.given, self.rows_given), len(self.of_run)

    def _rows(self, regions: Sequence[Region], rows: Sequence[NDArray[np.intp]]) -> list[dict[str, Any]]:
        return [
            {
                "label": label(region, number),
                "classification": region.classification,
                "area_mm2": region.geometry.area * self.mpp**2 / 1e6,
                "rows": index,
            }
            for number, (region, index) in enumerate(zip(regions, rows, strict=True), start=1)
        ]

    def drawn(self) -> list[dict[str, Any]]:
        """Return each region as the viewer draws it."""
        return [self._drawn(region) for region in (*self.of_run, *self.given)]

    def _drawn(self, region: Region) -> dict[str, Any]:
        outline = shapely.simplify(region.geometry, self.tolerance_px)
        left, top, right, bottom = region.geometry.bounds
        rings = [np.round(shapely.get_coordinates(ring)).ravel().tolist() for ring in shapely.get_rings(outline)]
        return {
            "rings": rings,
            "colour": _colour(region),
            "caption": _short(region.name or region.classification or ""),
            "at": [(left + right) / 2, top],
            "box": _with_margin(left, top, right, bottom),
        }

    def home(self, size: tuple[float, float]) -> list[float]:
        """Return what the viewer shows first, x, y, width and height: all regions, else the whole slide."""
        regions = [*self.of_run, *self.given]
        if not regions:
            return [0.0, 0.0, *size]
        bounds = shapely.bounds(np.array([region.geometry for region in regions], dtype=object))
        low, high = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
        return _with_margin(*np.maximum(low, 0).tolist(), *np.minimum(high, size).tolist())


def read_run_regions(finished: Run, table: pd.DataFrame, annotations: Path | None) -> RunRegions:
    """Return the regions of a run, and those of a GeoJSON file, with the nuclei in each.

    Raises
    ------
    UsageError
        The file is missing.
    AnnotationError
        It is faulty, or holds no area annotation.
    """
    spans = finished.spans
    given: tuple[Region, ...] = () if annotations is None else read_regions(annotations).regions
    rows_given: list[NDArray[np.intp]] = []
    if given:
        owner = owners(given, table[["x_px", "y_px"]].to_numpy(np.float64))
        rows_given = [np.flatnonzero(owner == number) for number in range(len(given))]
    image = finished.record["image"]
    return RunRegions(
        of_run=[span.region for span in spans],
        given=given,
        rows_of_run=[np.arange(span.first, span.first + span.count) for span in spans],
        rows_given=rows_given,
        mpp=float(image["mpp"]),
        tolerance_px=max(image["width"], image["height"]) * TOLERANCE,
    )


def label(region: Region, number: int) -> str:
    """Return what a region is called: its name, else its class or kind with its number."""
    return region.name or f"{region.classification or region.source} {number}"


def _short(caption: str) -> str:
    return caption if len(caption) <= MOST_LETTERS else f"{caption[: MOST_LETTERS - 1]}…"


def _colour(region: Region) -> str:
    color = region.color or (default_color(region.classification) if region.classification else None)
    return PLAIN_COLOUR if color is None else "#{:02x}{:02x}{:02x}".format(*color)


def _with_margin(left: float, top: float, right: float, bottom: float) -> list[float]:
    margin = MARGIN * max(right - left, bottom - top)
    return [left - margin, top - margin, max(right - left, 1) + 2 * margin, max(bottom - top, 1) + 2 * margin]
