"""A stack of planes: the annotations say which one is read, and the nuclei come back on it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from stimage_qupath.config import SegmentSettings
from stimage_qupath.errors import AnnotationError
from stimage_qupath.export.run_reader import read_run
from stimage_qupath.pipeline import predict
from stimage_qupath.qupath.cell_arrays import iter_cells

RING = [[10, 10], [350, 10], [350, 350], [10, 350], [10, 10]]


@pytest.fixture
def stack(tmp_path: Path, tissue_slide: Any) -> Path:
    """Return 2 planes in time and 2 in depth; all are glass but t 1, z 1, on which there is tissue."""
    tissue = tifffile.imread(tissue_slide.path)[:360, :360]
    planes = np.full((2, 2, *tissue.shape), 245, np.uint8)
    planes[1, 1] = tissue
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, planes, photometric="rgb", tile=(128, 128), ome=True, metadata={"axes": "TZYXS", **sizes})
    return path


def annotations(path: Path, *planes: tuple[int, int]) -> Path:
    features = []
    for z, t in planes:
        geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [RING], "plane": {"c": -1, "z": z, "t": t}}
        properties = {"objectType": "annotation", "name": f"z{z}t{t}"}
        identity = f"{z}{t}000000-0000-4000-8000-000000000000"
        features.append({"type": "Feature", "id": identity, "geometry": geometry, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def settings(stack: Path, **changes: Any) -> SegmentSettings:
    return SegmentSettings(image=stack, output=stack.with_name("run"), device="cpu", **changes)


def test_nuclei_lie_on_the_plane_of_their_annotation(stack: Path, tmp_path: Path) -> None:
    record = predict.run(settings(stack, annotations=annotations(tmp_path / "a.geojson", (1, 1))))
    assert record["cells"] > 5
    run = read_run(tmp_path / "run")
    with gzip.open(run.geojson_path, "rb") as file:
        planes = [feature["geometry"]["plane"] for feature in json.load(file)["features"]]
    assert planes == [{"c": -1, "z": 1, "t": 1}] * len(run)
    assert [block.plane for block in iter_cells(run)] == [(1, 1)]
    assert run.record["regions"][0]["z"] == run.record["regions"][0]["t"] == 1


def test_the_other_planes_have_none(stack: Path, tmp_path: Path) -> None:
    record = predict.run(settings(stack, annotations=annotations(tmp_path / "a.geojson", (1, 0))))
    assert record["cells"] == 0


def test_tissue_is_found_on_the_plane_that_is_asked_for(stack: Path, tmp_path: Path) -> None:
    predict.run(settings(stack, view=("plane 1,1",)))
    run = read_run(tmp_path / "run")
    assert {(span.region.z, span.region.t) for span in run.spans} == {(1, 1)}
    assert len(run) > 5


@pytest.mark.parametrize(
    ("planes", "view", "message"),
    [
        ([(0, 0), (1, 1)], (), "expected annotations of one plane, found some of z 0, t 0; z 1, t 1; choose those"),
        ([(0, 1)], ("plane 1,1",), "expected annotations of z 1, t 1, which is to be read, found some of z 0, t 1"),
    ],
)
def test_planes_that_do_not_fit_are_refused(
    stack: Path, tmp_path: Path, planes: list[tuple[int, int]], view: tuple[str, ...], message: str
) -> None:
    file = annotations(tmp_path / "a.geojson", *planes)
    with pytest.raises(AnnotationError, match=message):
        predict.run(settings(stack, annotations=file, view=view))
    if not view:
        record = predict.run(settings(stack, annotations=file, region_names=("z1t1",)))
        assert record["cells"] > 5
