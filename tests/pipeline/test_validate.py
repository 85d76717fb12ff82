"""A real run held against annotations, from the command line."""

from __future__ import annotations

import gzip
import json
import re
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score, jaccard_score, roc_auc_score

from stimage_qupath.cli import run as run_command
from stimage_qupath.config import PredictSettings, SegmentSettings, ValidateSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.pipeline import demo, predict, validate

SCRIPT = "<script>alert(1)</script>"


def box(x, y, width, height, label, **properties):
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    if label:
        properties["classification"] = {"name": label, "color": [200, 0, 0]}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", **properties},
    }


def write(path, *features):
    path.write_text(json.dumps(features), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / demo.RUN_NAME


@pytest.fixture(scope="module")
def table(run_folder):
    """Return the nuclei of the demo's run; whoever asks for it has the run made."""
    demo.run(run_folder.parent)
    return pd.read_parquet(run_folder / "cells.parquet")


@pytest.fixture
def drawn(tmp_path):
    """Return two classes in columns, five annotations each, and one without a class."""
    features = [box(50 * i, 0, 50, 300, "Tumor" if i % 2 else SCRIPT) for i in range(10)]
    return write(tmp_path / "drawn.geojson", *features, box(0, 0, 10, 10, None))


def test_the_figures_are_those_of_scikit_learn(run_folder, table, drawn, tmp_path, capsys):
    output = tmp_path / "out"
    words = ["--annotations", str(drawn), "--output", str(output), "--genes", "BGN,CD74", "--block-um", "25"]
    assert run_command(["validate", str(run_folder), *words]) == 0
    said = capsys.readouterr()
    assert re.search(r"Tumor: \d+ nuclei in 5 annotations", said.out)
    assert "labels from expression clusters are not pathology" in said.out
    assert "Research use only" in said.out
    assert "1 annotations of drawn.geojson have no class" in said.err
    found = json.loads((output / "validation.json").read_text(encoding="utf-8"))
    tumor = (table["x_px"] // 50 % 2 == 1).to_numpy()
    of = found["classes"]["Tumor"]
    assert of["nuclei"] == tumor.sum()
    assert of["units"] == {"kind": "annotations", "number": 5, "rest": 5}
    for gene in ("BGN", "CD74"):
        mean = table[f"{gene}_mean"].to_numpy()
        figures = of["genes"][gene]
        assert figures["auroc"]["value"] == pytest.approx(roc_auc_score(tumor, mean), abs=1e-12)
        low, high = figures["auroc"]["ci"]
        assert low < figures["auroc"]["value"] < high
        assert figures["predicted_mean"]["median"] == pytest.approx(np.median(mean[tumor]), rel=1e-6)
        above = mean > np.median(mean)
        assert figures["high"]["iou"] == pytest.approx(jaccard_score(above, tumor), abs=1e-12)
        assert figures["high"]["kappa"] == pytest.approx(cohen_kappa_score(above, tumor), abs=1e-12)
        assert 0 < figures["mann_whitney"]["p"] <= figures["mann_whitney"]["q"] <= 1
        inside = of["uncertainty"]["inside"]["genes"][gene]
        sd = table.loc[tumor, f"{gene}_epistemic_sd"].to_numpy()
        assert inside["epistemic_sd_median"] == pytest.approx(np.median(sd), rel=1e-5)
    stain = roc_auc_score(tumor, table["nucleus_hematoxylin_od_mean"])
    assert of["baselines"]["hematoxylin of the nucleus"]["value"] == pytest.approx(stain, abs=1e-12)
    lead = of["genes"]["BGN"]["auroc_less_baseline"]["hematoxylin of the nucleus"]["value"]
    assert lead == pytest.approx(of["genes"]["BGN"]["auroc"]["value"] - stain, abs=1e-12)
    page = (output / "validation.html").read_text(encoding="utf-8")
    assert SCRIPT not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "prefers-color-scheme: dark" in page
    assert "labels from expression clusters are not pathology" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_equal_runs_give_equal_figures_and_an_earlier_one_needs_force(run_folder, table, drawn, tmp_path, capsys):
    words = [
        "validate",
        str(run_folder),
        "--annotations",
        str(drawn),
        "--output",
        str(tmp_path / "o"),
        "--genes",
        "BGN",
    ]
    assert run_command([*words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run_command(words) == 2
    assert "force its replacement (--force)" in capsys.readouterr().err
    assert run_command([*words, "--json", "--force"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert first["classes"] == again["classes"]
    assert first["classes"]["Tumor"]["genes"]["BGN"]["mann_whitney"]["reason"] == "not tested: fewer than 20 blocks"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("", encoding="utf-8")
    words[words.index(str(tmp_path / "o"))] = str(tmp_path / "mine")
    assert run_command([*words, "--force"]) == 2
    assert (tmp_path / "mine" / "notes.txt").exists()


def test_a_nucleus_counts_in_the_smallest_annotation(run_folder, table, tmp_path):
    file = write(tmp_path / "a.geojson", box(0, 0, 500, 300, "All"), box(100, 100, 80, 80, "Small", name="x"))
    found = validate.run(ValidateSettings(run=run_folder, annotations=file, output=tmp_path / "o", genes=("BGN",)))
    x, y = table["x_px"].to_numpy(), table["y_px"].to_numpy()
    small = (x > 100) & (x < 180) & (y > 100) & (y < 180)
    assert found["classes"]["Small"]["nuclei"] == small.sum() > 3
    assert found["classes"]["All"]["nuclei"] == (~small).sum()
    named = ValidateSettings(
        run=run_folder, annotations=file, output=tmp_path / "n", genes=("BGN",), by="name", rest="all"
    )
    of = validate.run(named)["classes"]
    assert list(of) == ["x"]
    assert of["x"]["rest_nuclei"] == (~small).sum()


def test_one_class_alone_is_said(run_folder, table, tmp_path):
    file = write(tmp_path / "a.geojson", box(100, 100, 80, 80, "Tumor"))
    found = validate.run(ValidateSettings(run=run_folder, annotations=file, output=tmp_path / "o", genes=("BGN",)))
    assert "auroc" not in found["classes"]["Tumor"]["genes"]["BGN"]
    assert "There is one class alone" in found["warnings"][-1]
    assert "There is one class alone" in (tmp_path / "o" / "validation.html").read_text(encoding="utf-8")


def test_two_people_and_the_model_on_the_same_nuclei(run_folder, table, drawn, tmp_path):
    shifted = [box(50 * i + 20, 0, 50, 300, "Tumor" if i % 2 else SCRIPT) for i in range(9)]
    second = write(tmp_path / "second.geojson", *shifted)
    found = validate.run(
        ValidateSettings(run=run_folder, annotations=drawn, second=second, output=tmp_path / "o", genes=("BGN",))
    )["second"]
    x = table["x_px"].to_numpy()
    both = (x >= 20) & (x < 470)
    first, other = (x // 50 % 2 == 1)[both], ((x - 20) // 50 % 2 == 1)[both]
    assert found["nuclei"] == both.sum()
    assert found["human_human"]["kappa"] == pytest.approx(cohen_kappa_score(first, other), abs=1e-12)
    human = found["classes"]["Tumor"]["human_human"]
    assert human["iou"] == pytest.approx(jaccard_score(first, other), abs=1e-12)
    # columns of 50 px shifted by 20: tumour is 5 x 50 wide for one, 4 x 50 for the other, and they share 4 x 30
    assert human["by_area"]["iou"] == pytest.approx(120 / (250 + 200 - 120), abs=1e-9)
    high = (table["BGN_mean"] > table["BGN_mean"].median()).to_numpy()[both]
    model = found["classes"]["Tumor"]["genes"]["BGN"]
    assert model["model_second"]["dice"] == pytest.approx(2 * (high & other).sum() / (high.sum() + other.sum()))
    assert "both annotators and the model" in (tmp_path / "o" / "validation.html").read_text(encoding="utf-8")


def test_labels_of_nuclei_are_held_against_their_types(run_folder, table, tmp_path):
    with gzip.open(run_folder / "cells.geojson.gz", "rb") as file:
        features = json.load(file)["features"]
    rng = np.random.default_rng(0)
    typed, told = rng.choice(["Immune", "Tumor"], (2, len(features)))
    told[:150] = typed[:150]

    def classified(names):
        return [
            {**f, "properties": {"objectType": "detection", "classification": {"name": str(n), "color": [1, 2, 3]}}}
            for f, n in zip(features, names, strict=True)
        ]

    settings = PredictSettings(
        image=run_folder.parent / demo.IMAGE_NAME,
        output=tmp_path / "run",
        mpp=0.5,
        nuclei=write(tmp_path / "nuclei.geojson", *classified(typed)),
        genes=("BGN",),
        overview=False,
    )
    predict.run(settings)
    labels = write(tmp_path / "labels.geojson", *classified(told)[::2])
    found = validate.run(ValidateSettings(run=tmp_path / "run", annotations=labels))
    assert found["annotations"]["kind"] == "labels of nuclei"
    assert found["labels"]["nuclei"] == len(told[::2])
    assert found["labels"]["kappa"] == pytest.approx(cohen_kappa_score(told[::2], typed[::2]), abs=1e-12)
    assert found["classes"]["Immune"]["units"]["kind"] == "spatial blocks"
    assert found["output"] == str((tmp_path / "run-validation").resolve())


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ([box(0, 0, 50, 50, None)], "expected annotations with a class in bad.geojson, found none"),
        (
            [box(5000, 0, 50, 50, "Tumor")],
            "expected nuclei of the run inside the annotations of bad.geojson, found none",
        ),
        ([], "expected annotations with a class in bad.geojson, found none"),
    ],
)
def test_annotations_that_say_nothing_are_refused(run_folder, table, tmp_path, features, said, capsys):
    bad = write(tmp_path / "bad.geojson", *features)
    assert run_command(["validate", str(run_folder), "--annotations", str(bad), "--output", str(tmp_path / "o")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_wrong_words_and_runs_are_refused(run_folder, table, drawn, tmp_path, capsys):
    for words, said in (
        ([str(tmp_path / "none"), "--annotations", str(drawn)], "expected a run folder at"),
        ([str(run_folder), "--annotations", str(tmp_path / "none.geojson")], "expected a GeoJSON file at"),
        ([str(run_folder), "--annotations", str(drawn), "--genes", "NOSUCH"], "NOSUCH"),
        ([str(run_folder), "--annotations", str(drawn), "--rest", "some"], "expected rest out of annotated, all"),
        ([str(run_folder), "--annotations", str(drawn), "--block-um", "1"], "expected spatial blocks between"),
    ):
        assert run_command(["validate", *words, *(["--output", str(tmp_path / "o")])]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_nuclei_without_predictions_are_refused(run_folder, table, drawn, tmp_path):
    image = run_folder.parent / demo.IMAGE_NAME
    predict.run(SegmentSettings(image=image, output=tmp_path / "nuclei", mpp=0.5))
    with pytest.raises(UsageError, match=r"expected a run with predictions at .*, found nuclei alone"):
        validate.run(ValidateSettings(run=tmp_path / "nuclei", annotations=drawn))


def test_nuclei_without_a_prediction_are_left_out_and_said(run_folder, table, drawn, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    with h5py.File(tmp_path / "run" / "cells.h5ad", "r+") as file:
        column = [gene.decode() for gene in file["var"]["gene"][:]].index("BGN")
        file["X"][:7, column] = np.nan
    settings = ValidateSettings(run=tmp_path / "run", annotations=drawn, genes=("BGN",))
    found = validate.run(settings)
    assert "7 nuclei without a prediction are left out." in found["warnings"]
    tumor = (table["x_px"] // 50 % 2 == 1).to_numpy()[7:]
    mean = table["BGN_mean"].to_numpy()[7:]
    figure = found["classes"]["Tumor"]["genes"]["BGN"]["auroc"]["value"]
    assert figure == pytest.approx(roc_auc_score(tumor, mean), abs=1e-12)
