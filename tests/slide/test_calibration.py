"""Which pixel size a run works with, and what it says when there is none."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stimage_qupath.errors import CalibrationError
from stimage_qupath.slide.calibration import pixel_size, require_square, slide_pixel_size
from stimage_qupath.slide.reader import open_slide


def test_what_the_file_states_is_used_unless_the_user_says_otherwise() -> None:
    assert pixel_size(0.25, None) == 0.25
    assert pixel_size(0.25, 0.5) == 0.5
    assert pixel_size(None, 0.5) == 0.5
    assert pixel_size(250.0, 0.25) == 0.25


@pytest.mark.parametrize("edge", [0.05, 5.0])
def test_the_bounds_are_included(edge: float) -> None:
    assert pixel_size(edge, None) == edge


@pytest.mark.parametrize("wrong", [None, 0.0, -1.0, 0.049, 5.01, 352.9, float("nan"), float("inf")])
def test_no_microscope_has_such_pixels(wrong: float | None) -> None:
    found = "none" if wrong is None else f"{wrong:g}"
    way_out = "pass --mpp, for example --mpp 0.25, or set the pixel size in QuPath's Image tab"
    with pytest.raises(CalibrationError, match=rf"found {found} in slide\.svs; {way_out}") as caught:
        pixel_size(wrong, None, what="slide.svs")
    assert caught.value.exit_code == 5


def test_a_wrong_override_is_blamed_itself() -> None:
    with pytest.raises(CalibrationError, match="found 40 in --mpp"):
        pixel_size(0.25, 40.0)


def slide_of(mpp_x: float | None, mpp_y: float | None) -> Any:
    mean = None if mpp_x is None or mpp_y is None else (mpp_x + mpp_y) / 2
    return SimpleNamespace(mpp=mean, mpp_x=mpp_x, mpp_y=mpp_y, path=SimpleNamespace(name="a.tif"))


def test_pixels_must_be_square_to_two_percent() -> None:
    assert slide_pixel_size(slide_of(0.5, 0.505), None) == pytest.approx(0.5025)
    with pytest.raises(CalibrationError, match=r"expected square pixels, found 0\.5 x 0\.6 um in a\.tif; resample"):
        slide_pixel_size(slide_of(0.5, 0.6), None)
    assert slide_pixel_size(slide_of(0.5, 0.6), 0.55) == 0.55
    with pytest.raises(CalibrationError, match=r"found none in a\.tif"):
        slide_pixel_size(slide_of(None, None), None)
    require_square(0.5, 0.51)


def test_an_open_slide_is_calibrated_by_what_it_states(formula_slide: Callable[..., Any]) -> None:
    with open_slide(formula_slide(mpp=0.4375).path) as slide:
        assert slide_pixel_size(slide, None) == pytest.approx(0.4375, rel=1e-6)
