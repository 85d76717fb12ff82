"""Training and predicting in the stains of the training sections."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from stimage_qupath.config import PredictSettings, TrainSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.pipeline import predict, train
from stimage_qupath.regions.stain_overview import fit_target, normalised, target_of, tissue_pixels
from stimage_qupath.slide.reader import open_slide

pytestmark = pytest.mark.flow


def settings(folder, output, **changes):
    return TrainSettings(
        dataset=folder / "table.csv", output=output, members=2, encoder="colour", no_cache=True, **changes
    )


def test_the_target_is_that_of_the_training_sections_alone(sections_folder, tmp_path):
    card = train.run(settings(sections_folder, tmp_path / "m", hold_out=("H",), stain_normalisation="reinhard"))
    pixels = []
    for name in ("S1", "S2", "S3"):
        with open_slide(sections_folder / f"{name}.png") as slide:
            pixels.append(tissue_pixels(slide, 1.0))
    assert card["stain"] == fit_target(pixels, "reinhard").to_dict()
    assert target_of(json.loads((tmp_path / "m" / "model.json").read_text(encoding="utf-8"))) is not None


def test_by_default_slides_stay_as_they_are(sections_folder, tmp_path):
    card = train.run(settings(sections_folder, tmp_path / "m"))
    assert card["stain"] == {"method": "none"}
    assert target_of(card) is None


@pytest.mark.slow
def test_auto_takes_what_scores_best_and_says_by_how_much(sections_folder, tmp_path):
    stain = train.run(settings(sections_folder, tmp_path / "m", stain_normalisation="auto"))["stain"]
    tried = stain["tried"]
    assert {"none", "reinhard", "vahadane"} <= set(tried)
    assert tried[stain["method"]] == max(tried.values())


def test_prediction_sees_the_slide_as_training_did(sections_folder, tmp_path):
    """Features of a section through a run's own path equal those that training computed."""
    model_folder = tmp_path / "m"
    train.run(settings(sections_folder, model_folder, stain_normalisation="reinhard"))
    model = load_model(str(model_folder))
    with open_slide(sections_folder / "S1.png") as plain:
        shown = normalised(plain, 1.0, target_of(model.card))
        box = shown.read_region(0, 0, width=100, height=100)
    target = target_of(model.card)
    assert target is not None
    assert np.abs(box.astype(int) - np.asarray(Image.open(sections_folder / "S1.png"))[:100, :100]).max() > 0


def test_a_word_that_is_no_method(sections_folder, tmp_path):
    with pytest.raises(UsageError, match="expected stain_normalisation out of none, macenko, reinhard, vahadane, auto"):
        settings(sections_folder, tmp_path / "m", stain_normalisation="stain")


def test_a_run_normalises_what_the_encoder_sees_and_nothing_else(sections_folder, tissue_slide, tmp_path):
    """The same heads on plain and on normalised tiles: other predictions, the same nuclei."""
    plain, shown = tmp_path / "plain", tmp_path / "shown"
    train.run(settings(sections_folder, plain))
    train.run(settings(sections_folder, shown))
    card = json.loads((shown / "model.json").read_text(encoding="utf-8"))
    card["stain"] = {"method": "reinhard", "lab_mean": [55.0, 20.0, -20.0], "lab_sd": [9.0, 6.0, 6.0]}
    (shown / "model.json").write_text(json.dumps(card), encoding="utf-8")
    import anndata

    runs = []
    for model in (plain, shown):
        out = tmp_path / f"run_{model.name}"
        predict.run(PredictSettings(image=tissue_slide.path, output=out, model=str(model), overview=False))
        runs.append(anndata.read_h5ad(out / "cells.h5ad"))
    assert runs[0].obs_names.tolist() == runs[1].obs_names.tolist()
    np.testing.assert_array_equal(runs[0].obs["nucleus_area_um2"], runs[1].obs["nucleus_area_um2"])
    assert np.abs(runs[0].X / runs[1].X - 1).max() > 0.01


def test_a_run_says_how_good_the_slide_is_at_each_nucleus_and_as_a_whole(sections_folder, tissue_slide, tmp_path):
    import anndata

    train.run(settings(sections_folder, tmp_path / "m"))
    out = tmp_path / "run"
    record = predict.run(
        PredictSettings(image=tissue_slide.path, output=out, model=str(tmp_path / "m"), overview=False)
    )
    assert record["quality"]["pen_share"] == 0
    assert record["quality"]["tissue_mm2"] == pytest.approx(1110 * 1483 * 0.25e-6, rel=0.03)  # a rim of 10 um is closed
    obs = anndata.read_h5ad(out / "cells.h5ad").obs
    inner = obs[["tissue_fraction", "pen", "blur"]][obs.tissue_fraction > 0.9]
    assert len(inner) > 30
    assert (inner.pen == 0).all()
    assert (inner.blur < 1).mean() > 0.9
