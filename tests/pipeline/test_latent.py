"""The latent view of a run: a table and pictures beside files that stay as they are."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from stimage_qupath import names
from stimage_qupath.cli import run as run_command
from stimage_qupath.config import LatentSettings, PredictSettings
from stimage_qupath.errors import CancelledError, UnknownGeneError, UsageError
from stimage_qupath.pipeline import latent, predict

CORNER = [[60, 60], [460, 60], [460, 460], [60, 460], [60, 60]]


@pytest.fixture(scope="module")
def predicted(tissue_slide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [CORNER]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    (folder / "regions.geojson").write_text(json.dumps([feature]), encoding="utf-8")
    settings = PredictSettings(
        image=tissue_slide.path,
        output=folder / "run",
        annotations=folder / "regions.geojson",
        genes=("TAGLN", "BGN"),
        overview=False,
    )
    predict.run(settings)
    return folder / "run"


@pytest.fixture
def run_folder(predicted, tmp_path):
    return shutil.copytree(predicted, tmp_path / "run")


@pytest.fixture
def without_umap(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)


def test_a_row_a_nucleus_and_pictures_of_what_is_known(run_folder, without_umap):
    before = {path.name: path.read_bytes() for path in run_folder.iterdir()}
    record = latent.run(LatentSettings(run=run_folder, genes=("BGN",)))
    places = pd.read_parquet(run_folder / names.LATENT_PARQUET)
    cells = pd.read_parquet(run_folder / names.CELLS_PARQUET)
    assert list(places.columns) == ["x", "y", "method", "cell_id"]
    assert places["cell_id"].tolist() == cells["cell_id"].tolist()
    assert set(places["method"]) == {"pca"}
    assert record["methods"] == ["pca"]
    assert "umap-learn" in record["warnings"][0]
    np.testing.assert_allclose(places[["x", "y"]].mean(), 0, atol=1e-6)
    assert places["x"].std() >= places["y"].std() > 0
    assert record["files"] == ["latent.parquet", "latent_BGN.png", "latent_OOD score.png", "latent_region.png"]
    assert all((run_folder / name).stat().st_size > 0 for name in record["files"])
    assert {name: (run_folder / name).read_bytes() for name in before} == before


@pytest.mark.flow
def test_no_more_nuclei_than_asked_for_and_the_same_by_the_same_seed(run_folder, without_umap):
    def drawn(seed):
        latent.run(LatentSettings(run=run_folder, places=4, seed=seed))
        return (run_folder / names.LATENT_PARQUET).read_bytes()

    first = drawn(1)
    assert len(pd.read_parquet(run_folder / names.LATENT_PARQUET)) == 4
    assert drawn(1) == first != drawn(2)


def test_pictures_of_an_earlier_view_go(run_folder, without_umap):
    latent.run(LatentSettings(run=run_folder, genes=("BGN",), places=4))
    latent.run(LatentSettings(run=run_folder, genes=("TAGLN",), places=4))
    assert not (run_folder / "latent_BGN.png").exists()
    assert (run_folder / "latent_TAGLN.png").exists()


def test_what_cannot_be_done_is_said_and_nothing_is_written(run_folder, without_umap):
    with pytest.raises(UnknownGeneError, match=r"expected genes that the run measured \(TAGLN, BGN\), found NOPE"):
        latent.run(LatentSettings(run=run_folder, genes=("NOPE",)))
    with pytest.raises(CancelledError):
        latent.run(LatentSettings(run=run_folder), cancelled=lambda: True)
    with pytest.raises(UsageError, match=r"expected .*places"):
        LatentSettings(run=run_folder, places=2)
    assert not list(run_folder.glob("latent*"))


def test_the_command(run_folder, without_umap, capsys):
    assert run_command(["latent", str(run_folder), "--gene", "TAGLN", "--places", "5"]) == 0
    out = capsys.readouterr().out
    assert "5 nuclei" in out
    assert "warning: principal components alone" in out
    assert "Research use only." in out
