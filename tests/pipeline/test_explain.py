"""Attributions written into a finished run, whole or not at all."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from stimage_qupath import names
from stimage_qupath.cli import run as run_command
from stimage_qupath.config import ExplainSettings, PredictSettings, SegmentSettings
from stimage_qupath.errors import CancelledError, UnknownGeneError, UsageError
from stimage_qupath.pipeline import explain, predict

GENES = ("TAGLN", "BGN")
CORNER = [[60, 60], [560, 60], [560, 560], [60, 560], [60, 60]]


@pytest.fixture(scope="module")
def predicted(tissue_slide, tmp_path_factory):
    """Return a run over a corner of the slide and the settings it came from."""
    folder = tmp_path_factory.mktemp("explain")
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [CORNER]},
        "properties": {"objectType": "annotation", "name": "corner"},
    }
    (folder / "regions.geojson").write_text(json.dumps([feature]), encoding="utf-8")
    settings = PredictSettings(
        image=tissue_slide.path,
        output=folder / "run",
        annotations=folder / "regions.geojson",
        genes=("TAGLN",),
        overview=False,
    )
    predict.run(settings)
    return settings


@pytest.fixture
def run_folder(predicted, tmp_path):
    """Return a copy of the run, with a file of the user's own in it."""
    shutil.copytree(predicted.output, tmp_path / "run")
    (tmp_path / "run" / "my notes.txt").write_text("mine", encoding="utf-8")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def explained(predicted, tmp_path_factory):
    """Return a run explained for two genes, and what the flow returned."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    shutil.copytree(predicted.output, folder)
    return folder, explain.run(ExplainSettings(run=folder, genes=GENES, difference=GENES))


def measurements(folder):
    with gzip.open(folder / names.CELLS_GEOJSON, "rb") as file:
        return [f["properties"]["measurements"] for f in json.load(file)["features"]]


def test_every_nucleus_gets_the_same_number_in_every_file(explained, predicted):
    folder, _ = explained
    table, data = pd.read_parquet(folder / names.CELLS_PARQUET), anndata.read_h5ad(folder / names.CELLS_H5AD)
    written = measurements(folder)
    assert len(table) == len(written) > 5
    for gene in GENES:
        value = table[f"{gene}_attribution"].to_numpy()
        assert np.isfinite(value).all()
        assert value.std() > 0
        np.testing.assert_array_equal(data[:, gene].layers["attribution"].ravel(), value)
        np.testing.assert_allclose([m[f"STimage: {gene}: attribution"] for m in written], value, rtol=1e-6)
        sd = table[f"{gene}_attribution_sd"].to_numpy()
        np.testing.assert_allclose([m[f"STimage: {gene}: attribution SD"] for m in written], sd, rtol=1e-6)
        per_um2 = table[f"{gene}_attribution_per_um2"].to_numpy()
        area = table["nucleus_area_um2"].to_numpy()
        assert np.corrcoef(value, per_um2 * area)[0, 1] > 0.99  # the mask at 1 um is coarser than the outline
    other = data[:, [gene for gene in data.var_names if gene not in GENES]]
    assert np.isnan(other.layers["attribution"]).all()


def test_nothing_else_of_the_run_changes(explained, predicted):
    folder, _ = explained
    before, after = (anndata.read_h5ad(f / names.CELLS_H5AD) for f in (predicted.output, folder))
    np.testing.assert_array_equal(before.X, after.X)
    pd.testing.assert_frame_equal(before.obs, after.obs)
    old, new = (pd.read_parquet(f / names.CELLS_PARQUET) for f in (predicted.output, folder))
    pd.testing.assert_frame_equal(old, new[old.columns])
    for one, other in zip(measurements(predicted.output), measurements(folder), strict=True):
        assert one == {name: value for name, value in other.items() if not name.rpartition(": ")[2].startswith("attr")}


def test_the_record_says_how_and_how_complete(explained):
    folder, returned = explained
    record = json.loads((folder / names.RUN_JSON).read_text(encoding="utf-8"))
    alone = json.loads((folder / names.ATTRIBUTION_JSON).read_text(encoding="utf-8"))
    assert record["attribution"]["note"] == alone["note"] == "Faithful to the model, not evidence of biology."
    about = record["attribution"]["genes"]["BGN"]
    assert (about["method"], about["fill"], about["target"]) == ("ablation", "white", "log mean")
    assert about["nuclei"] == record["cells"] == returned["cells"]
    assert 0 < about["background_share"] < 1
    assert about["completeness"]["promised"] is False
    assert "STimage: BGN: attribution" in record["measurements"]
    assert "attribution" in anndata.read_h5ad(folder / names.CELLS_H5AD).uns["stimage_qupath"]
    background = pd.read_parquet(folder / names.ATTRIBUTION_BACKGROUND)
    assert background.x_px.between(0, 1110 + 32).all()
    assert np.isfinite(background["BGN_attribution"]).any()


def test_each_map_is_drawn_and_says_what_it_is(explained):
    """The words on a picture are those that the drawing was given: captured where they are drawn."""
    folder, _ = explained
    for what in (*GENES, " - ".join(GENES)):
        assert (folder / f"attribution_{what}.png").read_bytes().startswith(b"\x89PNG")
    assert explain._how(ExplainSettings(run=folder, genes=GENES)) == "ablation of log mean, nuclei replaced by: white"
    assert explain._how(ExplainSettings(run=folder, genes=GENES, method="saliency")) == "saliency of log mean"


def test_the_difference_is_of_maps_of_equal_size(explained):
    table = pd.read_parquet(explained[0] / names.CELLS_PARQUET)
    scaled = [table[f"{g}_attribution"].astype(float) / np.sqrt((table[f"{g}_attribution"] ** 2).mean()) for g in GENES]
    np.testing.assert_allclose(table["TAGLN - BGN_attribution"], scaled[0] - scaled[1], rtol=1e-4, atol=1e-5)


@pytest.mark.flow
def test_a_second_gene_joins_the_first_and_the_users_file_stays(run_folder):
    explain.run(ExplainSettings(run=run_folder, genes=("BGN",)))
    first = pd.read_parquet(run_folder / names.CELLS_PARQUET)
    explain.run(ExplainSettings(run=run_folder, genes=("TAGLN",), fill="inpainted"))
    both = pd.read_parquet(run_folder / names.CELLS_PARQUET)
    pd.testing.assert_frame_equal(first, both[first.columns])
    genes = json.loads((run_folder / names.RUN_JSON).read_text(encoding="utf-8"))["attribution"]["genes"]
    assert {gene: about["fill"] for gene, about in genes.items()} == {"BGN": "white", "TAGLN": "inpainted"}
    layer = anndata.read_h5ad(run_folder / names.CELLS_H5AD)[:, ["BGN", "TAGLN"]].layers["attribution"]
    np.testing.assert_array_equal(layer, both[["BGN_attribution", "TAGLN_attribution"]])
    assert (run_folder / "my notes.txt").read_text(encoding="utf-8") == "mine"
    assert sorted(p.name for p in run_folder.parent.iterdir()) == ["run"]


@pytest.mark.slow
def test_interrupted_and_resumed_gives_the_same(run_folder, predicted, tmp_path, monkeypatch):
    monkeypatch.setattr("stimage_qupath.attribution.plan.CELLS_A_BLOCK", 7)
    monkeypatch.setattr("stimage_qupath.attribution.reader.CELLS_A_BLOCK", 7)
    before = (run_folder / names.RUN_JSON).read_bytes()
    done = []

    def progress(stage, count, total, message):
        done.append(count)

    settings = ExplainSettings(run=run_folder, genes=GENES, resume=True)
    with pytest.raises(CancelledError):
        explain.run(settings, progress, lambda: len(done) > 1)
    assert (run_folder / names.RUN_JSON).read_bytes() == before
    store = run_folder.with_name("run.explaining")
    kept = {p.name: p.stat().st_mtime_ns for p in store.glob("block*")}
    assert len(kept) == 2
    with pytest.raises(UsageError, match="found another fill; leave --resume out"):
        explain.run(ExplainSettings(run=run_folder, genes=GENES, fill="inpainted", resume=True))
    explain.run(settings, progress)
    assert not store.exists()
    shutil.copytree(predicted.output, tmp_path / "at once")
    explain.run(ExplainSettings(run=tmp_path / "at once", genes=GENES))
    for name in (names.CELLS_GEOJSON, names.CELLS_PARQUET):
        assert (run_folder / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()


KILLED = """
import os, signal, sys
from stimage_qupath.attribution import plan, reader
from stimage_qupath.config import ExplainSettings
from stimage_qupath.pipeline import explain

plan.CELLS_A_BLOCK = reader.CELLS_A_BLOCK = 7
save = explain.BlockStore.save

def save_and_die(store, block, arrays):
    save(store, block, arrays)
    if len(list(store.folder.glob("block*.npz"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

explain.BlockStore.save = save_and_die
explain.run(ExplainSettings(run=sys.argv[1], genes=("TAGLN", "BGN")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")
def test_killed_and_resumed_gives_the_same_bytes(run_folder, predicted, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in run_folder.iterdir()}
    died = subprocess.run([sys.executable, "-c", KILLED, str(run_folder)], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert {path.name: path.read_bytes() for path in run_folder.iterdir()} == before
    for module in ("plan", "reader"):
        monkeypatch.setattr(f"stimage_qupath.attribution.{module}.CELLS_A_BLOCK", 7)
    explain.run(ExplainSettings(run=run_folder, genes=GENES, resume=True))
    shutil.copytree(predicted.output, tmp_path / "at once")
    explain.run(ExplainSettings(run=tmp_path / "at once", genes=GENES))
    for name in (names.CELLS_GEOJSON, names.CELLS_PARQUET, names.CELLS_H5AD, names.ATTRIBUTION_BACKGROUND):
        assert (run_folder / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()


@pytest.mark.slow
def test_predict_explains_when_asked(predicted, explained, tmp_path):
    settings = PredictSettings.from_dict(
        {**predicted.to_dict(), "output": str(tmp_path / "run"), "explain": list(GENES)}
    )
    record = predict.run(settings)
    assert record["attribution"]["genes"]["BGN"]["nuclei"] == record["cells"]
    ours, theirs = (pd.read_parquet(f / names.CELLS_PARQUET) for f in (tmp_path / "run", explained[0]))
    np.testing.assert_array_equal(ours["BGN_attribution"], theirs["BGN_attribution"])


def test_the_command(run_folder, capsys):
    assert run_command(["explain", str(run_folder), "--gene", "BGN", "--target", "member 3"]) == 0
    out = capsys.readouterr().out
    assert "Faithful to the model, not evidence of biology." in out
    assert "Research use only." in out
    table = pd.read_parquet(run_folder / names.CELLS_PARQUET)
    assert "BGN_attribution_sd" not in table  # one member has no spread
    assert np.isfinite(table["BGN_attribution"]).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"genes": ("NOPE",)}, UnknownGeneError, r"expected genes of the panel.*NOPE"),
        ({"method": "magic"}, UsageError, r"expected a method out of ablation, lime.*found 'magic'"),
        ({"fill": "black"}, UsageError, r"expected a fill out of inpainted.*black is not offered"),
        ({"target": "member 99"}, UsageError, r"expected the target .*found 'member 99'"),
    ],
)
def test_what_cannot_be_done_is_said(run_folder, changes, error, message):
    with pytest.raises(error, match=message):
        explain.run(ExplainSettings(**({"run": run_folder, "genes": GENES} | changes)))
    assert sorted(p.name for p in run_folder.parent.iterdir()) == ["run"]


def test_no_gene_no_pair_no_stride():
    with pytest.raises(UsageError, match=r"expected a gene to explain, found none"):
        ExplainSettings(run="run", genes=())
    with pytest.raises(UsageError, match=r"expected a difference of two of A, B, found A, C"):
        ExplainSettings(run="run", genes=("A", "B"), difference=("A", "C"))
    with pytest.raises(UsageError, match=r"expected a stride between 1 and 1000 um"):
        ExplainSettings(run="run", genes=("A",), stride_um=0.0)


def test_a_slide_that_moved_is_asked_for(run_folder, formula_slide):
    record = json.loads((run_folder / names.RUN_JSON).read_text(encoding="utf-8"))
    record["settings"]["image"] = "/nowhere/slide.tif"
    (run_folder / names.RUN_JSON).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UsageError, match=r"expected the slide of the run at .*pass --image"):
        explain.run(ExplainSettings(run=run_folder, genes=GENES))
    with pytest.raises(UsageError, match=r"found another one at"):
        explain.run(ExplainSettings(run=run_folder, genes=GENES, image=formula_slide().path))


def test_a_run_of_nuclei_alone_has_nothing_to_explain(predicted, tmp_path):
    settings = SegmentSettings(image=predicted.image, output=tmp_path / "nuclei", annotations=predicted.annotations)
    predict.run(settings)
    with pytest.raises(UsageError, match=r"expected a run with predictions at .*found nuclei alone"):
        explain.run(ExplainSettings(run=tmp_path / "nuclei", genes=GENES))
