"""The whole slide as one region, for nuclei that are known already and need no search for tissue."""

from __future__ import annotations

from typing import Final

import shapely

from stimage_qupath.regions.identity import geometry_uuid
from stimage_qupath.results import Region
from stimage_qupath.slide.base import Slide

SOURCE: Final = "slide"


def whole_slide(slide: Slide) -> Region:
    """Return the rectangle of a slide as a region."""
    geometry = shapely.box(0, 0, slide.width, slide.height)
    return Region(id=geometry_uuid(geometry), geometry=geometry, source=SOURCE)
