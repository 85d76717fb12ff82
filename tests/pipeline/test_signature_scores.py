"""Signature scores of nuclei in a run: the same everywhere, from the members, and nothing else changes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from stimage_qupath import names
from stimage_qupath.config import PredictSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.pipeline import predict
from stimage_qupath.pipeline.signature_scores import SignatureScores
from stimage_qupath.prediction.signatures import SignatureScorer
from stimage_qupath.signatures.definition import Signature
from stimage_qupath.signatures.library import linear_signatures

WORDS = ("mcpcounter", "pam50-proliferation")
PROLIFERATION = "STimage: PAM50 proliferation: score"


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    path = tmp_path_factory.mktemp("regions") / "regions.geojson"
    ring = [[60, 60], [700, 60], [700, 700], [60, 700], [60, 60]]
    area = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": area, "properties": {"objectType": "annotation"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_of(tissue_slide, regions, tmp_path_factory):
    """Return a function that predicts the same region with other settings."""
    folder = tmp_path_factory.mktemp("runs")

    def make(name, **options):
        given = {"image": tissue_slide.path, "annotations": regions, "genes": ("BGN",), "overview": False}
        return predict.run(PredictSettings(output=folder / name, **(given | options)))

    return make


@pytest.fixture(scope="module")
def plain(run_of):
    return run_of("plain")


@pytest.fixture(scope="module")
def scored(run_of):
    return run_of("scored", signatures=WORDS)


def path(record, name):
    return f"{record['output']}/{name}"


def test_every_file_holds_the_scores_and_the_rest_is_as_without(plain, scored):
    table = pd.read_parquet(path(scored, names.CELLS_PARQUET))
    data = anndata.read_h5ad(path(scored, names.CELLS_H5AD))
    with gzip.open(path(scored, names.CELLS_GEOJSON)) as file:
        measured = [feature["properties"]["measurements"] for feature in json.load(file)["features"]]
    for quantity, column in (
        ("score", "score"),
        ("score SD", "score_sd"),
        ("score epistemic SD", "score_epistemic_sd"),
    ):
        values = table[f"pam50_proliferation_{column}"].to_numpy()
        np.testing.assert_array_equal(data.obs[f"pam50_proliferation_{column}"], values)
        in_qupath = [m[f"STimage: PAM50 proliferation: {quantity}"] for m in measured]
        np.testing.assert_allclose(in_qupath, values, rtol=1e-5)
    before = anndata.read_h5ad(path(plain, names.CELLS_H5AD))
    np.testing.assert_array_equal(before.X, data.X)
    assert "pam50_proliferation_score" not in before.obs
    columns = list(pd.read_parquet(path(plain, names.CELLS_PARQUET)).columns)
    pd.testing.assert_frame_equal(pd.read_parquet(path(plain, names.CELLS_PARQUET)), table[columns])
    assert "signatures" not in json.loads(Path(path(plain, names.RUN_JSON)).read_text(encoding="utf-8"))


def test_the_record_counts_missing_genes_and_says_what_was_left_out(scored):
    entries = {entry["name"]: entry for entry in scored["signatures"]["signatures"]}
    assert list(entries) == ["Fibroblasts", "PAM50 proliferation"]
    assert (entries["Fibroblasts"]["genes"], len(entries["Fibroblasts"]["missing"])) == (8, 1)
    assert any("T cells (3 of 16)" in warning for warning in scored["warnings"])
    assert "law of total variance" in scored["signatures"]["meaning"]
    score = pd.read_parquet(path(scored, names.CELLS_PARQUET))["fibroblasts_score"]
    assert np.mean(entries["Fibroblasts"]["member_mean"]) == pytest.approx(score.mean(), rel=1e-5)
    assert len(entries["Fibroblasts"]["member_mean"]) == load_model("starter").ensemble.heads.bias.shape[0]


def test_between_the_nodes_of_a_grid_scores_are_mixed_as_predictions_are(run_of, scored):
    grid = run_of("grid", signatures=WORDS, unit="grid", stride_um=2.0)
    fine, exact = (pd.read_parquet(path(r, names.CELLS_PARQUET)) for r in (grid, scored))
    spread = exact.pam50_proliferation_score.std()
    assert np.abs(fine.pam50_proliferation_score - exact.pam50_proliferation_score).max() < 0.1 * spread + 1e-3


def test_members_give_score_and_both_variances(scored):
    """The scores of two genes by hand, from the heads and by the ensemble's own mean and variances."""
    ensemble = load_model("starter").ensemble
    features = np.random.default_rng(0).normal(size=(700, len(ensemble.heads.feature_mean))).astype(np.float32)
    features = features * ensemble.heads.feature_sd + ensemble.heads.feature_mean
    scorer, _ = SignatureScorer.of(ensemble, [Signature.mean_of("pair", ["ERBB2", "BGN"], source="hand")])
    found = scorer(features)
    pair = ensemble.take_genes(("ERBB2", "BGN"))
    mean = np.exp(pair.heads.log_mean(pair.known(features)).astype(float))
    logs = np.log2(1 + mean).mean(axis=2)
    np.testing.assert_allclose(found.score[:, 0], logs.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.epistemic[:, 0], logs.var(axis=0), rtol=1e-4, atol=1e-9)
    variance = mean + mean**2 / pair.total_count[:, None]
    by_hand = (variance / ((1 + mean) * np.log(2)) ** 2 / 4).sum(axis=2).mean(axis=0)
    np.testing.assert_allclose(found.aleatoric[:, 0], by_hand, rtol=1e-5)


def test_what_cannot_be_scored_is_refused_before_any_work(tmp_path):
    ensemble = load_model("starter").ensemble
    assert SignatureScores.of((), ensemble) is None
    with pytest.raises(UsageError, match="at least half of the genes of 'genomic grade'"):
        SignatureScores.of(("ggi",), ensemble)
    gmt = tmp_path / "own.gmt"
    gmt.write_text("OOD\t\tERBB2\n", encoding="utf-8")
    with pytest.raises(UsageError, match="found 'OOD'; rename it"):
        SignatureScores.of((str(gmt),), ensemble)
    assert [s.name for s in linear_signatures(WORDS[1:])] == [PROLIFERATION.split(": ")[1]]
