"""Scoring on small sections whose expression follows their colour."""

from __future__ import annotations

import json

import pytest

from stimage_qupath import cli
from stimage_qupath.config import EvaluateSettings, TrainSettings
from stimage_qupath.errors import OutputExistsError, UsageError
from stimage_qupath.pipeline import evaluate, train

METRICS = ("pcc_residual_mean", "pcc_partial_depth_mean", "pcc_normalised_mean", "pcc_log1p_raw_mean", "spearman_mean")


def settings(folder, output, **changes):
    options = {"members": 2, "replicates": 50, "leave_one_out": "section"} | changes
    return EvaluateSettings(dataset=folder / "table.csv", output=output, **options)


@pytest.fixture(scope="module")
def left_out(sections_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation") / "evaluation"
    evaluate.run(settings(sections_folder, output))
    return json.loads((output / "evaluation.json").read_text(encoding="utf-8"))


def test_every_section_has_every_figure_with_its_interval(left_out):
    assert list(left_out["sections"]) == ["S1", "S2", "S3", "H"]
    for figures in left_out["sections"].values():
        for metric in METRICS:
            low, high = figures[metric]["ci"]
            assert low <= high
        assert set(figures["coverage"]) == {"0.5", "0.8", "0.9", "0.95"}
        assert figures["note"] == "same patient in training"
    assert left_out["summary"]["model"]["pcc_residual_mean"] > 0.3


def test_the_baselines_stand_beside_it(left_out):
    assert {"gene_mean", "ridge", "predicted_depth", "observed_depth", "nearest_feature"} <= set(left_out["baselines"])
    assert left_out["baselines"]["observed_depth"]["oracle"]
    lead = left_out["baselines"]["gene_mean"]["sections"]["S1"]["model_lead"]["pcc_residual_mean"]
    assert lead["value"] == pytest.approx(left_out["sections"]["S1"]["pcc_residual_mean"]["value"])
    assert lead["ci"][0] > 0


def test_leaving_patients_out_says_so(sections_folder, tmp_path):
    evaluation = evaluate.run(settings(sections_folder, tmp_path / "e", leave_one_out="patient"))
    assert {figures["note"] for figures in evaluation["sections"].values()} == {"patient not in training"}


def test_a_finished_model_is_scored_and_images_it_saw_are_named(sections_folder, tmp_path):
    model = tmp_path / "model"
    card = train.run(TrainSettings(dataset=sections_folder / "table.csv", output=model, members=3, hold_out=("H",)))
    evaluation = evaluate.run(settings(sections_folder, tmp_path / "e", leave_one_out=None, model=str(model)))
    assert evaluation["sections"]["S1"]["note"] == "image seen in training"
    assert evaluation["sections"]["H"]["note"] == "image not seen"
    outer = card["held_out"]["outer"]["sections"]["H"]["pcc_residual_mean"]["value"]
    assert evaluation["sections"]["H"]["pcc_residual_mean"]["value"] == pytest.approx(outer, abs=1e-3)


def test_from_the_command_line(sections_folder, tmp_path, capsys):
    arguments = ["evaluate", str(sections_folder / "table.csv"), "--output", str(tmp_path / "e")]
    assert cli.run([*arguments, "--leave-one-out", "section", "--members", "2"]) == 0
    assert "S1: pcc_residual_mean 0." in capsys.readouterr().out
    assert cli.run([*arguments, "--leave-one-out", "section"]) == 2
    assert cli.run(["evaluate", "none.csv", "--output", str(tmp_path / "f")]) == 2


def test_what_cannot_be_evaluated(sections_folder, tmp_path):
    with pytest.raises(UsageError, match="expected either a model or a way to leave sections out"):
        settings(sections_folder, tmp_path / "e", model="starter")
    with pytest.raises(UsageError, match="expected leave_one_out out of section, patient"):
        settings(sections_folder, tmp_path / "e", leave_one_out="spot")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"no evaluation\.json in it"):
        evaluate.run(settings(sections_folder, tmp_path / "kept", force=True))
