"""Training from a table to a model folder, on small sections whose expression follows their colour."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from stimage_qupath.config import TrainSettings
from stimage_qupath.errors import CancelledError, OutputExistsError, UsageError
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.pipeline import train

GENES = ["BLUE", "PINK", "FLAT"]


def write_section(folder, name, seed, random_counts=False):
    """Write 48 spots on stripes of purple and pink; BLUE counts follow the purple, PINK the pink."""
    rng = np.random.default_rng(seed)
    purple, pink, stripe = (110, 60, 150), (225, 160, 190), 100
    pixels = np.empty((600, 800, 3), np.uint8)
    dark = np.repeat(rng.random((6, 8)) < 0.5, stripe, 0).repeat(stripe, 1)
    pixels[:] = np.where(dark[..., None], purple, pink) + rng.integers(-12, 12, pixels.shape)
    Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=1)
    with (folder / f"{name}_spots.tsv").open("w", newline="") as spots, (folder / f"{name}.tsv").open("w") as counts:
        writer = csv.writer(spots, delimiter="\t")
        writer.writerow(["x", "y", "pixel_x", "pixel_y"])
        counts.write("\t" + "\t".join(GENES) + "\n")
        for row in range(6):
            for column in range(8):
                x, y = column * stripe + 50, row * stripe + 50
                share = np.array([0.5, 0.1, 0.4] if dark[y, x] else [0.1, 0.5, 0.4])
                depth = rng.uniform(300, 3000)
                values = rng.integers(0, 2000, 3) + 100 if random_counts else rng.poisson(depth * share)
                writer.writerow([column, row, x, y])
                counts.write(f"{column}x{row}\t" + "\t".join(str(v) for v in values) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number, name in enumerate(("S1", "S2", "S3", "H")):
        write_section(folder, name, seed=number)
        rows.append(f"{name},P{number % 2},{name}.png,{name}.tsv,{name}_spots.tsv,legacy_st,1.0\n")
    (folder / "table.csv").write_text("section,patient,image,counts,spots,platform,mpp\n" + "".join(rows))
    return folder


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


def test_no_prediction_depends_on_the_counts_of_the_held_out_section(folder, trained, tmp_path):
    """Replace them by random ones: weights, panel and defaults stay the same, to the bit; only the score moves."""
    output, card = trained
    try:
        write_section(folder, "H", seed=3, random_counts=True)
        again = train.run(settings(folder, tmp_path / "again"))
    finally:
        write_section(folder, "H", seed=3)
    for name in ("heads.safetensors",):
        assert (output / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    for key in ("default_genes", "genes", "ensemble", "reference_total"):
        assert again[key] == card[key]
    assert again["held_out"]["outer"] != card["held_out"]["outer"]


def test_the_same_seed_gives_the_same_model_and_another_does_not(folder, trained, tmp_path):
    weights = load_model(str(trained[0])).ensemble.heads.weight
    train.run(settings(folder, tmp_path / "same"))
    train.run(settings(folder, tmp_path / "other", seed=1))
    np.testing.assert_array_equal(load_model(str(tmp_path / "same")).ensemble.heads.weight, weights)
    assert (load_model(str(tmp_path / "other")).ensemble.heads.weight != weights).any()


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
