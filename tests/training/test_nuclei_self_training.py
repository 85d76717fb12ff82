"""What a teacher adds to labels, and how a single dye is shown as H&E."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.draw import disk

from stimage_qupath.nuclei.nuclei_model import bundled_folder
from stimage_qupath.nuclei.stardist_segmenter import StarDistSegmenter
from stimage_qupath.slide.stain import hematoxylin_eosin
from stimage_qupath.training.nuclei_dataset import NucleiImage
from stimage_qupath.training.nuclei_restaining import restained
from stimage_qupath.training.nuclei_score import bound_to
from stimage_qupath.training.nuclei_self_training import _mirrored, self_trained
from stimage_qupath.training.nuclei_targets import IGNORED

PLACES = [(30, 30), (30, 90), (75, 55), (95, 110), (120, 30)]
RADIUS = 7
SHAPE = (150, 141)  # no multiple of what the network halves


def tissue(seed=0):
    rng = np.random.default_rng(seed)
    rgb, labels = np.full((*SHAPE, 3), (228.0, 176, 205)), np.zeros(SHAPE, np.int32)
    for number, place in enumerate(PLACES, start=1):
        rr, cc = disk(place, RADIUS, shape=SHAPE)
        rgb[rr, cc], labels[rr, cc] = (98, 62, 142), number
    return np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def teacher():
    return StarDistSegmenter.load(bundled_folder(), device=torch.device("cpu"))


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_mirror_images_agree_on_where_nuclei_are(teacher):
    """A wrong turn of the rays, or a shift by a pixel, would make the mean of four answers fit worse than one."""
    rgb, truth = tissue()
    image = NucleiImage("a", rgb, truth)
    mean, probability = _mirrored(bound_to(teacher, image), rgb)
    single = bound_to(teacher, image).label(rgb)
    assert len(np.unique(mean)) - 1 == len(PLACES)
    assert overlap(mean > 0, truth > 0) > max(0.7, overlap(single > 0, truth > 0) - 0.02)
    assert probability.shape == SHAPE
    flipped, _ = _mirrored(bound_to(teacher, image), np.ascontiguousarray(rgb[:144, :128][::-1]))
    straight, _ = _mirrored(bound_to(teacher, image), np.ascontiguousarray(rgb[:144, :128]))
    assert overlap(flipped[::-1] > 0, straight > 0) > 0.93


def test_a_teacher_adds_what_is_missing_and_leaves_what_is_there(teacher):
    rgb, truth = tissue()
    given = np.where(truth <= 2, truth, 0).astype(np.int32)
    completed = self_trained(NucleiImage("a", rgb, given, is_incomplete=True), teacher)
    assert completed.nuclei == len(PLACES)
    assert np.array_equal(completed.labels[given > 0], given[given > 0])
    assert overlap(completed.labels > 0, truth > 0) > 0.8
    validation = self_trained(NucleiImage("a", rgb, given), teacher, adds=False)
    assert validation.nuclei == 2
    assert (validation.labels[truth > 2] == IGNORED).mean() > 0.8
    assert (validation.labels[truth == 0] == 0).mean() > 0.5


def test_a_single_dye_becomes_blue_nuclei_in_pink():
    rng = np.random.default_rng(1)
    _, labels = tissue()
    density = np.where(labels > 0, 0.9, 0.3)[..., None] * np.array([0.8, 0.9, 0.35])
    purple = (255 * np.exp(-density)).astype(np.uint8)
    for _ in range(5):
        shown = restained(purple, labels, rng=rng)
        assert shown.dtype == np.uint8
        blue, red = hematoxylin_eosin(shown)
        nuclei = labels > 0
        assert blue[nuclei].mean() > 3 * blue[~nuclei].mean()
        assert (red / np.maximum(blue, 0.02))[~nuclei].mean() > (red / np.maximum(blue, 0.02))[nuclei].mean()
    assert restained(purple, np.zeros_like(labels), rng=rng) is purple
