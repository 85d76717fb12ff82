"""The tissue of a slide, found without a person, as regions."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import Polygon
from skimage.measure import find_contours

from stimage_qupath.regions.coarse_view import COARSE_MPP, coarse_view
from stimage_qupath.regions.identity import geometry_uuid
from stimage_qupath.regions.tissue_mask import tissue_mask
from stimage_qupath.results import Region
from stimage_qupath.slide.base import Slide

SOURCE: Final = "tissue"

_LEAST_SHARE: Final = 0.25  # of a field of view, which may be smaller than what counts as a piece on a slide
_OUTLINE_BLUR_PX: Final = 1.0
_SIMPLIFY_PX: Final = 0.5


def find_tissue(
    slide: Slide,
    mpp: float,
    *,
    target_mpp: float = COARSE_MPP,
    min_area_um2: float = 40_000.0,
    max_hole_um2: float = 100_000.0,
) -> list[Region]:
    """Return the pieces of H&E-stained tissue on a slide, the largest first.

    Glass, pen marks (blue, green, red, black), dust, shadows and black padding are not tissue; see
    :mod:`~stimage_qupath.regions.tissue_mask` for how. Outlines are smooth and within about one coarse pixel.

    Parameters
    ----------
    slide
        Open slide.
    mpp
        um per level-0 pixel.
    target_mpp
        um per pixel of the coarse view that is looked at.
    min_area_um2
        Pieces of less are dropped: 0.04 mm^2 is a square of 200 um. On an image so small that this is more than a
        quarter of it, a quarter of the image.
    max_hole_um2
        Holes of less are filled.

    Returns
    -------
    list of Region
        ``source`` is ``tissue``, ``id`` the UUIDv5 of the geometry; valid Polygons in level-0 px that do not leave
        the image. Empty when there is no tissue.

    Raises
    ------
    ValueError
        If a size is not above 0.
    """
    sizes = {"mpp": mpp, "target_mpp": target_mpp, "min_area_um2": min_area_um2, "max_hole_um2": max_hole_um2}
    for name, value in sizes.items():
        if not 0 < value < math.inf:
            msg = f"expected {name} above 0, found {value}"
            raise ValueError(msg)
    min_area_um2 = min(min_area_um2, _LEAST_SHARE * slide.width * slide.height * mpp**2)
    view, downsample = coarse_view(slide, target_mpp / mpp)
    mask = tissue_mask(view, mpp=mpp * downsample, min_area_um2=min_area_um2, max_hole_um2=max_hole_um2)
    pieces = [piece for piece in _outlines(mask, downsample, slide) if piece.area * mpp**2 >= min_area_um2]
    pieces.sort(key=lambda piece: (-piece.area, piece.bounds))
    return [Region(id=geometry_uuid(piece), geometry=piece, source=SOURCE) for piece in pieces]


def _outlines(mask: NDArray[np.bool_], downsample: float, slide: Slide) -> list[Polygon]:
    """Return the parts of a mask as valid polygons with holes, level-0 px, inside the image."""
    soft = ndimage.gaussian_filter(mask.astype(np.float32), _OUTLINE_BLUR_PX, mode="nearest")
    # Beyond the image there is nothing, so that outlines close along its border; pixel centres stand at + 0.5.
    contours = find_contours(np.pad(soft, 1), 0.5)  # type: ignore[no-untyped-call]
    rings = [shapely.LineString((contour[:, ::-1] - 0.5) * downsample) for contour in contours if len(contour) > 3]
    area = shapely.build_area(shapely.GeometryCollection(rings))
    area = shapely.make_valid(shapely.simplify(area, _SIMPLIFY_PX * downsample))
    area = shapely.intersection(area, shapely.box(0, 0, slide.width, slide.height))
    return [part for part in shapely.get_parts(area) if isinstance(part, Polygon) and not part.is_empty]
