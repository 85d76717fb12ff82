"""A network strip by strip is the network on the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stimage_qupath.nuclei import stardist_strips
from stimage_qupath.nuclei.nuclei_model import bundled_folder
from stimage_qupath.nuclei.stardist_network import StarDistConfig
from stimage_qupath.nuclei.stardist_segmenter import BoundStarDistSegmenter, StarDistSegmenter
from stimage_qupath.nuclei.stardist_strips import candidates
from stimage_qupath.training.nuclei_fit import new_network

CPU = torch.device("cpu")
SHAPES = {
    "bundled": StarDistConfig(n_rays=8, n_channel_in=3, grid=(2, 2), unet_n_filter_base=4, net_conv_after_unet=6),
    "no grid, depth 1": StarDistConfig(
        n_rays=4, n_channel_in=3, grid=(1, 1), unet_n_depth=1, unet_n_filter_base=4, net_conv_after_unet=0
    ),
    "oblong grid, wide kernels": StarDistConfig(
        n_rays=4, n_channel_in=3, grid=(4, 2), unet_n_depth=2, unet_n_filter_base=4, unet_kernel_size=(5, 3),
        unet_n_conv_per_depth=3, unet_batch_norm=True,
    ),
}  # fmt: skip


def network_of(name):
    network = new_network(SHAPES[name], seed=1)
    torch.nn.init.normal_(network.prob.weight, std=0.5, generator=torch.Generator().manual_seed(2))
    torch.nn.init.normal_(network.dist.weight, std=0.5, generator=torch.Generator().manual_seed(3))
    return network.eval().to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rows", [16, 48, 1000])
def test_strips_of_any_height_give_what_the_whole_gives(name, rows, monkeypatch):
    monkeypatch.setattr(stardist_strips, "STRIP_ROWS", rows)
    network = network_of(name)
    down, across = network.config.divisor
    image = torch.rand(
        1, 3, -(-150 // down) * down, -(-70 // across) * across, generator=torch.Generator().manual_seed(0)
    )
    image = image.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        prob, dist = (part[0] for part in network(image))
    threshold, rim = float(prob.median()), 2
    inner = torch.zeros_like(prob, dtype=torch.bool)
    inner[rim:-rim, rim:-rim] = True
    clear = (prob - threshold).abs() > 1e-5  # rounding may put the others on either side
    found = candidates(network, image, threshold=threshold, rim=rim)
    at = torch.zeros_like(inner)
    at[found.rows, found.cols] = True
    assert torch.equal(at[clear], (inner & (prob > threshold))[clear])
    assert 0.2 < at.float().mean() < 0.6
    torch.testing.assert_close(found.prob, prob[found.rows, found.cols], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.dist, dist[found.rows, found.cols], rtol=1e-4, atol=1e-4)
    order = found.rows * prob.shape[1] + found.cols
    assert torch.equal(order, order.sort().values)


def test_nothing_above_the_threshold_is_no_nucleus():
    segmenter = BoundStarDistSegmenter(StarDistSegmenter(network_of("bundled"), 1.0, 0.4, CPU), low=0, high=255)
    assert not segmenter.label(np.full((90, 61, 3), 255, np.uint8)).any()


def test_bfloat16_says_nearly_the_same_and_is_told_apart():
    segmenter = StarDistSegmenter.load(bundled_folder(), device=CPU)
    fast = replace(segmenter, bfloat16=True)
    assert segmenter.identity != fast.identity
    assert segmenter.identity == StarDistSegmenter.load(bundled_folder(), device=CPU).identity
    row, col = np.mgrid[:192, :192] % 32 - 15.5
    rgb = np.where((np.hypot(row, col) < 8)[..., None], (95, 60, 145), (226, 168, 200)).astype(np.uint8)
    exact, near = (BoundStarDistSegmenter(s, low=60, high=226).label(rgb) > 0 for s in (segmenter, fast))
    assert exact.mean() > 0.1
    assert (exact & near).sum() / (exact | near).sum() > 0.97
