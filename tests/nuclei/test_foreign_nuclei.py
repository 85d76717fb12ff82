"""Nuclei of the user: read from QuPath's GeoJSON and from label images, and handed on with id and class."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image

from stimage_qupath import names
from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.nuclei.foreign import ForeignNuclei, PlacedNuclei
from stimage_qupath.nuclei.foreign_reader import read_nuclei
from stimage_qupath.results import Region

SIZE = (200, 120)


def ring(x: float, y: float, side: float = 10) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(x: float, y: float, *, kind: str = "detection", **fields: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": kind}
    if "name" in fields:
        properties["classification"] = {"name": fields.pop("name"), "color": [1, 2, 3]}
    geometry = fields.pop("geometry", {"type": "Polygon", "coordinates": [ring(x, y)]})
    return {"type": "Feature", "geometry": geometry, "properties": properties, **fields}


def cell(x: float, y: float, **fields: Any) -> dict[str, Any]:
    nucleus = {"type": "Polygon", "coordinates": [ring(x + 3, y + 3, 4)]}
    return feature(x, y, kind="cell", nucleusGeometry=nucleus, **fields)


def read(path: Path, **options: Any) -> ForeignNuclei:
    return read_nuclei(path, **({"slide_size": SIZE, "simplify_px": 0.1} | options))


def written(path: Path, document: Any) -> Path:
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["n.geojson", "n.json", "n.geojson.gz", "N.GeoJSON"])
@pytest.mark.parametrize("wrap", [list, lambda found: {"type": "FeatureCollection", "features": found}])
def test_detections_and_cells_keep_id_class_colour_and_both_outlines(
    tmp_path: Path, name: str, wrap: Callable[[Any], Any]
) -> None:
    ids = [str(uuid4()), str(uuid4())]
    document = wrap([feature(10, 20, id=ids[0], name="Immune: B"), cell(40, 50, id=ids[1]), feature(70, 80, id="x")])
    found = read(written(tmp_path / name, document))
    assert found.ids.tolist() == [*ids, None]
    assert found.classifications.tolist() == ["Immune: B", None, None]
    assert found.color_of_class == {"Immune: B": (1, 2, 3)}
    assert found.polygons[0].equals(shapely.box(10, 20, 20, 30))
    assert found.polygons[1].equals(shapely.box(43, 53, 47, 57))
    assert found.boundaries[1].equals(shapely.box(40, 50, 50, 60))
    assert found.boundaries[0] is found.boundaries[2] is None
    assert found.has_cells


def test_what_is_no_nucleus_is_counted(tmp_path: Path) -> None:
    point = {"type": "Point", "coordinates": [5, 5]}
    pieces = {"type": "MultiPolygon", "coordinates": [[ring(0, 0, 2)], [ring(50, 50, 9)]]}
    other = {"type": "Polygon", "coordinates": [ring(1, 1)], "plane": {"c": -1, "z": 2, "t": 0}}
    document = [
        feature(0, 0, kind="annotation"),
        feature(0, 0, geometry=point),
        feature(0, 0, geometry=other),
        feature(0, 0, geometry=pieces),
    ]
    path = written(tmp_path / "n.geojson", document)
    found = read(path)
    assert found.polygons[0].equals(shapely.box(50, 50, 59, 59))  # the largest piece
    assert len(found) == 1
    assert found.warnings == (
        "no nucleus, left out of n.geojson: 1 x annotation, 1 x detection without area, "
        "1 x detection on another z or t",
    )
    assert read(path, plane=(2, 0)).polygons[0].equals(shapely.box(1, 1, 11, 11))


def test_a_file_without_nuclei_and_ids_twice_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "n.geojson", [feature(0, 0, kind="annotation")])
    with pytest.raises(AnnotationError, match=r"expected detections or cells in n\.geojson, found 1 x annotation"):
        read(path)
    with pytest.raises(AnnotationError, match="found no object"):
        read(written(path, []))
    same = str(uuid4())
    with pytest.raises(UsageError, match=f"expected each nucleus once, found id {same} more than once"):
        read(written(path, [feature(0, 0, id=same), feature(30, 0, id=same)]))
    with pytest.raises(UsageError, match=r"ends in \.geojson.*found n\.shp"):
        read(tmp_path / "n.shp")
    for name in ("gone.geojson", "gone.png"):
        with pytest.raises(UsageError, match="gone"):
            read(tmp_path / name)


def labels() -> Any:
    """Return 120 x 200 px with three discs, one number far above the others."""
    image = np.zeros((120, 200), dtype=np.int32)
    row, column = np.mgrid[:120, :200] + 0.5
    for number, (x, y, radius) in {7: (40, 30, 9), 2: (100, 60, 12), 900: (170, 90, 7)}.items():
        image[np.hypot(column - x, row - y) < radius] = number
    return image


def save(path: Path, image: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".png":
        Image.fromarray(image.astype(np.uint16)).save(path)
    else:
        tifffile.imwrite(path, image, photometric="minisblack")
    return path


def assert_three_discs(found: ForeignNuclei, *, scale: float = 1.0) -> None:
    by_x = sorted(found.polygons, key=lambda polygon: float(polygon.centroid.x))
    assert [p.centroid.coords[0] for p in by_x] == [
        pytest.approx((scale * x, scale * y), abs=0.3 * scale) for x, y in [(40, 30), (100, 60), (170, 90)]
    ]
    for polygon, radius in zip(by_x, (9, 12, 7), strict=True):
        assert polygon.area == pytest.approx(np.pi * (scale * radius) ** 2, rel=0.03)
    assert found.ids.tolist() == found.classifications.tolist() == found.boundaries.tolist() == [None] * 3


@pytest.mark.parametrize("name", ["n.tif", "n.tiff", "n.png", "n.npy"])
def test_label_images_are_outlined(tmp_path: Path, name: str) -> None:
    found = read(save(tmp_path / name, labels()))
    assert_three_discs(found)
    assert not found.has_cells


def test_a_label_image_at_a_fraction_is_scaled_up(tmp_path: Path) -> None:
    path = save(tmp_path / "n.npy", labels())
    assert_three_discs(read(path, slide_size=(600, 360)), scale=3)
    assert_three_discs(read(path, slide_size=(598, 358)), scale=3)  # the last pixels are cut
    for size in [(200, 240), (260, 156), (100, 60), (197, 120)]:
        with pytest.raises(UsageError, match=rf"expected n\.npy of the slide's {size[0]} x {size[1]} px"):
            read(path, slide_size=size)


def test_labels_of_any_numbers_and_types(tmp_path: Path) -> None:
    image = labels()
    for changed in (image.astype(np.uint64) * 2**40, image.astype(np.uint16), np.where(image == 0, -1, image)):
        assert_three_discs(read(save(tmp_path / "n.npy", changed)))


def test_the_two_channels_of_instanseg_are_nuclei_and_cells(tmp_path: Path) -> None:
    grown = np.where(labels() > 0, 5, 0)
    found = read(save(tmp_path / "n.tif", np.stack([labels(), grown]).astype(np.int32)[None]))
    assert_three_discs(found)
    assert "of the two channels of n.tif the first was taken as nuclei" in found.warnings[0]


def test_labels_across_many_windows_are_each_one_nucleus(tmp_path: Path) -> None:
    image = np.zeros((2300, 2300), dtype=np.int32)
    number = 0
    for row in range(16, 2280, 64):
        for column in range(16, 2280, 64):
            number += 1
            image[row : row + 20, column : column + 20] = number
    found = read(save(tmp_path / "n.npy", image), slide_size=(2300, 2300))
    assert len(found) == number
    assert shapely.area(found.polygons) == pytest.approx(np.full(number, 400), rel=0.01)
    centroids = shapely.get_coordinates(shapely.centroid(found.polygons))
    assert len({tuple(np.round(place).astype(int)) for place in centroids.tolist()}) == number


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((120, 200), dtype=bool), "found bool of shape"),
        (np.zeros((120, 200), dtype=np.float32), "found float32"),
        (np.zeros((120, 200, 3), dtype=np.uint8), r"found uint8 of shape \(120, 200, 3\)"),
        (np.zeros((120, 200), dtype=np.int32), "found background alone"),
    ],
    ids=["mask", "floats", "picture", "empty"],
)
def test_what_is_no_label_image_is_refused(tmp_path: Path, image: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read(save(tmp_path / "n.npy", image))


def test_a_pickled_cellpose_file_is_never_run_and_the_way_out_is_said(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "slide_seg.npy"
    np.save(path, np.array({"masks": labels(), "bomb": Bomb()}, dtype=object), allow_pickle=True)
    assert pickle.dumps(Bomb())  # it would run on load
    with pytest.raises(UsageError, match=r"save Cellpose's masks as an image instead: io\.save_masks"):
        read(path)
    assert not (tmp_path / "ran").exists()
    (tmp_path / "broken.tif").write_bytes(b"II*\0 not a tiff")
    with pytest.raises(UsageError, match=r"expected a label image in broken\.tif"):
        read(tmp_path / "broken.tif")


LEFT, RIGHT = shapely.box(0, 0, 100, 120), shapely.box(100, 0, 200, 120)


def place(slide: Any, nuclei: ForeignNuclei, *geometries: Any, expansion_um: float = 0.0) -> PlacedNuclei:
    regions = [Region(id=f"region {i}", geometry=geometry) for i, geometry in enumerate(geometries)]
    return PlacedNuclei(nuclei, slide, 0.5, regions, "image", expansion_um=expansion_um)


def given_nuclei(*polygons: Any, ids: Any = None, boundaries: Any = None) -> ForeignNuclei:
    none = np.full(len(polygons), None, dtype=object)
    return ForeignNuclei(
        np.array(polygons, dtype=object),
        none if ids is None else np.array(ids, dtype=object),
        np.array([f"class {i}" for i in range(len(polygons))], dtype=object),
        none if boundaries is None else np.array(boundaries, dtype=object),
    )


@pytest.fixture(scope="module")
def slide(disc_slide: Callable[..., Any]) -> Any:
    """Return a slide with a dark disc at (30, 30), pink elsewhere."""
    return disc_slide(*SIZE, 0.5, np.array([[30.0, 30, 10]]))


def test_nuclei_go_to_their_region_and_those_outside_are_counted(slide: Any) -> None:
    ids = [str(uuid4()) for _ in range(3)]
    nuclei = given_nuclei(
        *(shapely.Point(x, y).buffer(5) for x, y in [(150, 60), (30, 30), (130, 20), (500, 30)]), ids=[*ids, None]
    )
    placed = place(slide, nuclei, LEFT, RIGHT)
    chunks = list(placed.chunks())
    assert [chunk.region_index for chunk in chunks] == [0, 1]
    assert [chunk.cells.ids.tolist() for chunk in chunks] == [[ids[1]], [ids[0], ids[2]]]
    assert chunks[1].cells.classifications is not None
    assert chunks[1].cells.classifications.tolist() == ["class 0", "class 2"]
    assert placed.warnings() == ("1 of 4 nuclei lie outside every selected region and were left out",)
    assert chunks[0].cells.measurements[names.AREA][0] == pytest.approx(np.pi * 25 / 4, rel=0.01)


def test_stain_is_that_of_the_pixels_inside(slide: Any) -> None:
    dark, pink = shapely.Point(30, 30).buffer(8), shapely.Point(80, 60).buffer(8)
    speck = shapely.box(30.1, 30.1, 30.2, 30.2)
    (chunk,) = place(slide, given_nuclei(dark, pink, speck), LEFT).chunks()
    haematoxylin = chunk.cells.measurements[names.HEMATOXYLIN_MEAN]
    assert haematoxylin[0] == pytest.approx(haematoxylin[2], rel=0.05)
    assert haematoxylin[0] > 3 * haematoxylin[1]


def test_a_nucleus_without_id_gets_one_of_its_place(slide: Any) -> None:
    nuclei = given_nuclei(shapely.box(20, 20, 40, 40))
    ids = [next(iter(place(slide, nuclei, LEFT).chunks())).cells.ids[0] for _ in range(2)]
    assert ids[0] == ids[1]
    assert UUID(ids[0]).version == 5


def test_nothing_in_any_region_is_an_error(slide: Any) -> None:
    placed = place(slide, given_nuclei(shapely.box(150, 20, 160, 40)), LEFT)
    with pytest.raises(UsageError, match="found all 1 of the file outside"):
        list(placed.chunks())


def test_cells_grow_around_the_users_nuclei_but_not_around_the_users_cells(slide: Any) -> None:
    two = (shapely.box(40, 40, 60, 60), shapely.box(70, 40, 90, 60))
    (chunk,) = place(slide, given_nuclei(*two), LEFT, expansion_um=10.0).chunks()
    assert chunk.cells.boundaries is not None
    assert chunk.cells.boundaries[0].bounds[2] == pytest.approx(65, abs=0.05)
    assert np.isfinite(chunk.cells.measurements["Cell: Area µm^2"]).all()
    cells = given_nuclei(*two, boundaries=[two[0].buffer(3), None])
    with pytest.raises(UsageError, match="expected nuclei alone to make cells of, found cells"):
        place(slide, cells, LEFT, expansion_um=1.0)
    (chunk,) = place(slide, cells, LEFT).chunks()
    assert np.isnan(chunk.cells.measurements["Cell: Area µm^2"]).tolist() == [False, True]


def test_progress_and_cancel(slide: Any) -> None:
    from stimage_qupath.errors import CancelledError

    nuclei = given_nuclei(shapely.box(20, 20, 40, 40), shapely.box(120, 20, 140, 40))
    told: list[tuple[str, int, int, str]] = []
    list(place(slide, nuclei, LEFT, RIGHT).chunks(on_progress=lambda *what: told.append(what)))
    assert told == [("nuclei", 1, 2, "1 nuclei"), ("nuclei", 2, 2, "2 nuclei")]
    with pytest.raises(CancelledError):
        list(place(slide, nuclei, LEFT).chunks(cancelled=lambda: True))
