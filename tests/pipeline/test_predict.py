"""From slide and annotations to a run folder, on a picture whose nuclei are known."""

from __future__ import annotations

import gzip
import json
from uuid import UUID

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely

from stimage_qupath import names
from stimage_qupath.config import PredictSettings, SegmentSettings
from stimage_qupath.errors import AnnotationError, CancelledError, OutputExistsError
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.pipeline import predict

SQUARE = [[60, 60], [900, 60], [900, 1100], [60, 1100], [60, 60]]
HOLE = [[300, 300], [300, 700], [700, 700], [700, 300], [300, 300]]


@pytest.fixture(scope="module")
def slide(tissue_slide):
    return tissue_slide


def annotation(*rings, name="area", classification="Tumor"):
    properties = {
        "objectType": "annotation",
        "name": name,
        "classification": {"name": classification, "color": [200, 0, 0]},
    }
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": list(rings)}, "properties": properties}


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    path = tmp_path_factory.mktemp("regions") / "regions.geojson"
    far = [[950, 100], [1100, 100], [1100, 1400], [950, 1400], [950, 100]]
    features = [annotation(SQUARE, HOLE), annotation(far, name="strip", classification="Stroma")]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(slide, regions, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    settings = PredictSettings(image=slide.path, output=output, annotations=regions, genes=("TAGLN", "BGN"))
    return output, predict.run(settings)


def read_geojson(output):
    with gzip.open(output / names.CELLS_GEOJSON, "rb") as file:
        return json.load(file)["features"]


def known_centres(slide):
    """Return the nuclei whose centre lies in the annotations and not in the hole."""
    centres = slide.centres
    area = shapely.union(shapely.Polygon(SQUARE, [HOLE]), shapely.box(950, 100, 1100, 1400))
    return centres[shapely.contains_xy(area, centres)]


def test_every_nucleus_of_the_annotations_is_one_nucleus_at_its_place(run, slide):
    found = pd.read_parquet(run[0] / names.CELLS_PARQUET)[["x_px", "y_px"]].to_numpy()
    known = known_centres(slide)
    assert len(found) == len(known)
    distance = np.linalg.norm(found[:, None] - known[None], axis=2)
    assert distance.min(axis=1).max() < 0.5
    assert len(set(distance.argmin(axis=1))) == len(known)


def test_detections_are_inside_valid_and_named_alike_everywhere(run):
    output, _ = run
    features = read_geojson(output)
    table = pd.read_parquet(output / names.CELLS_PARQUET)
    data = anndata.read_h5ad(output / names.CELLS_H5AD)
    ids = [f["id"] for f in features]
    assert ids == list(table.cell_id) == list(data.obs_names)
    assert len({str(UUID(i)) for i in ids}) == len(ids)
    hole = shapely.Polygon(HOLE)
    for feature in features:
        polygon = shapely.geometry.shape(feature["geometry"])
        assert polygon.is_valid
        assert not hole.contains(polygon.centroid)
        values = feature["properties"]["measurements"].values()
        assert all(np.isfinite(v) for v in values)
    assert np.isfinite(data.X).all()
    assert np.isfinite(table.select_dtypes("number").to_numpy()).all()


def test_the_three_files_hold_the_same_numbers(run):
    output, _ = run
    table, data = pd.read_parquet(output / names.CELLS_PARQUET), anndata.read_h5ad(output / names.CELLS_H5AD)
    written = [f["properties"]["measurements"] for f in read_geojson(output)]
    mean = data[:, "TAGLN"].X.ravel()
    np.testing.assert_allclose(table.TAGLN_mean, mean, rtol=1e-6)
    np.testing.assert_allclose([m["STimage: TAGLN: mean"] for m in written], mean, rtol=1e-5)
    sd = np.sqrt(data[:, "BGN"].layers["epistemic"]).ravel()
    np.testing.assert_allclose([m["STimage: BGN: epistemic SD"] for m in written], sd, rtol=1e-4)
    assert data.n_vars == len(load_model("starter").panel)
    assert {m["STimage: object version"] for m in written} == {1.0}


def test_the_record_says_what_was_done_and_where_each_region_stands(run, slide):
    output, returned = run
    record = json.loads((output / names.RUN_JSON).read_text(encoding="utf-8"))
    assert record["cells"] == returned["cells"] == len(known_centres(slide))
    assert sum(r["count"] for r in record["regions"]) == record["cells"]
    assert [r["first"] for r in record["regions"]] == [0, record["regions"][0]["count"]]
    assert record["model"]["sha256"] == load_model("starter").sha256
    assert record["image"]["mpp"] == pytest.approx(0.5)
    assert set(record["stages"]) >= {"nuclei", "encode", "heads", "write"}
    assert record["peak_memory_mib"] > 0
    assert "Research use only." in record["research_use"]
    assert (output / "overview_TAGLN.png").stat().st_size > 10_000


@pytest.mark.flow
def test_again_with_other_batches_and_threads_gives_the_same(run, slide, regions, tmp_path):
    again = tmp_path / "again"
    predict.run(
        PredictSettings(
            image=slide.path, output=again, annotations=regions, genes=("TAGLN", "BGN"), batch_size=3, threads=4
        )
    )
    assert (again / names.CELLS_GEOJSON).read_bytes() == (run[0] / names.CELLS_GEOJSON).read_bytes()
    first, second = (anndata.read_h5ad(folder / names.CELLS_H5AD) for folder in (run[0], again))
    np.testing.assert_allclose(first.X, second.X, rtol=1e-4)


def test_nuclei_alone(slide, regions, tmp_path):
    settings = SegmentSettings(image=slide.path, output=tmp_path / "nuclei", annotations=regions, classes=("Stroma",))
    record = predict.run(settings)
    table = pd.read_parquet(tmp_path / "nuclei" / names.CELLS_PARQUET)
    assert record["cells"] == len(table) > 0
    assert table.x_px.between(950, 1100).all()
    assert not [column for column in table if column.endswith("_mean") and "nucleus" not in column]


def test_tissue_is_found_where_nobody_annotated(slide, tmp_path):
    record = predict.run(PredictSettings(image=slide.path, output=tmp_path / "run", overview=False))
    (region,) = json.loads((tmp_path / "run" / names.RUN_JSON).read_text(encoding="utf-8"))["regions"]
    assert region["count"] == record["cells"] == len(slide.centres)


def test_bare_glass_is_said_to_be_no_tissue(formula_slide, tmp_path):
    """Blobs a nucleus wide on white glass."""
    settings = PredictSettings(image=formula_slide(mpp=0.5).path, output=tmp_path / "run")
    with pytest.raises(AnnotationError, match=r"expected tissue in formula\.tif, found none"):
        predict.run(settings)
    assert not list(tmp_path.iterdir())


def test_a_grid_gives_nearly_what_windows_on_nuclei_give(run, slide, regions, tmp_path):
    settings = PredictSettings(
        image=slide.path, output=tmp_path / "grid", annotations=regions, unit="grid", stride_um=20.0, overview=False
    )
    predict.run(settings)
    exact, mixed = (anndata.read_h5ad(folder / names.CELLS_H5AD)[:, "BGN"].X for folder in (run[0], tmp_path / "grid"))
    assert np.corrcoef(exact.ravel(), mixed.ravel())[0, 1] > 0.95


def test_all_measurements_hold_an_interval_around_the_median(slide, regions, tmp_path):
    settings = PredictSettings(
        image=slide.path,
        output=tmp_path / "all",
        annotations=regions,
        measurements="all",
        genes=("BGN",),
        overview=False,
    )
    predict.run(settings)
    for feature in read_geojson(tmp_path / "all"):
        m = feature["properties"]["measurements"]
        assert m["STimage: BGN: p05"] <= m["STimage: BGN: p95"]
        assert m["STimage: BGN: p95"] >= m["STimage: BGN: mean"] * 0.5


def test_a_gene_without_support_is_written_with_a_warning(slide, regions, tmp_path):
    model = load_model("starter")
    weak = model.unsupported(model.panel.genes)[0]
    settings = PredictSettings(
        image=slide.path, output=tmp_path / "run", annotations=regions, genes=(weak,), overview=False
    )
    record = predict.run(settings)
    assert any(f"can predict {weak}" in warning for warning in record["warnings"])


def test_cancelled_at_any_point_leaves_nothing(slide, regions, tmp_path):
    for allowed in (0, 1, 3):
        left = allowed

        def cancelled():
            nonlocal left
            left -= 1
            return left < 0

        with pytest.raises(CancelledError):
            predict.run(
                PredictSettings(image=slide.path, output=tmp_path / "run", annotations=regions), cancelled=cancelled
            )
        assert not list(tmp_path.iterdir())


def test_an_existing_run_is_refused_before_any_work(run, slide, regions):
    before = (run[0] / names.RUN_JSON).read_bytes()
    with pytest.raises(OutputExistsError, match="--force"):
        predict.run(PredictSettings(image=slide.path, output=run[0], annotations=regions))
    assert (run[0] / names.RUN_JSON).read_bytes() == before
