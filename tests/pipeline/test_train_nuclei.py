"""``train-nuclei`` from a table to a folder that ``segment`` takes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

from stimage_qupath import cli
from stimage_qupath.config import TrainNucleiSettings
from stimage_qupath.errors import CancelledError, OutputExistsError, UsageError
from stimage_qupath.nuclei.stardist_network import StarDistConfig
from stimage_qupath.pipeline import train_nuclei
from stimage_qupath.training.nuclei_augmentation import NO_AUGMENTATION
from stimage_qupath.training.nuclei_fit import NucleiFitSettings

TINY = StarDistConfig(
    n_rays=16, n_channel_in=3, grid=(2, 2), unet_n_depth=1, unet_n_filter_base=8, net_conv_after_unet=16
)
FAST = NucleiFitSettings(steps=30, patch_px=64, learning_rate=1e-2, augmentation=NO_AUGMENTATION)


def paint(folder, name, seed):
    """Write an image of 256 px of 0.25 µm with discs 6 µm wide on a jittered lattice, and its labels."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:256, :256]
    labels = np.zeros((256, 256), np.int32)
    for number, (row, col) in enumerate([(r, c) for r in range(24, 256, 48) for c in range(24, 256, 48)], start=1):
        down, right = rng.uniform(-6, 6, 2)
        labels[np.hypot(rows - row - down, cols - col - right) < 12] = number
    rgb = np.where((labels > 0)[..., None], (100, 60, 150), (230, 180, 210)) + rng.integers(-15, 15, (256, 256, 3))
    Image.fromarray(rgb.astype(np.uint8)).save(folder / f"{name}.png")
    tifffile.imwrite(folder / f"{name}.tif", labels)
    return f"{name}.png,{name}.tif,0.25,CC0\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuclei")
    rows = [paint(folder, f"image{seed}", seed) for seed in range(4)]
    (folder / "images.csv").write_text("image,labels,mpp,licence\n" + "".join(rows))
    return folder / "images.csv"


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    """Return a model folder and its card."""
    output = tmp_path_factory.mktemp("models") / "discs"
    seen = []
    settings = TrainNucleiSettings(dataset=table, output=output, epochs=3, batch_size=4, device="cpu")
    card = train_nuclei.run(settings, lambda *args: seen.append(args), network=TINY, fit=FAST)
    assert seen[-1][:3] == ("train", 90, 90)
    assert "validation AP" in seen[-1][3]
    return output, card


def test_the_card_says_how_it_was_made(trained, table):
    output, card = trained
    assert json.loads((output / "model.json").read_text(encoding="utf-8")) == card
    assert card["mpp"] == 0.5
    assert card["training"]["licences"] == ["CC0"]
    assert card["training"]["nuclei"] == 3 * 25
    assert card["figures"]["validation"]["nuclei"] == 25
    assert card["figures"]["validation"]["ap50"] > 0.8
    assert len(card["files"]["weights.safetensors"]) == 64


def test_the_folder_segments(trained, table, tmp_path, capsys):
    arguments = ["segment", str(table.with_name("image0.png")), "--mpp", "0.25", "--output", str(tmp_path / "run")]
    assert cli.run([*arguments, "--segmenter", f"stardist:{trained[0]}", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == pytest.approx(25, abs=3)


def test_training_goes_on_from_a_folder(trained, table, tmp_path):
    settings = TrainNucleiSettings(
        dataset=table, output=tmp_path / "more", start_from=str(trained[0]), epochs=1, batch_size=1, device="cpu"
    )
    card = train_nuclei.run(settings, fit=NucleiFitSettings(steps=1, patch_px=32, learning_rate=1e-6))
    assert card["network"]["n_rays"] == 16  # the folder's, not the default 32
    assert card["figures"]["validation"]["ap50"] == pytest.approx(trained[1]["figures"]["validation"]["ap50"], abs=0.1)


def test_images_without_labels_learn_from_the_first_model(trained, table, tmp_path):
    rows = table.read_text().splitlines()[1:]
    bare = tmp_path / "bare.csv"
    rows = [f"{table.parent}/{r.split(',')[0]},{table.parent}/{r.split(',')[1]},0.25,CC0,validation" for r in rows[:1]]
    rows.append(f"{table.parent}/image1.png,,0.25,CC0,train")
    bare.write_text("image,labels,mpp,licence,split\n" + "\n".join(rows) + "\n")
    settings = TrainNucleiSettings(dataset=bare, output=tmp_path / "self", epochs=1, batch_size=1, device="cpu")
    fit = NucleiFitSettings(steps=1, patch_px=32, learning_rate=1e-6)
    with pytest.raises(UsageError, match=r"expected a model to find the nuclei that the labels of image1\.png lack"):
        train_nuclei.run(settings, fit=fit)
    card = train_nuclei.run(replace(settings, start_from=str(trained[0])), fit=fit)
    assert card["training"]["nuclei"] == pytest.approx(25, abs=3)
    assert card["training"]["learning_rate"] == 1e-6


def test_an_existing_output_stays(trained, table, tmp_path):
    with pytest.raises(OutputExistsError):
        train_nuclei.run(TrainNucleiSettings(dataset=table, output=trained[0]), network=TINY, fit=FAST)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(OutputExistsError):
        train_nuclei.run(TrainNucleiSettings(dataset=table, output=tmp_path / "mine", force=True))


def test_a_cancelled_training_leaves_nothing(table, tmp_path):
    settings = TrainNucleiSettings(dataset=table, output=tmp_path / "none", device="cpu")
    with pytest.raises(CancelledError):
        train_nuclei.run(settings, cancelled=lambda: True, network=TINY, fit=FAST)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "expected a dataset table at"),
        (["{table}", "--start-from", "nowhere"], "expected a nucleus model with a readable model.json"),
        (["{table}", "--epochs", "0"], "expected epochs of at least 1, found 0"),
        (["{table}", "--validation-fraction", "1"], "expected validation_fraction between 0 and 1"),
        (["{table}", "--device", "tpu"], "expected device out of"),
    ],
)
def test_wrong_arguments_end_with_2(table, tmp_path, capsys, arguments, message):
    given = [argument.format(table=table) for argument in arguments]
    assert cli.run(["train-nuclei", *given, "--output", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_settings_come_back_from_json():
    settings = TrainNucleiSettings(dataset="a.csv", output="b", start_from="bundled", epochs=3)
    assert TrainNucleiSettings.from_json(settings.to_json()).to_dict() == settings.to_dict()
    with pytest.raises(UsageError, match="expected seed of at least 0"):
        TrainNucleiSettings(dataset="a.csv", output="b", seed=-1)
