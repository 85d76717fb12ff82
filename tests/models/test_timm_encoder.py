"""A timm network as encoder, on random weights of a small one: the hub is out of reach of a test."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from stimage_qupath.errors import MissingPartError, UnknownModelError
from stimage_qupath.models.encoders import load_encoder
from stimage_qupath.results import never_cancelled

CPU = torch.device("cpu")
NAME = "timm:test_vit"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(network.state_dict(), path)
    return path, network.eval()


def run(encoder, image, centres, batch_size=2):
    centres = np.asarray(centres, dtype=np.float64)
    return encoder.encode(image, centres, device=CPU, batch_size=batch_size, cancelled=never_cancelled)


def test_features_are_those_of_the_network_on_the_tile_cut_by_hand(checkpoint):
    path, network = checkpoint
    encoder = load_encoder(NAME, weights=str(path))
    side = encoder.card.tile_px
    image = np.random.default_rng(0).integers(0, 256, (300, 320, 3), dtype=np.uint8)
    centres = [(100.0, 120.0), (150.5, 130.0), (200.0, 160.0)]
    features = run(encoder, image, centres)
    for (x, y), found in zip([(100, 120), (151, 130), (200, 160)], features, strict=True):
        tile = image[y - side // 2 : y + side // 2, x - side // 2 : x + side // 2].astype(np.float32) / 255
        tile = (tile - np.array(encoder.card.mean)) / np.array(encoder.card.std)
        with torch.inference_mode():
            pooled = network.forward_head(
                network.forward_features(torch.tensor(tile, dtype=torch.float32).permute(2, 0, 1)[None]),
                pre_logits=True,
            )
        np.testing.assert_allclose(found, pooled[0].numpy(), rtol=1e-4, atol=1e-5)
    assert features.shape == (3, encoder.card.width)


def test_batch_size_changes_nothing(checkpoint):
    encoder = load_encoder(NAME, weights=str(checkpoint[0]))
    image = np.random.default_rng(1).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    centres = np.random.default_rng(2).uniform(120, 280, (7, 2))
    np.testing.assert_allclose(run(encoder, image, centres, 1), run(encoder, image, centres, 7), rtol=1e-4, atol=1e-5)


def test_a_network_whose_head_widens_the_pooled_output():
    encoder = load_encoder("timm:mobilenetv3_small_050", pretrained=False)
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    assert run(encoder, image, [(150.0, 150.0)]).shape == (1, encoder.card.width)


def test_an_image_without_margin_is_refused(checkpoint):
    encoder = load_encoder(NAME, weights=str(checkpoint[0]))
    with pytest.raises(ValueError, match="px around every centre"):
        run(encoder, np.zeros((200, 200, 3), dtype=np.uint8), [(3.0, 3.0)])


def test_a_checkpoint_of_another_network_is_refused(checkpoint, tmp_path):
    state = dict(checkpoint[1].state_dict())
    state["blocks.0.extra"] = torch.ones(1)
    del state["norm.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UnknownModelError, match=r"1 lacking: norm.weight; 1 unexpected: blocks.0.extra"):
        load_encoder(NAME, weights=str(tmp_path / "other.safetensors"))


def test_names_and_weights_that_are_not_there(tmp_path):
    with pytest.raises(UnknownModelError, match=r"expected an encoder out of .* or 'timm:<model>', found 'resnet'"):
        load_encoder("resnet")
    with pytest.raises(UnknownModelError, match="expected a model that timm knows, found 'resnet51'"):
        load_encoder("timm:resnet51")
    with pytest.raises(MissingPartError, match="expected a checkpoint at"):
        load_encoder(NAME, weights=str(tmp_path / "none.safetensors"))


def test_weights_that_cannot_be_downloaded_are_a_missing_part(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingPartError, match=r"expected the weights of timm's vit_tiny_patch16_224"):
        load_encoder("timm:vit_tiny_patch16_224")
