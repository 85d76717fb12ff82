"""Models on several encoders, and on one that was learnt further: train, load, predict, evaluate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from stimage_qupath.cli import app
from stimage_qupath.config import EvaluateSettings, PredictSettings, TrainSettings
from stimage_qupath.errors import UnknownModelError, UsageError
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.pipeline import evaluate, predict, train
from stimage_qupath.prediction.cells import interpolation
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.slide.reader import open_slide

pytestmark = pytest.mark.flow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def both(sections_folder, tmp_path_factory):
    """Return the folder and card of a model on ``context+colour``."""
    output = tmp_path_factory.mktemp("both") / "model"
    settings = TrainSettings(
        dataset=sections_folder / "table.csv", output=output, members=3, hold_out=("H",), encoder="context+colour"
    )
    return output, train.run(settings)


def test_members_of_a_model_on_two_encoders_take_turns(both):
    output, card = both
    model = load_model(str(output))
    projection = model.ensemble.heads.projection
    width = model.encoder.parts[0].card.width
    assert (projection[0::2, width:] == 0).all()
    assert (projection[1, :width] == 0).all()
    assert [one["name"] for one in card["ensemble"]["by_encoder"]] == ["context", "colour"]
    assert [part["name"] for part in card["encoder"]["parts"]] == ["context", "colour"]
    assert card["held_out"]["outer"]["sections"]["H"]["pcc_residual_mean"]["value"] > 0.3


def test_a_model_on_two_encoders_predicts_what_it_did_in_memory(both, sections_folder, tmp_path):
    model = load_model(str(both[0]))
    image = sections_folder / "H.png"
    settings = PredictSettings(
        image=image, output=tmp_path / "run", model=str(both[0]), unit="grid", stride_um=100.0, mpp=1.0, genes=("BLUE",)
    )
    predict.run(settings)
    found = pd.read_parquet(tmp_path / "run" / "cells.parquet")
    assert len(found)
    nodes, mix = interpolation(found[["x_px", "y_px"]].to_numpy(), 100.0)
    with open_slide(image) as slide:
        features = encode_points(slide, 1.0, nodes, model.encoder, device=CPU)
    mean = mix(model.ensemble.take_genes(("BLUE",)).predict(features, device=CPU)).mean[:, 0]
    np.testing.assert_allclose(found["BLUE_mean"].to_numpy(), mean, rtol=1e-3)


@pytest.fixture(scope="module")
def tuned(sections_folder, tmp_path_factory):
    """Return folder and card of a model whose encoder was learnt further, and that encoder as it was in memory."""
    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(0)
    weights = folder / "vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), weights)
    table = sections_folder / "fine.csv"
    table.write_text((sections_folder / "table.csv").read_text().replace("legacy_st,1.0", "legacy_st,0.5"))
    kept = []

    def keep(*args, **options):
        kept.append(original(*args, **options))
        return kept[-1]

    original = train.fine_tune_into
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "fine_tune_into", keep)
        settings = TrainSettings(
            dataset=table, output=folder / "model", members=2, hold_out=("H",), encoder="timm:test_vit",
            encoder_weights=weights, fine_tune=True, fine_tune_epochs=3, learning_rate=1e-3,
        )  # fmt: skip
        card = train.run(settings)
    weights.unlink()  # the model needs them no more
    return folder / "model", card, kept[0][0]


def test_a_fine_tuned_model_loads_and_predicts_as_it_did_in_memory(tuned, sections_folder):
    output, _, in_memory = tuned
    model = load_model(str(output))
    assert model.encoder.card == in_memory.card
    points = np.array([(50.0, 50.0), (250.0, 350.0), (1.0, 599.0)])
    with open_slide(sections_folder / "H.png") as slide:
        loaded, before = (encode_points(slide, 0.5, points, one, device=CPU) for one in (model.encoder, in_memory))
    np.testing.assert_array_equal(loaded, before)
    assert np.isfinite(model.ensemble.predict(loaded, device=CPU).mean).all()


def test_the_card_says_how_it_was_fine_tuned_and_which_images_the_encoder_saw(tuned, sections_folder):
    output, card, _ = tuned
    learnt = card["fine_tuned"]
    assert learnt["held_out_level"] == "section"  # two patients are too few to hold one out
    assert set(learnt["held_out"]) < {"S1", "S2", "S3"}
    assert learnt["epochs"] == 3
    assert learnt["best_epoch"] == int(np.argmin(learnt["validation_loss"]))
    hashes = [hashlib.sha256((sections_folder / f"{n}.png").read_bytes()).hexdigest() for n in ("S1", "S2", "S3")]
    assert card["images_seen"]["encoder"] == sorted(hashes)
    assert load_model(str(output)).encoder.images_seen == set(hashes)
    on_disk = json.loads((output / "model.json").read_text(encoding="utf-8"))
    file = hashlib.sha256((output / "encoder.safetensors").read_bytes()).hexdigest()
    assert on_disk["files"]["encoder.safetensors"] == file
    assert "too good" in on_disk["held_out"]["out_of_fold"]["split"]


def test_damaged_weights_of_the_encoder_are_refused(tuned, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in tuned[0].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    data = bytearray((copy / "encoder.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "encoder.safetensors").write_bytes(data)
    with pytest.raises(UnknownModelError, match=r"encoder\.safetensors are damaged"):
        load_model(str(copy))
    (copy / "encoder.safetensors").unlink()
    with pytest.raises(UnknownModelError, match="expected weights at"):
        load_model(str(copy))


def test_an_encoder_without_gradients_ends_with_2(sections_folder, tmp_path):
    command = ["train", str(sections_folder / "table.csv"), "--output", str(tmp_path / "m"), "--encoder", "colour"]
    done = CliRunner().invoke(app, [*command, "--fine-tune"])
    error = done.exception
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert "expected an encoder that is a network" in str(error)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_tune_epochs": 3}, "expected fine_tune_epochs only with fine tuning"),
        ({"learning_rate": 1e-3}, "expected learning_rate only with fine tuning"),
        ({"fine_tune": True, "fine_tune_epochs": 0}, "expected fine_tune_epochs of at least 1"),
        ({"fine_tune": True, "learning_rate": 0.0}, "expected a learning rate above 0"),
    ],
)
def test_nonsense_of_fine_tuning_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        TrainSettings(dataset=Path("t.csv"), output=Path("m"), **changes)


def test_evaluation_says_that_the_encoder_saw_an_image(tuned, sections_folder, tmp_path):
    """The heads forget S1 here; what the encoder saw is still known."""
    output, _, _ = tuned
    card = json.loads((output / "model.json").read_text(encoding="utf-8"))
    copy = tmp_path / "model"
    copy.mkdir()
    for path in output.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    for section in card["training"]["sections"]:
        section["image_sha256"] = "0" * 64
    (copy / "model.json").write_text(json.dumps(card), encoding="utf-8")
    table = tmp_path / "one.csv"
    lines = (sections_folder / "fine.csv").read_text().splitlines()
    rows = [",".join(str(sections_folder / c) if "." in c and c != "0.5" else c for c in lines[1].split(","))]
    table.write_text("\n".join([lines[0], *rows]) + "\n", encoding="utf-8")
    found = evaluate.run(
        EvaluateSettings(dataset=table, output=tmp_path / "evaluation", model=str(copy), replicates=20)
    )
    assert "transductive" in json.dumps(found["sections"]["S1"])
