"""TIFF in its many layouts: levels found, pixels right, damage refused or counted."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from stimage_qupath.errors import ImageError
from stimage_qupath.slide.reader import Slide, open_slide
from stimage_qupath.slide.tiff_slide import TiffSlide

SIZE = (1110, 1483)


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """Return 150 x 130 px of noise: every pixel differs, so a tile in the wrong place shows."""
    return np.random.default_rng(0).integers(0, 256, (150, 130, 3), dtype=np.uint8)


def everything(slide: Slide, level: int = 0) -> NDArray[np.uint8]:
    width, height = slide.levels[level].width, slide.levels[level].height
    return slide.read_region(0, 0, width=width, height=height, downsample=slide.levels[level].downsample_x)


def write(path: Path, image: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, image, **({"photometric": "rgb", "metadata": None} | options))
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 32)},
        {"tile": (64, 32), "compression": "lzw", "predictor": True},
        {"tile": (16, 16), "compression": "zlib", "byteorder": ">"},
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"rowsperstrip": 1000, "compression": "zstd"},
        {},
        {"bigtiff": True, "tile": (64, 64)},
        {"planarconfig": "separate", "tile": (64, 32)},
        {"planarconfig": "separate"},
        {"tile": (64, 64), "compression": "jpeg2000", "compressionargs": {"reversible": True, "level": 0}},
    ],
    ids=str,
)
def test_lossless_layouts_return_the_pixels(tmp_path: Path, pixels: NDArray[np.uint8], options: Any) -> None:
    planar = options.get("planarconfig") == "separate"
    path = write(tmp_path / "a.tif", np.moveaxis(pixels, -1, 0) if planar else pixels, **options)
    with open_slide(path) as slide:
        assert (slide.reader, slide.width, slide.height, len(slide.levels)) == ("tiff", 130, 150, 1)
        np.testing.assert_array_equal(everything(slide), pixels)
        np.testing.assert_array_equal(slide.read_region(37, 59, width=70, height=31), pixels[59:90, 37:107])
        assert slide.bad_tiles == 0


@pytest.mark.parametrize(("photometric", "invert"), [("minisblack", False), ("miniswhite", True)])
def test_grey_is_repeated(tmp_path: Path, pixels: NDArray[np.uint8], photometric: str, invert: bool) -> None:
    grey = pixels[..., 0]
    with open_slide(write(tmp_path / "g.tif", grey, photometric=photometric, tile=(32, 32))) as slide:
        expected = 255 - grey if invert else grey
        np.testing.assert_array_equal(everything(slide), np.repeat(expected[..., None], 3, axis=-1))


def test_palette_is_looked_up(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, 256))
    path = write(tmp_path / "p.tif", pixels[..., 0], photometric="palette", colormap=(colours * 257).astype(np.uint16))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(everything(slide), colours.T[pixels[..., 0]])


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_alpha_lies_over_white(tmp_path: Path, pixels: NDArray[np.uint8], kind: str) -> None:
    alpha = np.random.default_rng(2).integers(0, 256, (150, 130, 1), dtype=np.uint8)
    colour = np.minimum(pixels, alpha) if kind == "assocalpha" else pixels
    path = write(tmp_path / "a.tif", np.concatenate([colour, alpha], axis=-1), extrasamples=(kind,), tile=(64, 64))
    a = alpha / 255
    expected = {"unassalpha": pixels * a + 255 * (1 - a), "assocalpha": colour + 255 * (1 - a), "unspecified": pixels}
    with open_slide(path) as slide:
        np.testing.assert_allclose(everything(slide), expected[kind], atol=0.51)


@pytest.mark.parametrize("layout", ["pages", "subifds"])
@pytest.mark.parametrize("tile", [(128, 128), None])
@pytest.mark.parametrize("compression", ["jpeg", None])
def test_pyramids_are_found(formula_slide: Callable[..., Any], layout: str, tile: Any, compression: Any) -> None:
    sizes = (SIZE, (555, 741), (287, 383), (100, 134))
    written = formula_slide(sizes=sizes, layout=layout, tile=tile, compression=compression)
    with open_slide(written.path) as slide:
        assert [(level.width, level.height) for level in slide.levels] == list(sizes)
        assert slide.levels[2].downsample_x == 1110 / 287
        assert slide.levels[2].downsample_y == 1483 / 383
        assert slide.mpp == pytest.approx(0.5, rel=1e-6)
        error = everything(slide).astype(int) - written.picture.level(*SIZE)
        assert np.abs(error).mean() < (1 if compression else 1e-9)


@pytest.mark.parametrize(
    "options",
    [{"photometric": "rgb"}, {"photometric": "ycbcr", "subsampling": (1, 1)}, {"photometric": "ycbcr"}],
    ids=str,
)
def test_jpeg_has_the_right_colours(tmp_path: Path, options: Any) -> None:
    y, x = np.mgrid[:256, :256]
    image = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    # tifffile expects the samples of the colour model that it is told to write.
    given = np.asarray(Image.fromarray(image).convert("YCbCr")) if options["photometric"] == "ycbcr" else image
    with open_slide(write(tmp_path / "a.tif", given, tile=(128, 128), compression="jpeg", **options)) as slide:
        assert np.abs(everything(slide).astype(int) - image).mean() < 2


def test_jpeg_strips_of_another_writer_have_the_right_colours(tmp_path: Path) -> None:
    y, x = np.mgrid[:256, :256]
    image = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.tif", compression="jpeg", quality=95)  # libtiff
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.reader == "tiff"
        assert np.abs(everything(slide).astype(int) - image).mean() < 2


def test_label_macro_and_thumbnail_are_no_levels(tmp_path: Path) -> None:
    base, tiled = np.full((1483, 1110, 3), 200, np.uint8), {"tile": (128, 128), "photometric": "rgb"}
    strips = {"rowsperstrip": 16, "photometric": "rgb"}
    with tifffile.TiffWriter(tmp_path / "a.svs") as writer:
        writer.write(base, **tiled, description="Aperio Image Library v11|AppMag = 20|MPP = 0.4990", metadata=None)
        writer.write(base[::5, ::5], **strips, metadata=None, description="Aperio 1110x1483 -> 222x297")
        writer.write(base[::4, ::4], **tiled, metadata=None)
        writer.write(base[:463, :387], **strips, metadata=None, subfiletype=1, description="label 387x463")
        writer.write(base[:431, :1000], **strips, metadata=None, subfiletype=9, description="macro 1000x431")
        writer.write(base[:300, :300], **tiled, metadata=None)
    with open_slide(tmp_path / "a.svs") as slide:
        assert [(level.width, level.height) for level in slide.levels] == [SIZE, (278, 371)]
        assert slide.mpp == 0.499


def test_ome_tiff_round_trip(tmp_path: Path, formula_picture: Any) -> None:
    sizes = (SIZE, (555, 742), (278, 371))
    metadata = {"axes": "YXS", "PhysicalSizeX": 253.0, "PhysicalSizeXUnit": "nm"}
    metadata |= {"PhysicalSizeY": 0.000253, "PhysicalSizeYUnit": "mm"}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", bigtiff=True) as writer:
        common = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib"}
        writer.write(formula_picture.level(*sizes[0]), subifds=2, metadata=metadata, **common)
        for size in sizes[1:]:
            writer.write(formula_picture.level(*size), subfiletype=1, **common)
        # A second image of the same shape, half as large: another slide of the file, not a level.
        writer.write(np.zeros((741, 555, 3), np.uint8), metadata={"axes": "YXS"}, **common)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert [(level.width, level.height) for level in slide.levels] == list(sizes)
        assert slide.mpp == pytest.approx(0.253)
        np.testing.assert_array_equal(everything(slide), formula_picture.level(*SIZE))


def test_a_missing_tile_is_white_and_not_bad(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = write(tmp_path / "a.tif", pixels, tile=(64, 64))
    patch_byte_count(path, index=4, value=0)
    with open_slide(path) as slide:
        region = everything(slide)
        assert (region[64:128, 64:128] == 255).all()
        np.testing.assert_array_equal(region[:64], pixels[:64])
        assert (slide.read_tiles, slide.bad_tiles) == (8, 0)


def test_an_unreadable_tile_is_white_and_counted_once(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = write(tmp_path / "a.tif", pixels, tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[4]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    with TiffSlide(path, cache_bytes=0) as slide:
        for _ in range(3):
            region = everything(slide)
        assert (region[64:128, 64:128] == 255).all()
        np.testing.assert_array_equal(region[:64], pixels[:64])
        assert (slide.read_tiles, slide.bad_tiles) == (9, 1)


def patch_byte_count(path: Path, *, index: int, value: int) -> None:
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[0].tags["TileByteCounts"]
        size = {"SHORT": 2, "LONG": 4}[tag.dtype.name]
        place = tag.valueoffset + index * size
    data = bytearray(path.read_bytes())
    data[place : place + size] = struct.pack({2: "<H", 4: "<I"}[size], value)
    path.write_bytes(data)


@pytest.mark.parametrize("layout", ["pages", "subifds"])
@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.1, 0.01])
def test_a_truncated_file_is_refused(
    tmp_path: Path, formula_slide: Callable[..., Any], layout: str, kept: float
) -> None:
    data = formula_slide(layout=layout, compression="zlib").path.read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"found cut\.tif .*copy it again") as caught:
        open_slide(path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("length", [4, 8, 9, 30, 200])
def test_a_stump_is_refused(tmp_path: Path, pixels: NDArray[np.uint8], length: int) -> None:
    path = write(tmp_path / "a.tif", pixels, tile=(64, 64))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ImageError, match=r"found a\.tif"):
        open_slide(path)


@pytest.mark.parametrize(
    ("image", "options", "found"),
    [
        (np.zeros((64, 64), np.uint16), {"photometric": "minisblack"}, "16-bit MINISBLACK with 1 channel in a.tif"),
        (np.zeros((64, 64, 3), np.uint16), {}, "16-bit RGB with 3 channels"),
        (np.zeros((64, 64), np.float32), {"photometric": "minisblack"}, "32-bit MINISBLACK"),
        (np.zeros((64, 64), bool), {"photometric": "minisblack"}, "1-bit MINISBLACK"),
        (np.zeros((64, 64, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "5 channels"),
    ],
)
def test_what_is_no_brightfield_is_refused(tmp_path: Path, image: NDArray[Any], options: Any, found: str) -> None:
    if image.ndim == 3 and image.shape[2] == 5:
        options = {**options, "extrasamples": (0, 0, 0, 0)}
    path = write(tmp_path / "a.tif", image, **options)
    if "5 channels" in found:
        patch_extrasamples_away(path)
    with pytest.raises(ImageError, match=f"expected 8-bit RGB brightfield, found .*{found}"):
        open_slide(path)


def patch_extrasamples_away(path: Path) -> None:
    with tifffile.TiffFile(path, mode="r+") as tif:
        tag = tif.pages[0].tags["ExtraSamples"]
        tif.filehandle.seek(tag.offset)
        tif.filehandle.write(struct.pack("<H", 65000))


def test_ome_channels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((4, 64, 64), np.uint8), metadata={"axes": "CYX"})
    with pytest.raises(ImageError, match=r"found 4 channels in a\.ome\.tif"):
        open_slide(tmp_path / "a.ome.tif")


def test_aperio_jpeg_2000_in_ycbcr_is_converted(tmp_path: Path) -> None:
    y, x = np.mgrid[:256, :256]
    rgb = np.stack([x, y, 255 - x // 2], axis=-1).astype(np.float64)
    to_ycbcr = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycbcr = np.clip(np.rint(rgb @ to_ycbcr.T + [0, 128, 128]), 0, 255).astype(np.uint8)
    tile = imagecodecs.jpeg2k_encode(ycbcr, level=0, codecformat="j2k", mct=False)
    path = write(
        tmp_path / "a.svs",
        (part for part in [tile]),  # type: ignore[arg-type]
        shape=ycbcr.shape, dtype=np.uint8, tile=(256, 256), compression=33003, description="Aperio Image Library v11",
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.reader == "tiff"
        np.testing.assert_allclose(everything(slide), rgb, atol=2)


def test_all_of_an_uncompressed_file_is_never_held(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3000, 700, 3), dtype=np.uint8)
    path = write(tmp_path / "a.tif", image)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages[0].dataoffsets) == 1, "tifffile writes one strip; if it no longer does, write one here"
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(100, 1500, width=200, height=20), image[1500:1520, 100:300])
        assert slide._cache.nbytes < image.nbytes / 5  # type: ignore[attr-defined]
        np.testing.assert_array_equal(everything(slide), image)


def test_a_whole_slide_at_low_scale_decodes_each_strip_about_once(
    formula_slide: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = formula_slide(sizes=(SIZE,), tile=None, rowsperstrip=16, compression="zlib")
    decoded: list[int] = []
    original = TiffSlide._decode
    monkeypatch.setattr(TiffSlide, "_decode", lambda self, *key: decoded.append(key[1]) or original(self, *key))
    monkeypatch.setattr("stimage_qupath.slide.segments._BLOCK_AREA_PX", 1110 * 200)
    with TiffSlide(written.path, cache_bytes=2 * 1110 * 200 * 3) as slide:
        slide.read_region(0, 0, width=110, height=148, downsample=10)
        assert slide.read_tiles == -(-1483 // 16)
        assert len(decoded) == slide.read_tiles
