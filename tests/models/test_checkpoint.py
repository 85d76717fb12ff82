"""Model folders: written, read, damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stimage_qupath.errors import UnknownGeneError, UnknownModelError
from stimage_qupath.models.checkpoint import load_model, save_model
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.ensemble import Ensemble, Heads
from stimage_qupath.models.high_low import HighLow
from stimage_qupath.models.recalibration import Recalibration
from stimage_qupath.models.uncertainty import OutlierScore
from stimage_qupath.results import Panel

WIDTH = ColourEncoder.card.width
CARD = {
    "name": "tiny",
    "default_genes": ["ERBB2"],
    "encoder": ColourEncoder.card.to_dict(),
    "reference_total": 1000.0,
    "training": {"patients": 1},
    "genes": {"ERBB2": {"ci": [0.1, 0.3]}, "CD3D": {"ci": [-0.1, 0.3]}},
}


@pytest.fixture
def ensemble():
    rng = np.random.default_rng(0)
    return Ensemble(
        panel=Panel(("CD3D", "ERBB2")),
        heads=Heads(
            feature_mean=np.zeros(WIDTH, np.float32),
            feature_sd=np.ones(WIDTH, np.float32),
            projection=rng.normal(0, 0.1, (3, WIDTH, 2)).astype(np.float32),
            loading=rng.normal(0, 1, (3, 2, 2)).astype(np.float32),
            bias=np.zeros((3, 2), np.float32),
            log_total_count=np.ones((3, 2), np.float32),
        ),
        outliers=OutlierScore.fit(rng.normal(size=(200, WIDTH)).astype(np.float32)),
        recalibration=Recalibration.none(2),
        high_low=HighLow(np.array([0.5, np.nan], np.float32)),
    )


@pytest.fixture
def folder(tmp_path, ensemble):
    save_model(tmp_path, CARD, ensemble)
    return tmp_path


def test_what_is_read_predicts_what_was_written(folder, ensemble):
    model = load_model(str(folder))
    features = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    before, after = (e.predict(features, device=torch.device("cpu")) for e in (ensemble, model.ensemble))
    for name in ("mean", "aleatoric", "epistemic", "ood_score"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    assert (model.name, model.panel.genes, model.default_genes) == ("tiny", ("CD3D", "ERBB2"), ("ERBB2",))
    assert "Trained on 1 patient." in model.research_use


def test_genes_are_chosen_from_the_panel(folder):
    model = load_model(str(folder))
    assert model.choose_genes(()) == ("ERBB2",)
    assert model.choose_genes(("CD3D", "ERBB2", "CD3D")) == ("CD3D", "ERBB2")
    assert model.unsupported(("CD3D", "ERBB2")) == ("CD3D",)
    with pytest.raises(UnknownGeneError, match=r"panel of model 'tiny' \(2 genes\), found ERBB3; close to it: ERBB2"):
        model.choose_genes(("ERBB3",))


def test_one_changed_byte_in_the_weights_is_seen(folder):
    path = folder / "heads.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UnknownModelError, match="are damaged: expected SHA-256"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "expected a model of format 2 .* found 99"),
        ({"panel": None}, "found panel that is none"),
        ({"encoder": {"name": "nonsense"}}, "expected an encoder"),
    ],
)
def test_a_card_that_does_not_fit(folder, change, message):
    path = folder / "model.json"
    card = json.loads(path.read_text(encoding="utf-8")) | change
    if card["panel"] is None:
        card["panel"] = []
    path.write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(UnknownModelError, match=message):
        load_model(str(folder))


def test_folders_that_are_no_model(tmp_path, folder):
    with pytest.raises(UnknownModelError, match="expected 'starter' or the path of a model folder"):
        load_model(str(tmp_path / "none"))
    (folder / "model.json").write_text("{")
    with pytest.raises(UnknownModelError, match=r"expected a model folder with a readable model\.json"):
        load_model(str(folder))
    (folder / "model.json").write_text("[]")
    with pytest.raises(UnknownModelError, match="expected a model card"):
        load_model(str(folder))
