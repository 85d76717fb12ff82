"""A run whose attributions are tested, and where its nuclei of high attribution lie."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from stimage_qupath import names
from stimage_qupath.cli import run as run_command
from stimage_qupath.config import ExplainSettings, PredictSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.pipeline import explain, faithfulness, predict

pytestmark = pytest.mark.flow

GENES = ("TAGLN", "BGN")
CORNER = [[60, 60], [760, 60], [760, 760], [60, 760], [60, 60]]


def annotation(ring, **properties):
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", **properties},
    }


@pytest.fixture(scope="module")
def explained(tissue_slide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faithful")
    (folder / "regions.geojson").write_text(json.dumps([annotation(CORNER, name="corner")]), encoding="utf-8")
    settings = PredictSettings(
        image=tissue_slide.path,
        output=folder / "run",
        annotations=folder / "regions.geojson",
        genes=("TAGLN",),
        overview=False,
    )
    predict.run(settings)
    explain.run(ExplainSettings(run=folder / "run", genes=GENES))
    return folder / "run"


@pytest.fixture
def run_folder(explained, tmp_path):
    shutil.copytree(explained, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.slow
def test_the_record_and_the_picture_join_the_attributions(run_folder, monkeypatch, capsys):
    monkeypatch.setattr(faithfulness, "LEAST_NUCLEI", 5)
    monkeypatch.setattr(faithfulness, "ROBUST_BLOCKS", 1)
    before = pd.read_parquet(run_folder / names.CELLS_PARQUET)
    assert run_command(["explain", str(run_folder), "--gene", "BGN", "--faithfulness"]) == 0
    assert "BGN: against matched nuclei" in capsys.readouterr().out
    pd.testing.assert_frame_equal(before, pd.read_parquet(run_folder / names.CELLS_PARQUET))
    record = json.loads((run_folder / names.ATTRIBUTION_JSON).read_text(encoding="utf-8"))
    found = record["genes"]["BGN"]["faithfulness"]
    assert found["scoring_fill"] == "transplanted"
    assert found["reason"] == "not tested: fewer than 20 blocks"
    assert found["over_matched_nuclei"]["both"]["p"] is None
    assert found["blocks"] >= 1
    assert len(found["curves"]["deletion"]["ordered"]) == len(found["shares"]) == 4
    assert found["robustness"]["repeat"] == 1.0
    assert abs(found["robustness"]["random_heads"]) < 0.9
    assert "faithfulness" not in record["genes"]["TAGLN"]
    run_record = json.loads((run_folder / names.RUN_JSON).read_text(encoding="utf-8"))
    assert run_record["attribution"]["genes"]["BGN"]["faithfulness"] == found
    picture = run_folder / names.ATTRIBUTION_PNG.format(what="faithfulness")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_a_block_of_nuclei_there_is_nothing_to_test_on(run_folder, monkeypatch):
    monkeypatch.setattr(faithfulness, "LEAST_NUCLEI", 10**6)
    with pytest.raises(UsageError, match=r"expected a block of \d+ um with 1000000 nuclei to test on, found none"):
        faithfulness.run(ExplainSettings(run=run_folder, genes=GENES))


def test_nuclei_of_high_attribution_are_counted_in_annotations(run_folder, tmp_path, capsys):
    left = [[60, 60], [400, 60], [400, 760], [60, 760], [60, 60]]
    path = tmp_path / "drawn.geojson"
    path.write_text(json.dumps([annotation(left, classification={"name": "Left", "color": [1, 2, 3]})]), "utf-8")
    from stimage_qupath.pipeline.attribution_enrichment import add_enrichment

    found = add_enrichment(ExplainSettings(run=run_folder, genes=GENES), path)["enrichment"]
    table = pd.read_parquet(run_folder / names.CELLS_PARQUET)
    values, inside = table["BGN_attribution"].to_numpy(float), (table["x_px"] < 400).to_numpy()
    high = values > np.quantile(values, 0.8)
    one = found["classes"]["BGN"]["Left"]
    assert (one["nuclei"], one["rest"]) == (inside.sum(), (~inside).sum())
    assert one["share"] == pytest.approx(high[inside].mean())
    assert one["rest_share"] == pytest.approx(high[~inside].mean())
    assert one["p"] is None
    assert one["reason"] == "not tested: fewer than 20 blocks"
    assert set(found["shapes"]["BGN"]) <= {f"high {s} against low" for s in ("area", "circularity", "hematoxylin")}
    written = json.loads((run_folder / names.ATTRIBUTION_JSON).read_text(encoding="utf-8"))
    assert written["enrichment"]["classes"]["BGN"]["Left"]["nuclei"] == one["nuclei"]
    assert set(written["genes"]) == set(GENES)
    words = ["--annotations", str(path), "--output", str(tmp_path / "v"), "--genes", "TAGLN", "--rest", "all"]
    assert run_command(["validate", str(run_folder), *words]) == 0
    capsys.readouterr()
    validation = json.loads((tmp_path / "v" / "validation.json").read_text(encoding="utf-8"))
    assert validation["attribution"]["classes"]["BGN"]["Left"]["share"] == pytest.approx(one["share"])
    page = (tmp_path / "v" / "validation.html").read_text(encoding="utf-8")
    assert "Nuclei of high attribution in each class of the annotations" in page
    assert "Faithful to the model, not evidence of biology." in page
