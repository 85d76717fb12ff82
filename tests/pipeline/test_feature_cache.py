"""Training with kept features, and scales that an encoder cannot read."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from stimage_qupath import cli
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.models.colour import ColourEncoder

pytestmark = pytest.mark.flow


@pytest.fixture
def train(sections_folder, tmp_path):
    """Return a function that trains on the small sections and returns the exit code and the model's folder."""

    def run(name, *options):
        output = tmp_path / name
        table = str(sections_folder / "table.csv")
        return cli.run(["train", table, "--output", str(output), "--members", "2", *options]), output

    return run


@pytest.fixture(scope="module")
def tiny_network(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return ("--encoder", "timm:test_vit", "--encoder-weights", str(path))


def test_a_second_training_reads_no_pixels(train, tmp_path, monkeypatch):
    folder = tmp_path / "features"
    options = ("--encoder", "colour", "--cache", str(folder))
    code, first = train("first", *options)
    assert code == 0
    assert len(list(folder.glob("*.safetensors"))) == 4

    def refuse(*_, **__):
        msg = "the encoder was asked"
        raise AssertionError(msg)

    monkeypatch.setattr(ColourEncoder, "encode", refuse)
    code, second = train("second", *options)
    assert code == 0
    assert (first / "heads.safetensors").read_bytes() == (second / "heads.safetensors").read_bytes()
    assert train("third", "--encoder", "colour", "--no-cache")[0] == 8  # computed anew: the encoder was asked


def test_sections_too_coarse_for_the_encoder(train, tiny_network, capsys):
    code, _ = train("model", *tiny_network)  # the sections have pixels of 1 um
    assert code == 5
    message = capsys.readouterr().err
    assert "expected the image of section S1 at 0.75 um per pixel or finer" in message
    assert "reads 0.5 um, found 1 um" in message


def test_a_model_knows_the_weights_and_the_precision_of_its_encoder(
    train, tiny_network, sections_folder, tmp_path, capsys
):
    table = (sections_folder / "table.csv").read_text().replace("legacy_st,1.0", "legacy_st,0.7")
    lines = table.splitlines()
    rows = [line.split(",") for line in lines[1:]]
    absolute = [",".join([*r[:2], *(str(sections_folder / f) for f in r[2:5]), *r[5:]]) for r in rows]
    (tmp_path / "table.csv").write_text("\n".join([lines[0], *absolute]) + "\n")
    output = tmp_path / "model"
    arguments = ["train", str(tmp_path / "table.csv"), "--output", str(output), "--members", "2"]
    assert cli.run([*arguments, *tiny_network, "--precision", "bfloat16"]) == 0
    card = json.loads((output / "model.json").read_text(encoding="utf-8"))
    assert card["encoder"]["precision"] == "bfloat16"
    assert "enlarged 1.40 times for timm:test_vit" in " ".join(card["training"]["sections"][0]["notes"])
    assert load_model(str(output)).encoder.card.precision == "bfloat16"
    card["encoder"]["weights_sha256"] = "0" * 64
    (output / "model.json").write_text(json.dumps(card), encoding="utf-8")
    assert (
        cli.run(
            [
                "predict",
                str(sections_folder / "S1.png"),
                "--output",
                str(tmp_path / "r"),
                "--mpp",
                "0.7",
                "--model",
                str(output),
            ]
        )
        == 2
    )
    assert "found another weights_sha256" in capsys.readouterr().err


def test_a_prediction_on_a_scan_too_coarse_for_the_model(sections_folder, tmp_path, capsys):
    code = cli.run(["predict", str(sections_folder / "S1.png"), "--output", str(tmp_path / "run"), "--mpp", "1.6"])
    assert code == 5
    assert "expected S1.png at 1.5 um per pixel or finer for the encoder " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
