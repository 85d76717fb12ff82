"""What ``read_region`` returns, against a picture whose every pixel is a formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stimage_qupath.slide.reader import Level, Slide, open_slide


@pytest.fixture(scope="module")
def written(formula_slide: Callable[..., Any]) -> Any:
    """Return a two-level pyramid of ratio 3.87."""
    return formula_slide()


@pytest.fixture(scope="module")
def slide(written: Any) -> Iterator[Slide]:
    """Return it open."""
    with open_slide(written.path) as opened:
        yield opened


def stitched(slide: Slide, *, downsample: float, tile: int) -> NDArray[np.uint8]:
    """Return the whole slide, read in squares of ``tile`` px."""
    width, height = int(slide.width / downsample), int(slide.height / downsample)
    whole = np.empty((height, width, 3), np.uint8)
    for i in range(0, height, tile):
        for j in range(0, width, tile):
            h, w = min(tile, height - i), min(tile, width - j)
            whole[i : i + h, j : j + w] = slide.read_region(
                j * downsample, i * downsample, width=w, height=h, downsample=downsample
            )
    return whole


def measured_centroid(region: NDArray[np.uint8], downsample: float, blob: NDArray[np.float64]) -> tuple[float, float]:
    """Return the centroid, level-0 px, of what is stained within five sigma of a blob."""
    reach = 5 * blob[2]
    x0, x1 = (int(v / downsample) for v in (blob[0] - reach, blob[0] + reach))
    y0, y1 = (int(v / downsample) for v in (blob[1] - reach, blob[1] + reach))
    x0, y0 = max(x0, 0), max(y0, 0)
    stain = 255.0 - region[y0 : y1 + 1, x0 : x1 + 1, 1]
    j, i = np.arange(stain.shape[1]), np.arange(stain.shape[0])
    x = (stain.sum(0) @ (x0 + j + 0.5)) / stain.sum() * downsample
    y = (stain.sum(1) @ (y0 + i + 0.5)) / stain.sum() * downsample
    return x, y


@pytest.mark.parametrize("tile", [61, 224, 4000])
@pytest.mark.parametrize("mpp", [0.3, 0.5, 1.1, 2.2])
def test_blobs_stay_where_they_are(slide: Slide, written: Any, mpp: float, tile: int) -> None:
    downsample = mpp / written.mpp
    region = stitched(slide, downsample=downsample, tile=tile)
    inner = [b for b in written.picture.blobs if min(b[0], b[1], slide.width - b[0], slide.height - b[1]) > 5 * b[2]]
    found = np.array([measured_centroid(region, downsample, blob) for blob in inner])
    error = found - np.array(inner)[:, :2]
    limit = 0.5 * max(downsample, 1.0)
    assert len(inner) > 60
    assert np.hypot(*error.T).max() < limit / 2, "half of the half pixel that is promised"
    assert np.abs(error.mean(axis=0)).max() < 0.02 * max(downsample, 1.0), "no drift of the whole picture"


@pytest.mark.parametrize(("mpp", "level"), [(0.3, 0), (0.5, 0), (1.1, 0), (1.93, 0), (1.95, 1), (2.2, 1), (40.0, 1)])
def test_the_coarsest_level_that_is_fine_enough_is_read(slide: Slide, written: Any, mpp: float, level: int) -> None:
    assert slide.level_for(mpp / written.mpp) == level


def test_both_axes_of_a_level_must_be_fine_enough() -> None:
    assert Level(1000, 1000, 2.0, 2.0).serves(2.0)
    assert not Level(1000, 1000, 2.0, 2.1).serves(2.0)
    assert not Level(1000, 1000, 2.1, 2.0).serves(2.0)


def test_half_of_an_odd_width_serves_a_downsample_of_two(formula_slide: Callable[..., Any]) -> None:
    with open_slide(formula_slide(sizes=((1110, 1483), (555, 741))).path) as slide:
        assert slide.levels[1].downsample_y > 2
        assert slide.level_for(2.0) == 1
        assert slide.level_for(1.99) == 0


@pytest.mark.parametrize("downsample", [0.37, 1.0, 2.6, 4.0, 11.3])
def test_blocks_agree_with_one_big_region(slide: Slide, downsample: float) -> None:
    whole = stitched(slide, downsample=downsample, tile=4000).astype(int)
    blocks = stitched(slide, downsample=downsample, tile=97)
    assert np.abs(whole - blocks).max() <= 1


def test_a_large_read_in_steps_agrees_with_one_step(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    request: dict[str, Any] = {"width": 600, "height": 800, "downsample": 1.9}
    one_step = slide.read_region(-20.3, 11.1, **request).astype(int)
    monkeypatch.setattr(type(slide), "_block_shape", lambda *_: (133, 77))
    assert np.abs(one_step - slide.read_region(-20.3, 11.1, **request)).max() <= 1


def test_on_the_grid_of_a_level_pixels_are_those_of_the_file(slide: Slide, written: Any) -> None:
    pixels = written.picture.level(slide.width, slide.height)
    region = slide.read_region(301, 517, width=300, height=200, downsample=1)
    np.testing.assert_array_equal(region, pixels[517:717, 301:601])


def test_on_the_grid_of_a_coarse_level_pixels_are_those_of_the_file(formula_slide: Callable[..., Any]) -> None:
    written = formula_slide(sizes=((1110, 1482), (185, 247)))
    with open_slide(written.path) as slide:
        region = slide.read_region(6 * 20, 6 * 31, width=100, height=150, downsample=6)
    np.testing.assert_array_equal(region, written.picture.level(185, 247)[31:181, 20:120])


@pytest.mark.parametrize("downsample", [0.7, 1.6, 3.0, 7.0])
def test_content_is_that_of_the_formula(slide: Slide, written: Any, downsample: float) -> None:
    request: dict[str, Any] = {"width": int(700 / downsample), "height": int(500 / downsample)}
    region = slide.read_region(103.4, 77.7, downsample=downsample, **request).astype(int)
    expected = written.picture.render(103.4, 77.7, step=(downsample, downsample), **request)
    # The triangle filter is wider than the box of the formula: peaks are a little lower, the means equal.
    assert np.abs(region - expected).mean() < 1.2
    assert abs(region.mean() - expected.mean()) < 0.05


@pytest.mark.parametrize("downsample", [1.3, 1.6, 2.7])
def test_a_line_of_one_pixel_weighs_the_same_wherever_it_falls(tmp_path: Path, downsample: float) -> None:
    pixels = np.full((40, 80, 3), 255, np.uint8)
    pixels[:, 40] = 0
    Image.fromarray(pixels).save(tmp_path / "line.png")
    weights = []
    with open_slide(tmp_path / "line.png") as slide:
        for shift in np.linspace(0, downsample, 25):
            row = slide.read_region(20 + shift, 20, width=20, height=1, downsample=downsample)[0, :, 1]
            stain = 255.0 - row
            weights.append(stain.sum() / 255 * downsample)
            position = 20 + shift + (stain @ (np.arange(20) + 0.5)) / stain.sum() * downsample
            assert position == pytest.approx(40.5, abs=0.1 * downsample)
    assert weights == pytest.approx([1.0] * 25, abs=0.15)


def test_outside_the_image_is_white(slide: Slide) -> None:
    region = slide.read_region(-50, slide.height - 30, width=100, height=100)
    assert (region[:, :50] == 255).all()
    assert (region[30:] == 255).all()
    np.testing.assert_array_equal(
        region[:30, 50:], slide.read_region(0, slide.height - 30, width=50, height=30, downsample=1)
    )
    assert (slide.read_region(1e7, -1e7, width=5, height=4, downsample=3.3) == 255).all()


def test_borders_blend_to_white_by_the_share_that_lies_outside(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (55, 55, 55)).save(tmp_path / "grey.png")
    with open_slide(tmp_path / "grey.png") as slide:
        region = slide.read_region(-2, 10, width=6, height=2, downsample=4)
    # A triangle of half-width 4 px, its middle on the border: as much of it white as grey.
    assert region[0, 0, 0] == pytest.approx((255 + 55) / 2, abs=1)
    assert region[0, 3, 0] == 55


class DawdlingFile:
    """A file that rests between moving and reading, when another thread may move it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def seek(self, offset: int) -> None:
        self.file.seek(offset)
        sleep(2e-4)

    def read(self, count: int) -> bytes:
        return self.file.read(count)

    def close(self) -> None:
        self.file.close()


def test_eight_threads_read_what_one_reads(written: Any) -> None:
    rng = np.random.default_rng(3)
    requests = [
        (float(x), float(y), float(d))
        for x, y, d in zip(rng.uniform(-50, 1100, 96), rng.uniform(-50, 1450, 96), rng.uniform(0.5, 5, 96), strict=True)
    ]

    def read(request: tuple[float, float, float]) -> NDArray[np.uint8]:
        x, y, downsample = request
        return slide.read_region(x, y, width=90, height=70, downsample=downsample)

    with open_slide(written.path, cache_bytes=200_000) as slide:  # four tiles: they come and go all the time
        slide._file = DawdlingFile(slide._file)  # type: ignore[attr-defined]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(read, requests))
        counts = slide.read_tiles, slide.bad_tiles
    with open_slide(written.path) as slide:
        for request, region in zip(requests, together, strict=True):
            np.testing.assert_array_equal(region, read(request))
        assert (slide.read_tiles, slide.bad_tiles) == counts


@settings(deadline=None, max_examples=40)
@given(
    x=st.floats(-200, 1300),
    y=st.floats(-200, 1700),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    downsample=st.floats(0.05, 30),
)
def test_every_request_gives_its_size(
    slide: Slide, x: float, y: float, width: int, height: int, downsample: float
) -> None:
    region = slide.read_region(x, y, width=width, height=height, downsample=downsample)
    assert region.shape == (height, width, 3)
    assert region.dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "region of at least 1 x 1 px, found 0 x 5"),
        ({"downsample": 0.0}, "downsample above 0, found 0.0"),
        ({"downsample": float("nan")}, "downsample above 0, found nan"),
        ({"x": float("inf")}, "finite corner"),
    ],
)
def test_nonsense_is_refused(slide: Slide, change: dict[str, float], message: str) -> None:
    request: dict[str, Any] = {"x": 0.0, "y": 0.0, "width": 5, "height": 5, "downsample": 1.0} | change
    with pytest.raises(ValueError, match=message):
        slide.read_region(**request)


def test_a_closed_slide_says_so(written: Any) -> None:
    slide = open_slide(written.path)
    slide.close()
    slide.close()
    with pytest.raises(ValueError, match=r"formula\.tif closed"):
        slide.read_region(0, 0, width=2, height=2)
