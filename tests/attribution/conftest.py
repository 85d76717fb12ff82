"""Blocks with known nuclei, and encoders whose answer is arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import shapely
import torch

from stimage_qupath.attribution.plan import Outlines
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import ELSEWHERE, Scene
from stimage_qupath.attribution.targets import Outputs
from stimage_qupath.models.encoders import EncoderCard
from stimage_qupath.models.ensemble import Ensemble, Heads
from stimage_qupath.models.high_low import HighLow
from stimage_qupath.models.recalibration import Recalibration
from stimage_qupath.models.uncertainty import OutlierScore
from stimage_qupath.results import Panel

GENES = ("UP", "DOWN")


def card(**changes):
    values = {
        "name": "test",
        "source": "a formula",
        "licence": "none",
        "gated": False,
        "mpp": 0.5,
        "tile_px": 40,
        "width": 1,
    }
    return EncoderCard(**(values | changes))


@pytest.fixture(scope="session")
def make_card():
    return card


@pytest.fixture(scope="session")
def make_ensemble():
    """Return a maker of ensembles with chosen or random weights, features taken as they are."""

    def make(width, members=3, seed=0, weight=None, sd=1.0):
        rng = np.random.default_rng(seed)
        weight = rng.normal(0, 0.1, (members, width, len(GENES))) if weight is None else np.asarray(weight)
        members = len(weight)
        heads = Heads(
            feature_mean=np.zeros(width, np.float32),
            feature_sd=np.full(width, sd, np.float32),
            projection=weight.astype(np.float32),
            loading=np.tile(np.eye(len(GENES), dtype=np.float32), (members, 1, 1)),
            bias=rng.normal(0, 1, (len(weight), len(GENES))).astype(np.float32),
            log_total_count=np.zeros((len(weight), len(GENES)), np.float32),
        )
        outliers = OutlierScore(np.ones((width, 1), np.float32), 1.0, 1.0)
        return Ensemble(
            panel=Panel(GENES),
            heads=heads,
            outliers=outliers,
            recalibration=Recalibration.none(len(GENES)),
            high_low=HighLow(np.array([1.0, np.nan], np.float32)),
        )

    return make


@pytest.fixture(scope="session")
def ask(make_ensemble):
    """Return a maker of questions to an encoder."""

    def make(encoder, *, ensemble=None, target="log mean", genes=GENES, **options):
        ensemble = ensemble or make_ensemble(encoder.card.width)
        outputs = Outputs(ensemble, genes, target)
        return Question(encoder=encoder, outputs=outputs, device=torch.device("cpu"), **options)

    return make


class Linear:
    """Two features of a window: its mean absorbed green in tenths, and the mean of red minus blue."""

    whole_image = False

    def __init__(self, card):
        self.card = card

    def features(self, images, centres):
        half = self.card.tile_px // 2
        corners = torch.floor(centres - half + 0.5).long().tolist()
        tiles = torch.stack([images[:, :, y : y + 2 * half, x : x + 2 * half] for x, y in corners], dim=1)
        mean = tiles.mean(dim=(-1, -2)) / 255
        return torch.stack([10 * (1 - mean[..., 1]), mean[..., 0] - mean[..., 2]], dim=-1)

    def network(self):
        return torch.nn.Identity()

    def encode(self, image, centres, *, device, batch_size, cancelled):
        pixels = torch.from_numpy(image).permute(2, 0, 1).float()[None]
        return self.features(pixels, torch.from_numpy(centres))[0].numpy()


class Convolutional(Linear):
    """Four features of a window from two random convolutions and ReLUs."""

    def __init__(self, card):
        super().__init__(card)
        torch.manual_seed(0)
        self._network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3), torch.nn.ReLU()
        ).requires_grad_(requires_grad=False)

    def features(self, images, centres):
        half = self.card.tile_px // 2
        corners = torch.floor(centres - half + 0.5).long().tolist()
        tiles = torch.cat([images[:, :, y : y + 2 * half, x : x + 2 * half] for x, y in corners])
        pooled = self._network(tiles / 64 - 2).mean(dim=(-1, -2))
        return pooled.view(len(corners), len(images), -1).transpose(0, 1)

    def network(self):
        return self._network


@pytest.fixture(scope="session")
def linear():
    return Linear(card(tile_px=40, width=2))


@pytest.fixture(scope="session")
def convolutional():
    return Convolutional(card(tile_px=40, width=4))


@dataclass(frozen=True)
class BlockOfBlobs:
    """A scene of the formula picture, its nuclei and the picture without them."""

    scene: Scene
    outlines: Outlines
    filled: np.ndarray


@pytest.fixture(scope="session")
def blobs(formula_picture):
    """Return 300 x 300 px of the picture at 0.5 um: each blob a nucleus of three SDs, four background cells."""
    size, picture = 300, formula_picture
    image = picture.render(0, 0, width=size, height=size, step=(1, 1))
    inside = (picture.blobs[:, :2] < size - 40).all(axis=1)
    known = picture.blobs[inside]
    circles = shapely.buffer(shapely.points(known[:, :2]), 3 * known[:, 2])
    outlines = Outlines.from_polygons(circles, known[:, :2])
    row, column = np.mgrid[0:size, 0:size]
    labels = (len(known) + 2 * (row >= size // 2) + (column >= size // 2)).astype(np.int32)
    for number, (x, y, sigma) in enumerate(known):
        labels[(row + 0.5 - y) ** 2 + (column + 0.5 - x) ** 2 < (3 * sigma) ** 2] = number
    far = (row >= size - 20) | (column >= size - 20) | (row < 20) | (column < 20)
    labels[far & (labels >= len(known))] = ELSEWHERE
    x, y = np.meshgrid(np.arange(60, 241, 30.0), np.arange(60, 241, 30.0))
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    weights = 1.0 + np.arange(len(centres)) % 3
    scene = Scene(image, labels, len(known), len(known) + 4, centres, weights, 0.5)
    return BlockOfBlobs(scene, outlines, np.full_like(image, 255))


@pytest.fixture(scope="session")
def tissue():
    """Return a scene of noise at 1 um with 25 square nuclei, for encoders that look at texture."""
    rng = np.random.default_rng(3)
    size = 240
    image = rng.integers(120, 250, (size, size, 3)).astype(np.uint8)
    labels = np.full((size, size), 25, np.int32)
    labels[:, 120:] = 26
    labels[:30] = ELSEWHERE
    for number in range(25):
        y, x = 40 + 38 * (number // 5) + number % 3, 20 + 42 * (number % 5)
        labels[y : y + 9, x : x + 8] = number
        image[y : y + 9, x : x + 8] = rng.integers(40, 120, 3)
    centres = rng.uniform(30, size - 30, (6, 2))
    scene = Scene(image, labels, 25, 27, centres, rng.uniform(0.5, 2, 6), 1.0)
    return scene, np.full_like(image, 190)
