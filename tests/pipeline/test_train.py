"""Training from a table to a model folder, on small sections whose expression follows their colour."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stimage_qupath.config import TrainSettings
from stimage_qupath.errors import CancelledError, OutputExistsError, UsageError
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.pipeline import train


@pytest.fixture(scope="module")
def folder(sections_folder):
    return sections_folder


def settings(folder, output, **changes):
    return TrainSettings(dataset=folder / "table.csv", output=output, members=3, hold_out=("H",), **changes)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("models") / "model"
    return output, train.run(settings(folder, output))


def test_what_the_image_shows_is_learnt_and_what_it_does_not_show_is_not(trained):
    _, card = trained
    assert card["genes"]["BLUE"]["pcc_residual"] > 0.6
    assert card["genes"]["PINK"]["pcc_residual"] > 0.6
    assert card["genes"]["BLUE"]["ci"][0] > 0
    assert set(card["default_genes"]) >= {"BLUE", "PINK"}
    outer = card["held_out"]["outer"]["sections"]["H"]
    assert outer["same_patient_in_training"]
    assert outer["pcc_residual_mean"]["ci"][0] > 0


def test_the_card_says_what_it_was_made_of(trained):
    output, card = trained
    assert card["training"]["patients"] == 2
    assert [s["name"] for s in card["training"]["sections"]] == ["S1", "S2", "S3"]
    assert card["ensemble"]["bootstrap_level"] == "spatial block"
    assert len(card["training"]["sections"][0]["image_sha256"]) == 64
    on_disk = json.loads((output / "model.json").read_text(encoding="utf-8"))
    assert on_disk["held_out"] == card["held_out"]
    assert not list(output.parent.glob("*.partial"))


@pytest.mark.flow
def test_no_prediction_depends_on_the_counts_of_the_held_out_section(folder, trained, rewrite_section, tmp_path):
    """Replace them by random ones: weights, panel and defaults stay the same, to the bit; only the score moves."""
    output, card = trained
    try:
        rewrite_section(folder, "H", seed=3, random_counts=True)
        again = train.run(settings(folder, tmp_path / "again"))
    finally:
        rewrite_section(folder, "H", seed=3)
    for name in ("heads.safetensors",):
        assert (output / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    for key in ("default_genes", "genes", "ensemble", "reference_total"):
        assert again[key] == card[key]
    assert again["held_out"]["outer"] != card["held_out"]["outer"]


@pytest.mark.flow
def test_the_same_seed_gives_the_same_model_and_another_does_not(folder, trained, tmp_path):
    weights = load_model(str(trained[0])).ensemble.heads.weight
    train.run(settings(folder, tmp_path / "same"))
    train.run(settings(folder, tmp_path / "other", seed=1))
    np.testing.assert_array_equal(load_model(str(tmp_path / "same")).ensemble.heads.weight, weights)
    assert (load_model(str(tmp_path / "other")).ensemble.heads.weight != weights).any()


@pytest.mark.flow
def test_an_existing_model_is_kept_without_force_and_replaced_with(folder, trained, tmp_path):
    output = tmp_path / "model"
    train.run(settings(folder, output))
    with pytest.raises(OutputExistsError, match="found one"):
        train.run(settings(folder, output))
    train.run(settings(folder, output, force=True, name="new"))
    assert load_model(str(output)).name == "new"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"no model\.json in it"):
        train.run(settings(folder, tmp_path / "mine", force=True))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_cancelled_training_leaves_nothing(folder, tmp_path):
    with pytest.raises(CancelledError):
        train.run(settings(folder, tmp_path / "model"), cancelled=lambda: True)
    assert not list(tmp_path.iterdir())


def test_held_out_sections_must_be_there(folder, tmp_path):
    with pytest.raises(UsageError, match="to hold out, found X9"):
        train.run(TrainSettings(dataset=folder / "table.csv", output=tmp_path / "m", hold_out=("X9",)))
    with pytest.raises(UsageError, match="found every section held out"):
        train.run(TrainSettings(dataset=folder / "table.csv", output=tmp_path / "m", hold_out=("S1", "S2", "S3", "H")))


@pytest.mark.flow
def test_the_example_prints_what_the_card_says(folder, tmp_path):
    example = Path(__file__).parents[2] / "examples" / "03_train.py"
    command = [sys.executable, str(example), str(folder / "table.csv"), str(tmp_path / "model"), "H"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert "  H: pcc_residual_mean 0." in done.stdout
