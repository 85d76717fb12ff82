"""Parts of a run for other programs, each read back by another reader."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import uuid

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely

from stimage_qupath import names
from stimage_qupath.cli import run as run_command
from stimage_qupath.config.export import ExportSettings
from stimage_qupath.errors import AnnotationError, MissingPartError, OutputExistsError, UnknownGeneError, UsageError
from stimage_qupath.export.run_folder import RunWriter
from stimage_qupath.export.uncertain import CLASS
from stimage_qupath.geojson_dialect import read_features
from stimage_qupath.pipeline import export
from stimage_qupath.regions.annotations import read_regions
from stimage_qupath.results import Cells, Panel, Prediction, Region

MPP = 0.5
GENES = ("ERBB2", "HLA-A", "CD3D")
LEFT, RIGHT = (str(uuid.UUID(int=900 + i)) for i in range(2))
N = 1200


def nuclei():
    """Return nuclei at random in 2000 x 1000 px; the models disagree about those near (500, 500)."""
    rng = np.random.default_rng(0)
    centroids = rng.uniform((20, 20), (1980, 980), (N, 2))
    centroids = centroids[np.argsort(centroids[:, 0] > 1000, kind="stable")]
    ring = centroids[:, None, :] + 4 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1.0]])
    near = np.hypot(*(centroids - 500).T) < 200
    far = np.hypot(*(centroids - (1600, 500)).T) < 150
    mean = np.column_stack([np.arange(N), centroids[:, 0] / 100, np.full(N, 2.0)]).astype(np.float32) + 1
    relative = np.where(near, 0.5, 0.1)[:, None]
    cells = Cells(
        ids=np.array([str(uuid.UUID(int=i + 1)) for i in range(N)], dtype=object),
        polygons=shapely.polygons(ring),
        centroids_px=centroids,
        measurements={names.AREA: np.where(np.arange(N) % 7 == 0, np.nan, 30.5).astype(np.float32)},
        classifications=np.where(np.arange(N) % 2 == 0, 'Tumor, "in situ"', None).astype(object),
    )
    score = np.where(far, 1.4, 0.5).astype(np.float32)
    return cells, Prediction(mean, mean, ((relative * mean) ** 2).astype(np.float32), score), near, far


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "run"
    cells, prediction, _, _ = nuclei()
    first = int((cells.centroids_px[:, 0] <= 1000).sum())
    with RunWriter(folder, panel=Panel(GENES), genes=GENES[:2], model_card={"name": "m"}) as writer:
        parts = ((LEFT, "left", np.arange(first)), (RIGHT, None, np.arange(first, N)))
        for number, (identity, name, index) in enumerate(parts):
            area = shapely.box(1000 * number, 0, 1000 * (number + 1), 1000)
            writer.start_region(Region(id=identity, geometry=area, name=name, classification="Tumor"))
            fields = ("mean", "aleatoric", "epistemic", "ood_score")
            writer.append(cells.take(index), Prediction(*(getattr(prediction, f)[index] for f in fields)))
        image = {"name": "a slide.svs", "content_id": "x", "width": 2000, "height": 1000, "mpp": MPP}
        record = {"settings": {}, "image": image, "model": {"name": "m"}, "warnings": [], "versions": {}}
        writer.finish(record | {"research_use": names.research_use(2)})
    return folder


def make(run_folder, output, form, **more):
    return export.run(ExportSettings(run=run_folder, output=output, format=form, **more))


def test_the_measurement_table_is_as_qupath_writes_it(run_folder, tmp_path):
    found = make(run_folder, tmp_path / "cells.tsv", "csv")
    assert found["written"] == N
    with (tmp_path / "cells.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert list(rows[0])[:9] == [
        "Image", "Object ID", "Object type", "Name", "Classification", "Parent", "ROI", "Centroid X µm",
        "Centroid Y µm",
    ]  # fmt: skip
    cells, prediction, _, _ = nuclei()
    for number in (0, 3, 7, N - 1):
        row = rows[number]
        assert row["Image"] == "a slide.svs"
        assert row["Object ID"] == cells.ids[number]
        assert row["Object type"] == "Detection"
        assert row["Classification"] == (cells.classifications[number] or "")
        assert row["Parent"] == ("left" if cells.centroids_px[number, 0] <= 1000 else "Tumor")
        assert float(row["Centroid X µm"]) == pytest.approx(cells.centroids_px[number, 0] * MPP, abs=1e-4)
        assert np.float32(row["STimage: HLA-A: mean"]) == prediction.mean[number, 1]
        sd = np.float32(row["STimage: HLA-A: epistemic SD"])
        assert sd == pytest.approx(np.sqrt(prediction.epistemic[number, 1]), rel=1e-6)
        assert row["Nucleus: Area µm^2"] == ("NaN" if number % 7 == 0 else "30.5")


def test_commas_regions_and_genes_beyond_those_written(run_folder, tmp_path):
    found = make(run_folder, tmp_path / "c.csv", "csv", genes=("CD3D", "ERBB2"), regions=("left",))
    table = pd.read_csv(tmp_path / "c.csv")
    cells, prediction, _, _ = nuclei()
    left = cells.centroids_px[:, 0] <= 1000
    assert found["written"] == len(table) == left.sum()
    assert found["regions"] == [LEFT]
    assert "STimage: HLA-A: mean" not in table
    assert table["STimage: CD3D: mean"].to_numpy(np.float32) == pytest.approx(prediction.mean[left, 2])
    assert table["STimage: ERBB2: mean"].to_numpy(np.float32) == pytest.approx(prediction.mean[left, 0])


def test_parquet_has_the_columns_of_the_run(run_folder, tmp_path):
    make(run_folder, tmp_path / "c.parquet", "parquet", genes=("HLA-A",), regions=(RIGHT,))
    whole = pd.read_parquet(run_folder / names.CELLS_PARQUET)
    part = pd.read_parquet(tmp_path / "c.parquet")
    expected = whole[whole["region_id"] == RIGHT].reset_index(drop=True)
    assert [c for c in part if "ERBB2" in c] == []
    pd.testing.assert_frame_equal(part, expected[list(part.columns)])


def test_geojson_is_what_qupath_got(run_folder, tmp_path):
    make(run_folder, tmp_path / "c.geojson.gz", "geojson", genes=("CD3D",), regions=(RIGHT,))
    features = list(read_features(tmp_path / "c.geojson.gz"))
    whole = {f.id: f for f in read_features(run_folder / names.CELLS_GEOJSON)}
    cells, prediction, _, _ = nuclei()
    right = np.flatnonzero(cells.centroids_px[:, 0] > 1000)
    assert [f.id for f in features] == cells.ids[right].tolist()
    for feature, row in zip(features[:50], right[:50], strict=True):
        assert feature.object_type == "detection"
        assert feature.geometry.equals(whole[feature.id].geometry)
        assert feature.classification == cells.classifications[row]
        assert np.float32(feature.measurements["STimage: CD3D: mean"]) == prediction.mean[row, 2]
        assert feature.measurements[names.OBJECT_VERSION] == 1
        assert "STimage: ERBB2: mean" not in feature.measurements
        assert ("Nucleus: Area µm^2" in feature.measurements) == bool(row % 7)
    with gzip.open(tmp_path / "c.geojson.gz", "rt", encoding="utf-8") as stream:
        json.load(stream, parse_constant=pytest.fail)


def test_h5ad_is_cut_along_both_axes(run_folder, tmp_path):
    make(run_folder, tmp_path / "c.h5ad", "h5ad", genes=("CD3D", "ERBB2"), regions=(RIGHT,))
    whole = anndata.read_h5ad(run_folder / names.CELLS_H5AD)
    part = anndata.read_h5ad(tmp_path / "c.h5ad")
    expected = whole[whole.obs["region_id"] == RIGHT, ["CD3D", "ERBB2"]].copy()
    assert part.var_names.tolist() == ["CD3D", "ERBB2"]
    assert part.obs_names.tolist() == expected.obs_names.tolist()
    assert (part.X == expected.X).all()
    for layer in ("aleatoric", "epistemic"):
        assert (part.layers[layer] == expected.layers[layer]).all()
    assert (part.obsm["spatial"] == expected.obsm["spatial"]).all()
    assert part.obs["cell_type"].astype(str).tolist() == expected.obs["cell_type"].astype(str).tolist()
    assert part.uns["stimage_qupath"]["card"] == whole.uns["stimage_qupath"]["card"]
    make(run_folder, tmp_path / "all.h5ad", "h5ad")
    assert anndata.read_h5ad(tmp_path / "all.h5ad").shape == whole.shape


def test_tiles_hold_the_means_of_their_nuclei(run_folder, tmp_path):
    make(run_folder, tmp_path / "t.geojson", "geojson", object="tiles", tile_um=100)
    tiles = list(read_features(tmp_path / "t.geojson"))
    cells, prediction, _, _ = nuclei()
    assert len(tiles) == 50  # 2000 x 1000 px in squares of 200 px, all of which hold nuclei
    assert {tile.object_type for tile in tiles} == {"tile"}
    assert sum(tile.measurements["STimage: nuclei"] for tile in tiles) == N
    for tile in tiles[::7]:
        inside = shapely.contains_xy(tile.geometry, *cells.centroids_px.T)
        assert tile.measurements["STimage: nuclei"] == inside.sum()
        assert tile.measurements["STimage: HLA-A: mean"] == pytest.approx(prediction.mean[inside, 1].mean(), abs=1e-5)
        area = cells.measurements[names.AREA][inside]
        assert tile.measurements["Nucleus: Area µm^2"] == pytest.approx(np.nanmean(area))
        assert tile.geometry.area == pytest.approx(200 * 200)


def test_areas_to_review_are_where_models_disagree_and_where_training_ends(run_folder, tmp_path):
    found = make(run_folder, tmp_path / "u.geojson", "geojson", object="uncertain", quantile=0.9)
    regions = read_regions(tmp_path / "u.geojson").regions
    cells, _, near, far = nuclei()
    assert found["written"] == len(regions) == 2
    assert [region.classification for region in regions] == [CLASS, CLASS]
    for centre, those in (((500, 500), near), ((1600, 500), far)):
        region = next(r for r in regions if r.geometry.contains(shapely.Point(centre)))
        inside = cells.inside(region.geometry)
        assert inside[those].mean() > 0.85
        assert those[inside].mean() > 0.8
    features = {f.name: f for f in read_features(tmp_path / "u.geojson")}
    assert set(features) == {"Review 1", "Review 2"}
    assert features["Review 1"].measurements["STimage: share uncertain"] > 0.8
    outside = sorted(f.measurements["STimage: share outside training"] for f in features.values())
    assert outside[0] == 0
    assert outside[1] > 0.8


def test_a_run_that_is_sure_has_nothing_to_review(tmp_path):
    cells, prediction, _, _ = nuclei()
    even = Prediction(prediction.mean, prediction.aleatoric, 0.01 * prediction.mean**2, np.full(N, 0.5, np.float32))
    with RunWriter(tmp_path / "run", panel=Panel(GENES), genes=GENES, model_card={}) as writer:
        writer.start_region(Region(id=LEFT, geometry=shapely.box(0, 0, 2000, 1000)))
        writer.append(cells, even)
        image = {"name": "a", "content_id": "x", "width": 2000, "height": 1000, "mpp": MPP}
        writer.finish({"settings": {}, "image": image, "model": {}, "warnings": [], "versions": {}})
    found = make(tmp_path / "run", tmp_path / "u.geojson", "geojson", object="uncertain", quantile=0.99)
    assert found["written"] == 0
    assert json.loads((tmp_path / "u.geojson").read_text())["features"] == []


@pytest.mark.slow
def test_spatialdata_reads_back_in_both_frames(run_folder, tmp_path):
    """Slow because the package takes seconds to be imported."""
    with _quiet():
        spatialdata = pytest.importorskip("spatialdata")
        make(run_folder, tmp_path / "run.zarr", "spatialdata", regions=("left",), genes=("CD3D", "ERBB2"))
        store = spatialdata.read_zarr(tmp_path / "run.zarr")
        in_px = spatialdata.get_centroids(store["nuclei"], coordinate_system="global")
        in_um = spatialdata.get_centroids(store["nuclei"], coordinate_system="um").compute()
    cells, prediction, _, _ = nuclei()
    left = cells.centroids_px[:, 0] <= 1000
    frame = in_px.compute() if hasattr(in_px, "compute") else in_px
    assert frame[["x", "y"]].to_numpy() == pytest.approx(cells.centroids_px[left], abs=0.01)
    assert in_um[["x", "y"]].to_numpy() == pytest.approx(cells.centroids_px[left] * MPP, abs=0.01)
    table = store["table"]
    assert table.var_names.tolist() == ["ERBB2", "CD3D"]
    assert table.obs["cell_id"].tolist() == cells.ids[left].tolist() == store["nuclei"].index.tolist()
    assert pytest.approx(prediction.mean[left][:, [0, 2]]) == table.X
    sd = np.sqrt(prediction.epistemic[left][:, [0, 2]])
    assert table.layers["epistemic_sd"] == pytest.approx(sd, rel=1e-5)
    assert store["regions"]["name"].tolist() == ["left"]
    assert len(store["centroids"]) == left.sum()
    with pytest.raises(OutputExistsError, match="--force"):
        make(run_folder, tmp_path / "run.zarr", "spatialdata")
    with _quiet():
        make(run_folder, tmp_path / "run.zarr", "spatialdata", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputExistsError, match="something else"):
        make(run_folder, tmp_path / "mine", "spatialdata", force=True)


def _quiet():
    import warnings

    return warnings.catch_warnings(action="ignore")


def test_what_cannot_be_exported_is_said(run_folder, tmp_path):
    with pytest.raises(UnknownGeneError, match="NOPE"):
        make(run_folder, tmp_path / "a.csv", "csv", genes=("NOPE",))
    with pytest.raises(AnnotationError, match="found elsewhere; it has left, "):
        make(run_folder, tmp_path / "a.csv", "csv", regions=("elsewhere",))
    with pytest.raises(UsageError, match="expected format geojson for tiles, found csv"):
        make(run_folder, tmp_path / "a.csv", "csv", object="tiles")
    with pytest.raises(OutputExistsError, match="a part of the run itself"):
        make(run_folder, run_folder / names.CELLS_PARQUET, "parquet", force=True)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_needs_force_and_survives_a_fault(run_folder, tmp_path, monkeypatch):
    output = tmp_path / "t.geojson"
    output.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="--force"):
        make(run_folder, output, "geojson")

    def broken(*_, **__):
        yield {"type": "Feature"}
        raise RuntimeError

    monkeypatch.setattr(export, "tile_features", broken)
    with pytest.raises(RuntimeError):
        make(run_folder, output, "geojson", object="tiles", force=True)
    assert output.read_text(encoding="utf-8") == "mine"
    assert list(tmp_path.iterdir()) == [output]


def test_the_command_says_what_it_wrote(run_folder, tmp_path, capsys):
    words = ["export", str(run_folder), "--output", str(tmp_path / "u.geojson"), "--format", "geojson"]
    assert run_command([*words, "--object", "uncertain"]) == 0
    said = capsys.readouterr().out
    assert "2 areas to review" in said
    assert "Research use only" in said
    assert run_command([*words, "--force", "--json", "--region", "left", "--genes", "ERBB2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["regions"], found["genes"]) == ([LEFT], ["ERBB2"])
    assert run_command([*words[:-1], "xml"]) == 2
    assert "expected format out of geojson, csv, parquet, h5ad, spatialdata, found 'xml'" in capsys.readouterr().err


def test_a_missing_extra_is_named(run_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(MissingPartError, match=r'pip install "stimage-qupath\[spatial\]"'):
        make(run_folder, tmp_path / "run.zarr", "spatialdata")
    assert list(tmp_path.iterdir()) == []
