"""A turned or cropped slide against arithmetic on the whole picture, and against QuPath's own pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.view import RotatedSlide, open_view


def whole(slide: Any) -> np.ndarray:
    return slide.read_region(0, 0, width=slide.width, height=slide.height)


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (180, 2), (270, 3)])
def test_a_rotation_is_that_of_the_array(tissue_slide: Any, degrees: int, quarters: int) -> None:
    with open_slide(tissue_slide.path) as plain, open_view(tissue_slide.path, (f"rotate {degrees}",)) as turned:
        expected = np.rot90(whole(plain), -quarters)
        assert (turned.height, turned.width) == expected.shape[:2]
        np.testing.assert_array_equal(whole(turned), expected)
        box = turned.read_region(33, 57, width=140, height=90)
        np.testing.assert_array_equal(box, expected[57:147, 33:173])
        corner = turned.read_region(-10, -20, width=60, height=50)
        assert (corner[:20] == 255).all()
        np.testing.assert_array_equal(corner[20:, 10:], expected[:30, :50])
        half = plain.levels[1]
        coarse = plain.read_region(0, 0, width=half.width, height=half.height, downsample=half.downsample_x)
        seen = turned.levels[1]
        assert (seen.height, seen.width) == np.rot90(coarse, -quarters).shape[:2]
        far = turned.read_region(100, 60, width=64, height=48, downsample=3.7)
        near = turned.read_region(100, 60, width=237, height=178)
        assert far.mean() == pytest.approx(near.mean(), abs=1)
        assert turned.content_id() != plain.content_id()
        assert turned.mpp == plain.mpp == tissue_slide.mpp
        assert turned.reader == plain.reader


def test_four_quarters_are_none(tissue_slide: Any) -> None:
    with open_slide(tissue_slide.path) as plain, open_view(tissue_slide.path, ("rotate 90", "rotate 270")) as back:
        np.testing.assert_array_equal(whole(back), whole(plain))


def test_a_crop_is_a_slice_with_white_around(tissue_slide: Any) -> None:
    with open_slide(tissue_slide.path) as plain, open_view(tissue_slide.path, ("crop 101,203,300,251",)) as cropped:
        expected = whole(plain)[203:454, 101:401]
        assert (cropped.width, cropped.height) == (300, 251)
        np.testing.assert_array_equal(whole(cropped), expected)
        around = cropped.read_region(-5, -7, width=320, height=270)
        np.testing.assert_array_equal(around[7:258, 5:305], expected)
        around[7:258, 5:305] = 255
        assert (around == 255).all()
        step = cropped.read_region(10, 20, width=40, height=30, downsample=2.0)
        inner = plain.read_region(111, 223, width=40, height=30, downsample=2.0)
        np.testing.assert_array_equal(step, inner)


def test_steps_compose(tissue_slide: Any) -> None:
    with open_slide(tissue_slide.path) as plain:
        expected = np.rot90(whole(plain), -1)[30:130, 20:220]
    with open_view(tissue_slide.path, ("rotate 90", "crop 20,30,200,100")) as view:
        np.testing.assert_array_equal(whole(view), expected)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("rotate 45", "'rotate 90|180|270' or 'crop X,Y,WIDTH,HEIGHT', found 'rotate 45'"),
        ("crop 0,0,9999,5", "expected a crop within 1110 x 1483 px, found 9999 x 5 at (0, 0)"),
        ("crop 0,0,0,5", "expected a crop within"),
    ],
)
def test_other_views_are_refused(tissue_slide: Any, step: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        open_view(tissue_slide.path, (step,))
    assert message in str(error.value)


def test_closing_a_view_closes_the_slide(tissue_slide: Any) -> None:
    plain = open_slide(tissue_slide.path)
    with RotatedSlide(plain, 90), pytest.raises(ValueError, match="expected a rotation by 90, 180 or 270 degrees"):
        RotatedSlide(plain, 91)
    with pytest.raises(ValueError, match="expected an open slide"):
        plain.read_region(0, 0, width=1, height=1)


def test_the_picture_of_a_formula_is_turned(formula_slide: Callable[..., Any]) -> None:
    slide = formula_slide()
    with open_view(slide.path, ("rotate 180",)) as turned:
        x, y = slide.picture.width - 400 - 100, slide.picture.height - 300 - 80
        expected = slide.picture.render(x, y, width=100, height=80, step=(1, 1))[::-1, ::-1]
        np.testing.assert_array_equal(turned.read_region(400, 300, width=100, height=80), expected)
