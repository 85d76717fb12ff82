"""The one pixel size of a run: what the image states, or what the caller says instead."""

from __future__ import annotations

import math
from typing import Final

from stimage_qupath.errors import CalibrationError
from stimage_qupath.slide.base import Slide

LOWEST_MPP: Final = 0.05
HIGHEST_MPP: Final = 5.0
"""um per pixel: below is finer than light resolves, above no nucleus is seen."""

SQUARE_TOLERANCE: Final = 0.02
_WAY_OUT: Final = "pass --mpp, for example --mpp 0.25, or set the pixel size in QuPath's Image tab"


def pixel_size(stated: float | None, override: float | None, *, what: str = "the image") -> float:
    """Return the um per level-0 pixel to work with.

    Parameters
    ----------
    stated
        What the file or QuPath says, None where it says nothing.
    override
        What the user says; wins over ``stated``.
    what
        Name of the image, for the message.

    Raises
    ------
    CalibrationError
        If there is no pixel size, or one outside 0.05-5 um.
    """
    mpp = stated if override is None else override
    if mpp is None:
        msg = f"expected a pixel size, found none in {what}; {_WAY_OUT}"
        raise CalibrationError(msg)
    if not math.isfinite(mpp) or not LOWEST_MPP <= mpp <= HIGHEST_MPP:
        where = what if override is None else "--mpp"
        msg = f"expected a pixel size of {LOWEST_MPP}-{HIGHEST_MPP:g} um, found {mpp:g} in {where}; {_WAY_OUT}"
        raise CalibrationError(msg)
    return float(mpp)


def slide_pixel_size(slide: Slide, override: float | None, *, what: str | None = None) -> float:
    """Return the um per level-0 pixel of an open slide; as :func:`pixel_size`, and pixels must be square.

    Raises
    ------
    CalibrationError
        As :func:`pixel_size`, and where x and y differ by more than 2 % and the user did not say one size.
    """
    what = what or slide.path.name
    if override is None and slide.mpp_x and slide.mpp_y:
        require_square(slide.mpp_x, slide.mpp_y, what=what)
    return pixel_size(slide.mpp, override, what=what)


def require_square(mpp_x: float, mpp_y: float, *, what: str = "the image") -> None:
    """Raise where pixels are not square.

    Raises
    ------
    CalibrationError
        If x and y differ by more than 2 %.
    """
    if max(mpp_x, mpp_y) > min(mpp_x, mpp_y) * (1 + SQUARE_TOLERANCE):
        msg = (
            f"expected square pixels, found {mpp_x:g} x {mpp_y:g} um in {what}; resample the image, "
            "or pass --mpp if one of the two is wrong"
        )
        raise CalibrationError(msg)
