"""Whether spots lie on the tissue of their image, and what it looks like when they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.regions.coarse_view import coarse_view
from stimage_qupath.regions.tissue_mask import tissue_mask
from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.spots.aggregate import aggregate
from stimage_qupath.spots.section import Section

VIEW_MPP: Final = 16.0
SMALLEST_VIEW_PX: Final = 300
LEAST_ON_TISSUE: Final = 0.5
"""Share from which nothing is said: arrays reach beyond the section, and pale fat is hardly tissue."""
CLEAR_GAIN: Final = 0.2
"""What exchanged axes must add to the share before they are held for swapped."""
MANY_BESIDE: Final = 0.1
FEWER_BESIDE: Final = 4.0
"""Or: a tenth lies beside the tissue, with exchanged axes four times fewer (square sections hide the exchange)."""
LEAST_INSIDE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the spots of a section lie.

    Attributes
    ----------
    inside, on_tissue
        Share of the spots within the image, and on its tissue.
    swapped_on_tissue
        The same with x and y exchanged.
    tissue
        Share of the image that is tissue: what spots thrown at random would reach.
    """

    inside: float
    on_tissue: float
    swapped_on_tissue: float
    tissue: float

    @property
    def looks_swapped(self) -> bool:
        """Whether exchanged axes put clearly more spots on tissue."""
        beside, swapped_beside = 1 - self.on_tissue, 1 - self.swapped_on_tissue
        fewer = beside >= MANY_BESIDE and swapped_beside * FEWER_BESIDE <= beside
        return beside - swapped_beside >= CLEAR_GAIN or fewer


def placement(points_px: NDArray[np.float64], slide: Slide, mpp: float) -> Placement:
    """Return where spots lie, judged on a coarse view.

    Parameters
    ----------
    points_px
        (spot, 2) x and y, level-0 px.
    slide, mpp
        Open image and its pixel size.
    """
    side = max(slide.width, slide.height)
    view, downsample = coarse_view(slide, min(VIEW_MPP / mpp, side / SMALLEST_VIEW_PX))
    mask = tissue_mask(view, mpp=mpp * downsample, min_area_um2=0.0, max_hole_um2=100_000.0)
    size = np.array([slide.width, slide.height])
    inside = np.all((points_px >= 0) & (points_px < size), axis=1)
    return Placement(
        inside=float(inside.mean()) if len(points_px) else 0.0,
        on_tissue=_share(mask, points_px / downsample),
        swapped_on_tissue=_share(mask, points_px[:, ::-1] / downsample),
        tissue=float(mask.mean()),
    )


def _share(mask: NDArray[np.bool_], points: NDArray[np.float64]) -> float:
    """Return the share of points (x, y in pixels of the mask) on it; none beyond its edge."""
    if not len(points):
        return 0.0
    column, row = np.floor(points).astype(np.int64).T
    inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    return float(mask[row[inside], column[inside]].sum() / len(points))


def place_sections(sections: Sequence[Section], *, aggregate_um: float | None = None) -> list[Section]:
    """Check every section against its image, and add up bins and cells where that is asked for.

    Parameters
    ----------
    sections
        As read.
    aggregate_um
        Diameter of the discs that bins and cells are added up to, or None.

    Returns
    -------
    list of Section
        With a note where spots lie beside the tissue.

    Raises
    ------
    UsageError
        Spots lie outside the image, or their axes look swapped.
    ImageError, CalibrationError
        Of the image.
    """
    placed = []
    for section in sections:
        with open_slide(section.image) as slide:
            mpp = slide_pixel_size(slide, section.mpp, what=f"the image of section {section.name}")
            found = placement(section.positions_px, slide, mpp)
            size = f"{slide.width} x {slide.height}"
        note = check_placement(found, section.name, size)
        section = replace(section, notes=(*section.notes, note)) if note else section
        if aggregate_um is not None:
            section = aggregate(section, diameter_um=aggregate_um, mpp=mpp)
        placed.append(section)
    return placed


def check_placement(found: Placement, name: str, size: str) -> str | None:
    """Return what is to be said of a section whose spots lie oddly; raise where training on it would be wrong.

    Parameters
    ----------
    found
        Where its spots lie.
    name, size
        Of the section and its image, for the message.

    Raises
    ------
    UsageError
        The axes look swapped, or the spots lie outside the image.
    """
    if found.looks_swapped:
        msg = (
            f"expected the spots of section {name} on its tissue, found {found.on_tissue:.0%} of them there and "
            f"{found.swapped_on_tissue:.0%} with x and y exchanged; write yx into the column axes of the dataset table"
        )
        raise UsageError(msg)
    if found.inside < LEAST_INSIDE:
        msg = (
            f"expected the spots of section {name} within its image of {size} px, found {found.inside:.0%} of them; "
            "pass the full image that the platform's software was given, or fill the column image_scale"
        )
        raise UsageError(msg)
    if found.on_tissue < min(LEAST_ON_TISSUE, found.tissue + CLEAR_GAIN):
        return f"only {found.on_tissue:.0%} of the spots lie on tissue; check that positions and image belong together"
    return None
