"""StarDist in torch: the original's weights, its numbers, and nuclei of known discs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import shapely
import torch

from stimage_qupath import cli
from stimage_qupath.errors import UnknownModelError
from stimage_qupath.nuclei.stardist_network import StarDistConfig, StarDistNetwork, load_network
from stimage_qupath.nuclei.stardist_segmenter import BoundStarDistSegmenter, StarDistSegmenter

CONFIGS = {
    "grid 2": {"n_rays": 32, "grid": [2, 2], "n_channel_in": 3, "unet_n_filter_base": 8, "net_conv_after_unet": 16},
    "shallow": {"n_rays": 8, "grid": [1, 1], "n_channel_in": 3, "unet_n_depth": 2, "unet_n_filter_base": 4},
    "normalised": {
        "n_rays": 8,
        "grid": [4, 4],
        "n_channel_in": 3,
        "unet_n_depth": 2,
        "unet_n_filter_base": 4,
        "unet_batch_norm": True,
        "net_conv_after_unet": 0,
        "unet_n_conv_per_depth": 3,
    },
}


def write_model(folder, config, *, seed=0):
    """Write a model folder in the layout of Keras from a network with random weights; return the network."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "thresholds.json").write_text('{"prob": 0.5, "nms": 0.4}')
    torch.manual_seed(seed)
    network = StarDistNetwork(StarDistConfig.read(folder / "config.json")).eval()
    with h5py.File(folder / "weights_best.h5", "w") as file:
        names = []
        for module_name, module in network.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                weights = {"kernel": module.weight.detach().permute(2, 3, 1, 0), "bias": module.bias.detach()}
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
                weights = {"gamma": module.weight.detach(), "beta": module.bias.detach()}
                weights |= {"moving_mean": module.running_mean, "moving_variance": module.running_var}
            else:
                continue
            name = module_name if module_name in {"prob", "dist"} else f"layer_{len(names)}"
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in weights]
            for key, values in weights.items():
                group[f"{name}/{key}:0"] = values.numpy()
            names.append(name.encode())
        file.attrs["layer_names"] = [b"input", *names, b"concatenate"]
        for empty in ("input", "concatenate"):
            file.create_group(empty).attrs["weight_names"] = np.array([], dtype="S1")
    return network


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_weights_of_the_keras_layout_are_read_back(tmp_path, config):
    written = write_model(tmp_path / "model", config)
    read = load_network(tmp_path / "model")
    down, across = read.config.divisor
    x = torch.rand(2, 3, 3 * down, 2 * across)
    with torch.inference_mode():
        for one, other in zip(written(x), read(x), strict=True):
            torch.testing.assert_close(one, other)
    prob, dist = read(x)
    assert prob.shape == (2, 3 * down // config["grid"][0], 2 * across // config["grid"][1])
    assert dist.shape == (*prob.shape, config["n_rays"])


def test_a_damaged_or_foreign_model_is_one_sentence(tmp_path):
    with pytest.raises(UnknownModelError, match=r"expected the config\.json of a StarDist 2D model"):
        load_network(tmp_path)
    folder = tmp_path / "model"
    write_model(folder, CONFIGS["shallow"])
    (folder / "config.json").write_text(json.dumps(CONFIGS["shallow"] | {"n_rays": 16}))
    with pytest.raises(UnknownModelError, match="found others or a damaged file"):
        load_network(folder)
    (folder / "config.json").write_text(json.dumps(CONFIGS["shallow"] | {"unet_n_depth": 4}))
    with pytest.raises(UnknownModelError, match="found others or a damaged file"):
        load_network(folder)
    (folder / "config.json").write_text(json.dumps(CONFIGS["shallow"] | {"n_classes": 3}))
    with pytest.raises(UnknownModelError, match="without classes, found 3 classes"):
        load_network(folder)
    (folder / "weights_best.h5").unlink()
    (folder / "config.json").write_text(json.dumps(CONFIGS["shallow"]))
    with pytest.raises(UnknownModelError, match="found no weights"):
        load_network(folder)


class Discs(torch.nn.Module):
    """A network whose answer is known: dark pixels are nuclei, their edge 8 px from the darkest."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, x):
        g = self.config.grid
        dark = 1 - torch.nn.functional.avg_pool2d(x.mean(dim=1, keepdim=True), g)[:, 0]
        return dark, torch.full((*dark.shape, self.config.n_rays), 8.0)


def test_discs_become_nuclei_of_their_size_at_their_place():
    """One dark point a nucleus on a grid of 2: polygons of 32 rays of 8 px around it."""
    image = np.full((130, 150, 3), 255, dtype=np.uint8)
    centres = [(31, 41), (61, 91), (101, 121)]
    for row, column in centres:
        image[row - 1 : row + 1, column - 1 : column + 1] = 0
    network = Discs(StarDistConfig(n_rays=32, n_channel_in=3, grid=(2, 2)))
    segmenter = StarDistSegmenter(network, 0.5, 0.4, torch.device("cpu"))
    labels = BoundStarDistSegmenter(segmenter, low=0.0, high=255.0).label(image)
    assert labels.shape == image.shape[:2]
    assert labels.max() == 3
    for row, column in centres:
        inside = labels == labels[row, column]
        assert inside.sum() == pytest.approx(np.pi * 64, rel=0.08)
        rows, columns = np.nonzero(inside)
        assert (rows.mean(), columns.mean()) == pytest.approx((row - 1, column - 1), abs=0.6)


def test_nothing_found_is_an_empty_label_image(tmp_path):
    write_model(tmp_path / "model", CONFIGS["grid 2"])
    segmenter = StarDistSegmenter.load(tmp_path / "model", device=torch.device("cpu"))
    bound = BoundStarDistSegmenter(
        StarDistSegmenter(segmenter.network, 1.1, 0.4, segmenter.device), low=0.0, high=255.0
    )
    assert not bound.label(np.zeros((70, 50, 3), dtype=np.uint8)).any()


ORIGINAL = """
import sys, numpy as np
from stardist.models import Config2D, StarDist2D
import json
config, folder, name = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
model = StarDist2D(Config2D(**config), name=name, basedir=folder)
rng = np.random.default_rng(0)
spread = lambda w: w + 0.02 * rng.normal(size=w.shape) if w.ndim > 1 else np.abs(w + 0.1 * rng.normal(size=w.shape))
model.keras_model.set_weights([spread(w).astype(np.float32) for w in model.keras_model.get_weights()])
# Distances of pixels, not of fractions: the last layer's bias makes polygons that overlap and compete.
dist = model.keras_model.get_layer("dist")
kernel, bias = dist.get_weights()
dist.set_weights([kernel * 8, bias + 5])
model.keras_model.save_weights(f"{folder}/{name}/weights_best.h5")
x = rng.random((97, 130, config["n_channel_in"])).astype(np.float32)
prob, distances = model.predict(x)[:2]
# In the widest gap near the 90th percentile: rounding must not decide who is a candidate.
near = np.sort(prob.ravel())[int(0.88 * prob.size) : int(0.92 * prob.size)]
widest = np.diff(near).argmax()
threshold = float(near[widest : widest + 2].mean())
labels, _ = model.predict_instances(x, prob_thresh=threshold, nms_thresh=0.4)
np.savez(f"{folder}/{name}.npz", x=x, prob=prob, dist=distances, labels=labels, threshold=threshold)
"""


def numbered_by_place(labels):
    """Number instances by their first pixel; StarDist numbers them by probability, where the last digit decides."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(values), dtype=int)
    rank[np.argsort(np.where(values == 0, -1, first))] = np.arange(len(values))
    return rank[inverse].reshape(labels.shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_original_gives_the_same(tmp_path, name):
    """Same weights, same image, the real StarDist on TensorFlow in a process of its own."""
    pytest.importorskip("tensorflow", reason="the original network needs the extra stardist-tf")
    command = [sys.executable, "-c", ORIGINAL, json.dumps(CONFIGS[name]), str(tmp_path), "model"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    truth = np.load(tmp_path / "model.npz")
    loaded = StarDistSegmenter.load(tmp_path / "model", device=torch.device("cpu"))
    segmenter = StarDistSegmenter(loaded.network, float(truth["threshold"]), 0.4, loaded.device)
    bound = BoundStarDistSegmenter(segmenter, low=0.0, high=1.0)
    prob, dist = bound.predict(truth["x"])
    rows, columns = truth["prob"].shape
    np.testing.assert_allclose(prob[:rows, :columns], truth["prob"], atol=1e-5)
    np.testing.assert_allclose(dist[:rows, :columns], truth["dist"], atol=1e-4)
    assert truth["labels"].max() > 5
    np.testing.assert_array_equal(numbered_by_place(bound.label(truth["x"])), numbered_by_place(truth["labels"]))


def test_a_stardist_folder_serves_from_the_command_line(tmp_path, tissue_slide, capsys):
    """Random weights find nonsense; what counts is that the whole path runs on them, and bad folders are refused."""
    write_model(tmp_path / "model", CONFIGS["grid 2"])
    (tmp_path / "model" / "thresholds.json").write_text('{"prob": 0.999, "nms": 0.4}')
    arguments = ["segment", str(tissue_slide.path), "--output", str(tmp_path / "out"), "--json"]
    assert cli.run([*arguments, "--segmenter", f"stardist:{tmp_path / 'model'}"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["segmenter"].startswith("stardist:")
    assert cli.run([*arguments, "--force", "--segmenter", f"stardist:{tmp_path}"]) == 2
    assert cli.run([*arguments, "--force", "--segmenter", "cellpose"]) == 2
    assert "expected segmenter out of classical, he, stardist" in capsys.readouterr().err


def test_blocks_fall_on_the_grid_of_the_network(array_slide):
    """Pooling makes a network see an image otherwise that is moved by less than its stride."""
    from stimage_qupath.nuclei.segment import segment_regions
    from stimage_qupath.results import Region

    network = Discs(StarDistConfig(n_rays=8, n_channel_in=3, grid=(2, 2)))
    segmenter = StarDistSegmenter(network, 1.1, 0.4, torch.device("cpu"))  # finds nothing, reads all
    assert segmenter.stride == 16
    slide = array_slide(np.full((900, 900, 3), 120, dtype=np.uint8), 0.5)
    everywhere = [Region(id="r", geometry=shapely.box(0, 0, 900, 900))]
    for block_um, expansion_um in ((77.7, 0.0), (101.0, 3.3)):
        list(
            segment_regions(
                slide, 0.5, everywhere, segmenter, image_id="i", block_um=block_um, expansion_um=expansion_um
            )
        )
    corners = np.array(slide.reads)
    assert len(corners) > 20
    assert (corners[(corners > 0).all(axis=1)] % 16 == 0).all()
