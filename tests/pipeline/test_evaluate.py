"""Scoring on small sections whose expression follows their colour."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stimage_qupath import cli
from stimage_qupath.config import EvaluateSettings, TrainSettings
from stimage_qupath.errors import OutputExistsError, UsageError
from stimage_qupath.models.encoders import load_encoder
from stimage_qupath.pipeline import evaluate, train
from stimage_qupath.pipeline.score import mixture_of
from stimage_qupath.report.text import evaluation_lines
from stimage_qupath.results import never_cancelled, no_progress
from stimage_qupath.spots.readers import read_dataset
from stimage_qupath.training.dataset import encode_sections
from stimage_qupath.validation.baselines import NAMES

pytestmark = pytest.mark.flow

METRICS = (
    "pcc_residual_mean",
    "pcc_partial_depth_mean",
    "pcc_normalised_mean",
    "pcc_log1p_raw_mean",
    "pcc_log1p_raw_median_above_0.1",
    "spearman_mean",
    "rmse_normalised_mean",
    "nb_deviance_mean",
    "crps_mean",
)


@pytest.fixture(scope="module")
def gene_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("genes") / "genes.txt"
    path.write_text("BLUE\nPINK\nFLAT\n", encoding="utf-8")
    return path


def held_out_case(options):
    """Return the cases of section H, by the flow's own steps."""
    encoder = load_encoder("colour")
    sections = read_dataset(options.dataset)
    how = {"device": torch.device("cpu"), "batch_size": 8, "threads": 1}
    encoded = encode_sections(sections, encoder, **how, on_progress=no_progress, cancelled=never_cancelled)
    cases = evaluate._cases(options, None, encoder, encoded, torch.device("cpu"), no_progress, never_cancelled)
    return [case for case in cases if case.encoded.section.name == "H"]


def settings(folder, output, **changes):
    options = {
        "members": 2,
        "replicates": 50,
        "leave_one_out": "section",
        "encoder": "colour",
        "no_cache": True,
    } | changes
    return EvaluateSettings(dataset=folder / "table.csv", output=output, **options)


@pytest.fixture(scope="module")
def left_out(sections_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation") / "evaluation"
    evaluate.run(settings(sections_folder, output))
    page = (output / "evaluation.html").read_text(encoding="utf-8")
    assert "Research use only" in page
    assert len(page) < 5_000_000
    genes = pd.read_csv(output / "genes.csv")
    assert genes.gene.tolist() == ["BLUE", "FLAT", "PINK"] * 4
    assert genes.pcc_residual.between(genes.pcc_residual_low, genes.pcc_residual_high).all()
    return json.loads((output / "evaluation.json").read_text(encoding="utf-8"))


def test_every_section_has_every_figure_with_its_interval(left_out):
    assert list(left_out["sections"]) == ["S1", "S2", "S3", "H"]
    for figures in left_out["sections"].values():
        for metric in METRICS:
            low, high = figures[metric]["ci"]
            assert low <= high
        assert set(figures["coverage"]) == {"0.5", "0.8", "0.9", "0.95"}
        assert figures["note"] == "same patient in training"
        assert not figures["transductive"]
        assert all(0 < share["found"] <= 1 and share["expected"] > 0 for share in figures["plain_coverage"].values())
        assert figures["ause"]["random"] == 1
        assert set(figures["spearman_with_error"]) == {"ood_score", "epistemic_log_sd"}
        assert set(figures["nb_on_log1p_coverage"]) == set(figures["marginal_over_depth"]["coverage"])
    assert left_out["summary"]["model"]["pcc_residual_mean"]["value"] > 0.3
    assert left_out["summary"]["model_lead"]["gene_mean"]["pcc_residual_mean"]["ci"][0] > 0.3
    assert (left_out["gene_set"]["size"], left_out["patients"]) == (3, 2)


def test_high_and_low_are_told_apart_beside_the_classifier_of_the_article(left_out):
    for figures in left_out["sections"].values():
        high = figures["high"]
        assert 2 <= high["genes"] <= 3
        assert high["auroc"]["value"] > 0.6  # of the three genes one is noise
        assert high["elastic_net"]["auroc"]["value"] > 0.55
        lead = high["elastic_net"]["model_lead"]["auroc"]["value"]
        assert lead == pytest.approx(high["auroc"]["value"] - high["elastic_net"]["auroc"]["value"])
        assert 0 <= high["at_depth"]["ece"]["value"] < 0.3
        assert 0 < high["share_high"] < 1


def test_the_baselines_stand_beside_it(left_out):
    # Colour is the encoder itself; whether these squares of tissue pass for serial sections is left open.
    assert set(NAMES) - {"colour_ridge", "position"} <= set(left_out["baselines"]) <= set(NAMES) - {"colour_ridge"}
    for of in left_out["baselines"].values():
        for figures in of["sections"].values():
            assert set(METRICS) | {"coverage", "plain_coverage"} <= set(figures)
    assert left_out["baselines"]["observed_depth"]["oracle"]
    lead = left_out["baselines"]["gene_mean"]["sections"]["S1"]["model_lead"]["pcc_residual_mean"]
    assert lead["value"] == pytest.approx(left_out["sections"]["S1"]["pcc_residual_mean"]["value"])
    assert lead["ci"][0] > 0


def test_leaving_patients_out_says_so(sections_folder, tmp_path):
    options = {"leave_one_out": "patient", "encoder": "context"}
    evaluation = evaluate.run(settings(sections_folder, tmp_path / "e", **options))
    assert "colour_ridge" in evaluation["baselines"]
    assert {figures["note"] for figures in evaluation["sections"].values()} == {"patient not in training"}


def test_a_finished_model_is_scored_and_images_it_saw_are_named(sections_folder, tmp_path):
    model = tmp_path / "model"
    card = train.run(
        TrainSettings(
            dataset=sections_folder / "table.csv",
            output=model,
            members=3,
            hold_out=("H",),
            encoder="colour",
            no_cache=True,
        )
    )
    evaluation = evaluate.run(settings(sections_folder, tmp_path / "e", leave_one_out=None, model=str(model)))
    assert evaluation["sections"]["S1"]["note"] == "image seen in training"
    assert evaluation["sections"]["H"]["note"] == "image not seen"
    assert set(evaluation["baselines"]) >= {"ridge", "nb_glm", "observed_depth", "predicted_depth", "nearest_feature"}
    assert evaluation["sections"]["S1"]["transductive"]
    assert evaluation["gene_set"]["chosen_without_test_sections"]
    outer = card["held_out"]["outer"]["sections"]["H"]["pcc_residual_mean"]["value"]
    assert evaluation["sections"]["H"]["pcc_residual_mean"]["value"] == pytest.approx(outer, abs=1e-3)


@pytest.mark.slow
def test_from_the_command_line(sections_folder, tmp_path, capsys):
    arguments = ["evaluate", str(sections_folder / "table.csv"), "--output", str(tmp_path / "e")]
    assert cli.run([*arguments, "--leave-one-out", "section", "--members", "2"]) == 0
    assert "S1: pcc_residual_mean 0." in capsys.readouterr().out
    assert cli.run([*arguments, "--leave-one-out", "section"]) == 2
    assert cli.run(["evaluate", "none.csv", "--output", str(tmp_path / "f")]) == 2


@pytest.mark.slow
def test_kept_baselines_are_those_of_the_training_sections(sections_folder, tmp_path, left_out):
    model = tmp_path / "model"
    train.run(
        TrainSettings(
            dataset=sections_folder / "table.csv",
            output=model,
            members=2,
            hold_out=("H",),
            encoder="colour",
            no_cache=True,
        )
    )
    assert (model / "baselines.safetensors").stat().st_size < 1_500_000
    evaluation = evaluate.run(settings(sections_folder, tmp_path / "e", leave_one_out=None, model=str(model)))
    for name in ("gene_mean", "ridge", "predicted_depth", "observed_depth", "nb_glm"):
        kept = evaluation["baselines"][name]["sections"]["H"]["pcc_residual_mean"]["value"]
        whole = left_out["baselines"][name]["sections"]["H"]["pcc_residual_mean"]["value"]
        assert kept == pytest.approx(whole, abs=0.02), name


@pytest.mark.slow
def test_an_older_model_folder_has_no_baselines(sections_folder, tmp_path):
    model = tmp_path / "model"
    train.run(
        TrainSettings(
            dataset=sections_folder / "table.csv",
            output=model,
            members=2,
            hold_out=("H",),
            encoder="colour",
            no_cache=True,
        )
    )
    (model / "baselines.safetensors").unlink()
    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    del card["baselines"], card["images_seen"]
    (model / "model.json").write_text(json.dumps(card), encoding="utf-8")
    evaluation = evaluate.run(settings(sections_folder, tmp_path / "e", leave_one_out=None, model=str(model)))
    assert evaluation["baselines"] == {}
    assert "pcc_residual_mean" in evaluation["sections"]["H"]


def test_held_out_counts_change_no_prediction_that_is_scored(sections_folder, tmp_path, rewrite_section, gene_file):
    """The protocol's rule: random counts in the held-out section, the same predictions of model and baselines."""
    shutil.copytree(sections_folder, tmp_path / "random")
    rewrite_section(tmp_path / "random", "H", seed=3, random_counts=True)
    said = []
    for folder in (sections_folder, tmp_path / "random"):
        options = settings(folder, tmp_path / "unused", genes=gene_file, members=2)
        (case,) = held_out_case(options)
        predictions = case.baselines.predict(case.test, seed=0)
        means = {name: p.mean for name, p in predictions.items()}
        said.append(means | {"model": mixture_of(case.ensemble, case.encoded.features).expected})
    changed = {name for name in said[0] if not np.array_equal(said[0][name], said[1][name])}
    assert changed == {"observed_depth"}


@pytest.mark.slow
def test_changed_images_are_scored_again(sections_folder, tmp_path):
    model = tmp_path / "model"
    train.run(
        TrainSettings(
            dataset=sections_folder / "table.csv",
            output=model,
            members=3,
            hold_out=("H",),
            encoder="colour",
            no_cache=True,
        )
    )
    options = {"leave_one_out": None, "model": str(model), "perturb": ("stain", "jpeg", "scale")}
    evaluation = evaluate.run(settings(sections_folder, tmp_path / "e", **options))
    found = evaluation["perturbation"]["H"]
    assert list(found) == ["as it is", "stain 0.05", "stain 0.1", "stain 0.2", "jpeg quality 30", "scale x1.5"]
    own = evaluation["sections"]["H"]
    assert found["as it is"]["pcc_residual_mean"]["value"] == pytest.approx(own["pcc_residual_mean"]["value"])
    assert found["stain 0.05"]["auroc_ood_score"] <= found["stain 0.2"]["auroc_ood_score"]
    assert found["stain 0.2"]["auroc_ood_score"] > 0.95
    assert found["stain 0.2"]["flagged"] > 0.9
    assert 0 <= found["scale x1.5"]["auroc_epistemic_log_sd"] <= 1
    assert "under changed images" in (tmp_path / "e" / "evaluation.html").read_text(encoding="utf-8")


def test_the_benchmark_of_encoders(sections_folder, tmp_path, gene_file):
    evaluation = evaluate.run(
        settings(sections_folder, tmp_path / "e", leave_one_out=None, protocol="hest", genes=gene_file)
    )
    assert evaluation["protocol"]["name"] == "hest"
    assert {s["note"] for s in evaluation["sections"].values()} == {"patient not in training"}
    assert len(evaluation["summary"]["by_fold"]) == 2
    assert set(evaluation["sections"]["H"]["genes"]) == {"BLUE", "PINK", "FLAT"}
    assert evaluation_lines(evaluation)[-1].startswith("mean over folds: ")


@pytest.mark.slow
def test_gene_sets(sections_folder, tmp_path):
    detected = evaluate.run(settings(sections_folder, tmp_path / "a", genes=Path("detected")))["gene_set"]
    assert (detected["size"], detected["chosen_without_test_sections"]) == (3, True)
    (tmp_path / "two.txt").write_text("PINK\nBLUE\n")
    given = evaluate.run(settings(sections_folder, tmp_path / "b", genes=tmp_path / "two.txt"))["gene_set"]
    assert (given["name"], given["size"], given["chosen_without_test_sections"]) == ("two.txt", 2, False)
    assert given["sha256"] == hashlib.sha256(b"PINK,BLUE").hexdigest()


def test_what_cannot_be_evaluated(sections_folder, tmp_path):
    with pytest.raises(UsageError, match="expected either a model or a way to leave sections out"):
        settings(sections_folder, tmp_path / "e", model="starter")
    with pytest.raises(UsageError, match="expected leave_one_out out of section, patient"):
        settings(sections_folder, tmp_path / "e", leave_one_out="spot")
    with pytest.raises(UsageError, match="expected perturb out of stain, blur, jpeg, scale, found 'fog'"):
        settings(sections_folder, tmp_path / "e", perturb=("fog",))
    with pytest.raises(UsageError, match="expected other_tissue only with perturb"):
        settings(sections_folder, tmp_path / "e", other_tissue=("a.png",))
    with pytest.raises(UsageError, match="expected an encoder alone with protocol hest"):
        settings(sections_folder, tmp_path / "e", leave_one_out=None, protocol="hest", model="starter")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"no evaluation\.json in it"):
        evaluate.run(settings(sections_folder, tmp_path / "kept", force=True))
