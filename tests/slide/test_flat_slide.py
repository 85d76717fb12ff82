"""PNG, JPEG and BMP: right pixels, and no damaged image gets through."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stimage_qupath.errors import ImageError
from stimage_qupath.slide.reader import Slide, open_slide


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """Return a smooth picture of 120 x 90 px, which JPEG keeps."""
    y, x = np.mgrid[:90, :120]
    return np.stack([x * 2, y * 2, 200 - x], axis=-1).astype(np.uint8)


def encoded(image: NDArray[np.uint8] | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def everything(slide: Slide) -> NDArray[np.uint8]:
    return slide.read_region(0, 0, width=slide.width, height=slide.height)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_pixels_come_back_under_any_name(tmp_path: Path, pixels: NDArray[np.uint8], kind: str) -> None:
    path = tmp_path / "slide.tif"  # the content decides
    path.write_bytes(encoded(pixels, kind, dpi=(96, 96)))
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp, len(slide.levels), slide.read_tiles, slide.bad_tiles) == (
            "flat",
            None,
            1,
            1,
            0,
        )
        np.testing.assert_array_equal(everything(slide), pixels)
        everything(slide)[:] = 0
        np.testing.assert_array_equal(everything(slide), pixels)


def test_exif_orientation_is_ignored(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    (tmp_path / "a.jpg").write_bytes(encoded(pixels, "JPEG", quality=95, exif=exif))
    with open_slide(tmp_path / "a.jpg") as slide:
        assert (slide.width, slide.height, slide.mpp) == (120, 90, None)
        assert np.abs(everything(slide).astype(int) - pixels).mean() < 2


def test_transparency_lies_over_white(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    alpha = np.tile(np.arange(120, dtype=np.uint8)[None, :, None] * 2, (90, 1, 1))
    (tmp_path / "a.png").write_bytes(encoded(np.concatenate([pixels, alpha], axis=-1), "PNG"))
    share = alpha / 255
    with open_slide(tmp_path / "a.png") as slide:
        np.testing.assert_allclose(everything(slide), pixels * share + 255 * (1 - share), atol=1)


def test_grey_and_palette_and_a_transparent_colour(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    grey = Image.fromarray(pixels[..., 0])
    palette = Image.fromarray(pixels[..., 0] // 128)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    (tmp_path / "g.png").write_bytes(encoded(grey, "PNG"))
    (tmp_path / "p.png").write_bytes(encoded(palette, "PNG", transparency=1))
    with open_slide(tmp_path / "g.png") as slide:
        np.testing.assert_array_equal(everything(slide), np.repeat(pixels[..., :1], 3, axis=-1))
    with open_slide(tmp_path / "p.png") as slide:
        expected = np.array([[10, 20, 30], [255, 255, 255]])[pixels[..., 0] // 128]
        np.testing.assert_array_equal(everything(slide), expected)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("BMP", {})])
@pytest.mark.parametrize("cut", [1, 2, 3, 12, 13, 100, 0.5, 0.95])
def test_any_truncation_is_refused(
    tmp_path: Path, pixels: NDArray[np.uint8], kind: str, options: Any, cut: float
) -> None:
    thumbnail = Image.Exif()
    thumbnail[270] = "\xff\xd9 an end marker inside the header"
    data = encoded(pixels, kind, **options, **({"exif": thumbnail} if kind == "JPEG" else {}))
    lost = int(cut) if cut >= 1 else int(len(data) * cut)
    path = tmp_path / "cut.img"
    path.write_bytes(data[:-lost])
    with pytest.raises(ImageError, match=r"expected a whole PNG, JPEG or BMP, found cut\.img damaged") as caught:
        open_slide(path)
    assert caught.value.exit_code == 4


def test_bytes_after_the_end_do_no_harm(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(pixels, "JPEG") + bytes(5000))
    with open_slide(tmp_path / "a.jpg") as slide:
        assert slide.width == 120


def test_damage_inside_a_png_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    data = bytearray(encoded(noise, "PNG"))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        open_slide(tmp_path / "a.png")


def test_16_bit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((9, 9), np.uint16), "PNG"))
    with pytest.raises(ImageError, match=r"expected 8-bit RGB brightfield, found mode I;16 in a\.png"):
        open_slide(tmp_path / "a.png")


def test_pillows_limit_for_large_images_neither_stops_us_nor_changes(
    tmp_path: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "a.png").write_bytes(encoded(pixels, "PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_slide(tmp_path / "a.png") as slide:
            np.testing.assert_array_equal(everything(slide), pixels)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_an_image_no_memory_holds_is_refused_before_it_is_decoded(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    data = bytearray(encoded(pixels, "BMP"))
    data[18:22] = data[22:26] = (40_000).to_bytes(4, "little")
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(ImageError, match=r"at most 2\^30 px in a flat image, found .*convert it to a tiled TIFF"):
        open_slide(tmp_path / "a.bmp")


def test_a_whole_section(real_data: Path) -> None:
    with open_slide(real_data / "her2st" / "images" / "C2.jpg") as slide:
        assert (slide.width, slide.height) == (9274, 9911)
        corner = slide.read_region(9274 - 10, 9911 - 10, width=20, height=20)
    assert (corner[10:] == 255).all()
    assert corner[:10, :10].mean() > 200
