"""The pixel size that a TIFF file states: Aperio, OME, ImageJ or plain resolution tags."""

from __future__ import annotations

import math
import re
from typing import Final

from tifffile import TiffPage

from stimage_qupath.slide.calibration import HIGHEST_MPP, LOWEST_MPP
from stimage_qupath.slide.ome import UM_PER_UNIT, OmeImage

_UM_PER_RESOLUTION_UNIT: Final = {2: 25_400.0, 3: 10_000.0}  # inch, centimetre (TIFF 6.0)
_APERIO_MPP: Final = re.compile(r"\|\s*MPP\s*=\s*([0-9]*\.?[0-9]+)")
_IMAGEJ_UNIT: Final = re.compile(r"^unit=(.+)$", re.MULTILINE)


def stated_mpp(page: TiffPage, ome: OmeImage | None) -> tuple[float, float] | None:
    """Return um per pixel in x and y, or None where the file states none.

    Aperio's ``MPP`` and OME's ``PhysicalSize`` are returned as they stand, to be judged by
    :func:`~stimage_qupath.slide.calibration.pixel_size`. Resolution tags are returned only inside 0.05-5 um: outside,
    they are the dots per inch of some screen or printer.
    """
    if ome is not None and ome.mpp_xy is not None:
        return ome.mpp_xy
    description = page.description or ""
    aperio = _APERIO_MPP.search(description)
    if aperio is not None and description.startswith("Aperio"):
        mpp = float(aperio.group(1))
        return mpp, mpp
    return _resolution_mpp(page, description)


def _resolution_mpp(page: TiffPage, description: str) -> tuple[float, float] | None:
    imagej_unit = _IMAGEJ_UNIT.search(description) if description.startswith("ImageJ=") else None
    if imagej_unit is not None:
        unit_um = UM_PER_UNIT.get(imagej_unit.group(1).strip().lower())
    else:
        unit_um = _UM_PER_RESOLUTION_UNIT.get(int(page.tags.valueof("ResolutionUnit", default=2)))
    x, y = _pixels_per_unit(page, "XResolution"), _pixels_per_unit(page, "YResolution")
    x, y = x or y, y or x
    if unit_um is None or x is None or y is None:
        return None
    mpp = unit_um / x, unit_um / y
    return mpp if all(LOWEST_MPP <= value <= HIGHEST_MPP for value in mpp) else None


def _pixels_per_unit(page: TiffPage, tag: str) -> float | None:
    value = page.tags.valueof(tag)
    if not isinstance(value, tuple) or len(value) != 2 or not value[1]:
        return None
    ratio = float(value[0]) / float(value[1])
    return ratio if math.isfinite(ratio) and ratio > 0 else None
