"""Files of several pictures: which page is read, held against formulas and against tifffile's own idea of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stimage_qupath.errors import ImageError
from stimage_qupath.slide.ome import ome_image
from stimage_qupath.slide.plane import Plane
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.view import open_view, plane_of

HEIGHT, WIDTH = 40, 56


def picture(series: int, z: int, t: int) -> np.ndarray[Any, Any]:
    """Return pixels that say where they belong: red the series, green z and t, blue the column."""
    pixels = np.empty((HEIGHT + 8 * series, WIDTH, 3), np.uint8)
    pixels[..., 0] = 50 + series
    pixels[..., 1] = 10 * z + t
    pixels[..., 2] = np.arange(WIDTH)
    return pixels


def stack(series: int, depth: int, frames: int) -> np.ndarray[Any, Any]:
    return np.stack([np.stack([picture(series, z, t) for z in range(depth)]) for t in range(frames)])


def assert_shows(path: Path, plane: Plane) -> None:
    with open_slide(path, plane=plane) as slide:
        expected = picture(plane.series, plane.z, plane.t)
        assert (slide.height, slide.width) == expected.shape[:2]
        np.testing.assert_array_equal(slide.read_region(0, 0, width=slide.width, height=slide.height), expected)


@pytest.fixture(scope="module")
def ome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two images: 3 deep and 2 in time; 1 and 4. Each with its own pixel size, the first with a level below."""
    path = tmp_path_factory.mktemp("ome") / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for series, (depth, frames) in enumerate([(3, 2), (1, 4)]):
            data = stack(series, depth, frames)
            sizes = {"PhysicalSizeX": 0.25 * (series + 1), "PhysicalSizeY": 0.25 * (series + 1)}
            options: Any = {"photometric": "rgb", "tile": (16, 16), "metadata": {"axes": "TZYXS", **sizes}}
            writer.write(data, subifds=1 if series == 0 else 0, **options)
            if series == 0:
                writer.write(data[:, :, ::2, ::2], subfiletype=1, photometric="rgb", tile=(16, 16))
    return path


@pytest.mark.parametrize("series", [0, 1])
def test_every_plane_of_an_ome_tiff_is_found(ome: Path, series: int) -> None:
    with tifffile.TiffFile(ome) as tif:
        whole = tif.series[series].asarray()
    whole = whole.reshape(*(((2, 3), (4, 1))[series]), *whole.shape[-3:])  # (t, z, ...): length 1 is squeezed out
    for t, z in np.ndindex(whole.shape[:2]):
        np.testing.assert_array_equal(whole[t, z], picture(series, z, t))
        assert_shows(ome, Plane(series, z, t))


def test_the_pixel_size_is_that_of_the_series_and_levels_are_of_the_plane(ome: Path) -> None:
    with open_slide(ome, plane=Plane(series=1)) as slide:
        assert slide.mpp == 0.5
    with open_slide(ome, plane=Plane(z=2, t=1)) as slide:
        assert slide.mpp == 0.25
        assert [level.width for level in slide.levels] == [WIDTH, WIDTH // 2]
        small = slide.read_region(0, 0, width=WIDTH // 2, height=HEIGHT // 2, downsample=2)
        np.testing.assert_array_equal(small, picture(0, 2, 1)[::2, ::2])


def test_planes_are_slides_of_their_own(ome: Path) -> None:
    ids = set()
    for plane in (Plane(), Plane(1), Plane(z=1), Plane(t=1)):
        with open_slide(ome, plane=plane) as slide:
            ids.add(slide.content_id())
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("plane", "found"),
    [
        (Plane(2), r"expected series 2, z 0, t 0 in two.ome.tif, found 2 images; export that plane"),
        (Plane(0, z=3), r"found 3 in depth and 2 in time"),
        (Plane(1, z=1), r"found 1 in depth and 4 in time"),
    ],
)
def test_what_an_ome_tiff_does_not_hold_is_refused(ome: Path, plane: Plane, found: str) -> None:
    with pytest.raises(ImageError, match=found):
        open_slide(ome, plane=plane)


def document(data: str, order: str = "XYZCT", uuid: str = "") -> str:
    """Return OME-XML of 2 x 3 x 2 planes (c, z, t)."""
    sizes = f'DimensionOrder="{order}" SizeX="5" SizeY="5" SizeC="2" SizeZ="3" SizeT="2"'
    return f'<OME xmlns="o"{uuid}><Image><Pixels {sizes}>{data}</Pixels></Image></OME>'


@pytest.mark.parametrize(
    ("data", "order", "page"),
    [
        ('<TiffData IFD="0" PlaneCount="12"/>', "XYZCT", 2 + 3 * 2 * 1),
        ('<TiffData/><TiffData IFD="99" FirstZ="2" FirstT="1"/>', "XYCZT", (1 * 3 + 2) * 2),
        ('<TiffData IFD="7" FirstZ="1" FirstT="1"/><TiffData IFD="4" FirstZ="2" FirstT="1"/>', "XYTCZ", 4),
        ("", "XYTZC", 1 + 2 * 2),
    ],
)
def test_pages_are_counted_as_the_ome_model_says(data: str, order: str, page: int) -> None:
    found = ome_image(document(data, order), Plane(z=2, t=1), name="a")
    assert found is not None
    assert found.page == page


def test_planes_in_other_files_are_refused() -> None:
    here, there = "urn:uuid:1", "urn:uuid:2"
    data = '<TiffData IFD="0"><UUID FileName="b.ome.tif">{}</UUID></TiffData>'
    with pytest.raises(ImageError, match=r"found it in another file, b\.ome\.tif"):
        ome_image(document(data.format(there), uuid=f' UUID="{here}"'), Plane(), name="a")
    assert ome_image(document(data.format(here), uuid=f' UUID="{here}"'), Plane(), name="a") is not None
    with pytest.raises(ImageError, match=r"found no page of that plane"):
        ome_image(document('<TiffData IFD="0"/>'), Plane(z=1), name="a")


def test_a_hyperstack_of_imagej_is_read_plane_by_plane(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack(0, 3, 2), imagej=True, metadata={"axes": "TZYXS", "unit": "um"}, resolution=(4, 4))
    for z in range(3):
        for t in range(2):
            assert_shows(path, Plane(z=z, t=t))
    with open_slide(path, plane=Plane(z=2, t=1)) as slide:
        assert slide.mpp == 0.25
    with pytest.raises(ImageError, match=r"found 3 in depth and 2 in time"):
        open_slide(path, plane=Plane(t=2))


def test_a_plain_stack_has_one_direction(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as writer:
        for z in range(3):
            writer.write(picture(0, z, 0), photometric="rgb", metadata=None)
        writer.write(picture(1, 0, 0), photometric="rgb", metadata=None)
    assert_shows(path, Plane(z=2))
    for plane, found in [
        (Plane(z=1, t=1), "a plain stack, which has but one direction"),
        (Plane(z=3), "page 3 of another size than the first"),
        (Plane(t=4), "4 pages"),
        (Plane(1), "no OME metadata"),
    ]:
        with pytest.raises(ImageError, match=found):
            open_slide(path, plane=plane)


def test_other_formats_have_one_picture(tmp_path: Path) -> None:
    import PIL.Image

    PIL.Image.fromarray(picture(0, 0, 0)).save(tmp_path / "a.png")
    for name in ("a.png", "a.ndpi"):
        (tmp_path / "a.ndpi").write_bytes(b"II*\0")
        with pytest.raises(ImageError, match=rf"expected series 1, z 0, t 0 in {name}, found a format of which"):
            open_slide(tmp_path / name, plane=Plane(1))


def test_views_say_which_plane(ome: Path) -> None:
    steps = ("series 0", "plane 2,1", "rotate 90")
    assert plane_of(steps) == Plane(0, z=2, t=1)
    with open_view(ome, steps) as view:
        np.testing.assert_array_equal(
            view.read_region(0, 0, width=HEIGHT, height=WIDTH), np.rot90(picture(0, 2, 1), -1)
        )
    with pytest.raises(ValueError, match=r"expected a plane counted from 0"):
        Plane(z=-1)
