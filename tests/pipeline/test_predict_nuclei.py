"""Predictions for nuclei of the user, and cells around nuclei, from the command line to the run folder."""

from __future__ import annotations

import gzip
import json

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from skimage.draw import disk

from stimage_qupath import cli, names
from stimage_qupath.config import PredictSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.export.run_reader import read_run
from stimage_qupath.geojson_dialect import read_features
from stimage_qupath.pipeline import predict
from stimage_qupath.qupath.cell_arrays import iter_cells

IDS = [f"{i:08x}-1111-4111-8111-111111111111" for i in range(4)]


def user_file(folder, slide):
    """Write four of the slide's nuclei: two detections with a class, two cells; and one far outside."""
    features = []
    for i, (x, y) in enumerate(slide.centres[[3, 40, 41, 70]]):
        nucleus = shapely.geometry.mapping(shapely.Point(x, y).buffer(8))
        properties = {"objectType": "detection", "classification": {"name": "Mine", "color": [9, 8, 7]}}
        one = {"type": "Feature", "id": IDS[i], "geometry": nucleus, "properties": properties}
        if i >= 2:
            one["nucleusGeometry"] = nucleus
            one["geometry"] = shapely.geometry.mapping(shapely.Point(x, y).buffer(14))
            one["properties"] = {"objectType": "cell", "measurements": {"Mine": 1.0}}
        features.append(one)
    away = shapely.geometry.mapping(shapely.box(5000, 5000, 5010, 5010))
    features.append({"type": "Feature", "geometry": away, "properties": {"objectType": "detection"}})
    path = folder / "mine.geojson"
    path.write_text(json.dumps(features), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tissue_slide, tmp_path_factory):
    """Return the run folder of a prediction for nuclei of the user, made by the command, and what it said."""
    folder = tmp_path_factory.mktemp("mine")
    nuclei = user_file(folder, tissue_slide)
    arguments = ["predict", str(tissue_slide.path), "--output", str(folder / "run"), "--nuclei", str(nuclei)]
    assert cli.run([*arguments, "--genes", "BGN", "--no-overview"]) == 0
    return folder / "run"


def features_of(folder):
    with gzip.open(folder / names.CELLS_GEOJSON, "rb") as file:
        return json.load(file)["features"]


def test_the_users_nuclei_keep_id_class_colour_and_kind_everywhere(run):
    found = {feature["id"]: feature for feature in features_of(run)}
    assert sorted(found) == IDS
    kinds = [found[i]["properties"]["objectType"] for i in IDS]
    assert kinds == ["detection", "detection", "cell", "cell"]
    assert found[IDS[0]]["properties"]["classification"] == {"name": "Mine", "color": [9, 8, 7]}
    assert "classification" not in found[IDS[2]]["properties"]
    table, data = pd.read_parquet(run / names.CELLS_PARQUET), anndata.read_h5ad(run / names.CELLS_H5AD)
    assert sorted(table.cell_id) == sorted(data.obs_names) == IDS
    assert table.set_index("cell_id").cell_type[IDS[0]] == "Mine"
    assert data.obs.cell_type[IDS[1]] == "Mine"
    for feature in found.values():
        assert names.OBJECT_VERSION not in feature["properties"]["measurements"]
        assert np.isfinite(feature["properties"]["measurements"]["STimage: BGN: mean"])
    ratio = found[IDS[3]]["properties"]["measurements"]["Nucleus/Cell area ratio"]
    assert ratio == pytest.approx((8 / 14) ** 2, rel=0.01)
    assert "Nucleus/Cell area ratio" not in found[IDS[0]]["properties"]["measurements"]


def test_without_annotations_the_slide_is_the_region_and_the_rest_is_counted(run, tissue_slide):
    (span,) = read_run(run).spans
    assert span.count == 4
    assert span.region.source == "slide"
    assert span.region.geometry.bounds == (0, 0, 1110, 1483)
    warnings = read_run(run).record["warnings"]
    assert "1 of 5 nuclei lie outside every selected region and were left out" in warnings


def test_what_was_written_is_read_back_and_handed_to_qupath(run):
    again = {feature.id: feature for feature in read_features(run / names.CELLS_GEOJSON)}
    assert again[IDS[2]].nucleus.area == pytest.approx(np.pi * 64, rel=0.02)
    assert again[IDS[2]].geometry.area == pytest.approx(np.pi * 196, rel=0.02)
    blocks = list(iter_cells(read_run(run)))
    assert [(len(block), block.nuclei is not None) for block in blocks] == [(2, False), (2, True)]
    assert all(names.OBJECT_VERSION not in block.measurement_names for block in blocks)
    part = blocks[1].take(np.array([1]))
    assert len(part) == 1
    assert (part.nuclei.xy == blocks[1].nuclei.xy[blocks[1].nuclei.ring_starts[1] :]).all()


def test_the_same_nuclei_as_a_label_image(tissue_slide, tmp_path):
    labels = np.zeros((1483, 1110), dtype=np.uint16)
    for number, (x, y) in enumerate(tissue_slide.centres, start=1):
        labels[disk((y - 0.5, x - 0.5), 8, shape=labels.shape)] = number
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    settings = PredictSettings(
        image=tissue_slide.path, output=tmp_path / "run", nuclei=tmp_path / "labels.tif", overview=False
    )
    assert predict.run(settings)["cells"] == len(tissue_slide.centres)
    table = pd.read_parquet(tmp_path / "run" / names.CELLS_PARQUET)
    distance = np.linalg.norm(table[["x_px", "y_px"]].to_numpy()[:, None] - tissue_slide.centres[None], axis=2)
    assert distance.min(axis=1).max() < 0.5
    first = table.cell_id.tolist()
    predict.run(PredictSettings.from_dict(settings.to_dict() | {"force": True}))
    assert pd.read_parquet(tmp_path / "run" / names.CELLS_PARQUET).cell_id.tolist() == first


def test_cells_with_their_nucleus(tissue_slide, tmp_path):
    output = tmp_path / "run"
    arguments = ["predict", str(tissue_slide.path), "--output", str(output), "--no-overview", "--genes", "BGN"]
    assert cli.run([*arguments, "--cell-expansion-um", "4"]) == 0
    features = features_of(output)
    assert len(features) == len(tissue_slide.centres)
    for feature in features:
        assert feature["properties"]["objectType"] == "cell"
        whole, nucleus = (shapely.geometry.shape(feature[key]) for key in ("geometry", "nucleusGeometry"))
        assert whole.area == pytest.approx(np.pi * 16**2, rel=0.08)  # 8 px, and 4 um at 0.5 um
        assert nucleus.difference(whole).area < 0.05
        assert feature["properties"]["measurements"]["Cell: Area µm^2"] == pytest.approx(whole.area / 4, rel=0.01)
    assert "cell_area_um2" in pd.read_parquet(output / names.CELLS_PARQUET)


def test_what_cannot_be_combined_is_refused(tissue_slide, tmp_path, capsys):
    nuclei = user_file(tmp_path, tissue_slide)
    common = {"image": tissue_slide.path, "output": tmp_path / "run", "nuclei": nuclei}
    with pytest.raises(UsageError, match="expected a file of nuclei or a segmenter, found both"):
        PredictSettings(**common, segmenter="stardist")
    with pytest.raises(UsageError, match="expected nuclei alone to make cells of"):
        predict.run(PredictSettings(**common, cell_expansion_um=3.0))
    with pytest.raises(UsageError, match="expected cells to grow by 0 to 50 um, found 51"):
        PredictSettings(image=nuclei, output=tmp_path / "run", cell_expansion_um=51.0)
    arguments = ["predict", str(tissue_slide.path), "--output", str(tmp_path / "run"), "--nuclei"]
    assert cli.run([*arguments, str(tmp_path / "gone.npy")]) == 2
    assert "expected a file of nuclei at" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
