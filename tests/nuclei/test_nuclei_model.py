"""The folder of a nucleus network: what is written comes back, and what is damaged is refused."""

from __future__ import annotations

import json

import pytest
import torch

from stimage_qupath.errors import UnknownModelError
from stimage_qupath.nuclei.nuclei_model import (
    WEIGHTS_SAFETENSORS,
    bundled_folder,
    load_nuclei_model,
    read_nuclei_card,
    save_nuclei_model,
)
from stimage_qupath.nuclei.registry import choose_segmenter
from stimage_qupath.nuclei.stardist_network import StarDistConfig, StarDistNetwork
from stimage_qupath.nuclei.stardist_segmenter import StarDistSegmenter

CPU = torch.device("cpu")
CARD = {"name": "tiny", "thresholds": {"prob": 0.45, "nms": 0.3}, "mpp": 0.25, "training": {}}


@pytest.fixture
def saved(tmp_path):
    """Return a folder and the network in it; batch normalisation has values that only its buffers hold."""
    config = StarDistConfig(
        n_rays=8, n_channel_in=3, grid=(2, 2), unet_n_depth=1, unet_n_filter_base=4, unet_batch_norm=True
    )
    torch.manual_seed(0)
    network = StarDistNetwork(config)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
    save_nuclei_model(tmp_path, network, CARD)
    return tmp_path, network.eval()


def test_a_saved_network_comes_back(saved):
    folder, network = saved
    read, card = load_nuclei_model(folder)
    assert read.config == network.config
    assert {key: card[key] for key in CARD} == CARD
    x = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        for one, other in zip(network(x), read(x), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_segmenter_takes_thresholds_and_pixel_size_from_the_card(saved):
    segmenter = StarDistSegmenter.load(saved[0], device=CPU)
    assert (segmenter.prob_threshold, segmenter.nms_threshold, segmenter.mpp) == (0.45, 0.3, 0.25)


def test_damaged_folders_are_one_sentence(saved, tmp_path):
    folder, _ = saved
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))

    def with_card(**changes):
        (folder / "model.json").write_text(json.dumps({**card, **changes}), encoding="utf-8")
        return folder

    with pytest.raises(UnknownModelError, match=r"expected a nucleus model with a readable model\.json"):
        read_nuclei_card(tmp_path / "none")
    with pytest.raises(UnknownModelError, match="pass a folder that train-nuclei has made"):
        read_nuclei_card(with_card(kind="expression"))
    with pytest.raises(UnknownModelError, match="found format 2; update stimage-qupath"):
        read_nuclei_card(with_card(format=2))
    with pytest.raises(UnknownModelError, match="expected weights of the network on the card"):
        load_nuclei_model(with_card(network={**card["network"], "n_rays": 16}))
    with pytest.raises(UnknownModelError, match="expected the shape of a StarDist network on the card"):
        load_nuclei_model(with_card(network={"rays": 16}))
    weights = folder / WEIGHTS_SAFETENSORS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UnknownModelError, match="are damaged: expected SHA-256"):
        load_nuclei_model(with_card())
    weights.unlink()
    with pytest.raises(UnknownModelError, match="expected weights at"):
        load_nuclei_model(folder)


def test_the_bundled_model_is_small_and_says_where_it_comes_from():
    card = read_nuclei_card(bundled_folder())
    assert sum(path.stat().st_size for path in bundled_folder().iterdir()) <= 6e6
    licences = {part["licence"] for part in card["training"]["data"]}
    assert licences <= {"CC0-1.0", "BSD-3-Clause", "CC-BY-4.0"}
    assert not any("MoNuSeg" in part["data"] or "PanNuke" in part["data"] for part in card["training"]["data"])
    segmenter = choose_segmenter("he", device=CPU)
    assert (segmenter.name, segmenter.mpp) == ("he", card["mpp"])
    assert 0.1 < segmenter.prob_threshold < 0.9


def test_the_bundled_model_finds_dark_discs_on_pink_tissue(disc_slide):
    """Discs of 7 µm, well apart: what any nucleus network must find."""
    import numpy as np

    centres = [(x, y) for x in (60, 120, 180) for y in (60, 120, 180)]
    slide = disc_slide(240, 240, 0.5, np.array([(x, y, 7) for x, y in centres], dtype=np.float64))
    segmenter = choose_segmenter("he", device=CPU)
    side = round(240 * 0.5 / segmenter.mpp)
    rgb = slide.read_region(0, 0, width=side, height=side, downsample=segmenter.mpp / 0.5)
    labels = segmenter.calibrate(slide, 0.5, []).label(rgb)
    found = {int(labels[round(y * 0.5 / segmenter.mpp), round(x * 0.5 / segmenter.mpp)]) for x, y in centres} - {0}
    assert len(found) >= 8
