"""An encoder learnt further: what is learnt, on what, when it ends, and what stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy import sparse

from stimage_qupath.errors import CancelledError, UsageError
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.combined import CombinedEncoder
from stimage_qupath.models.context import ContextEncoder
from stimage_qupath.models.encoders import EncoderCard
from stimage_qupath.models.mobilenet import MobileNetTrunk
from stimage_qupath.models.tile_encoder import TileEncoder, weights_sha256
from stimage_qupath.results import Panel, never_cancelled
from stimage_qupath.spots.section import Section
from stimage_qupath.training import fine_tune as module
from stimage_qupath.training.fine_tune import FineTuneSettings, choose_held_out, fine_tune, rate_at
from stimage_qupath.training.spot_views import turned
from stimage_qupath.training.tunable import as_tunable, layer_rates, layers_of

CPU = torch.device("cpu")
GENES = ("DARK", "PALE", "FLAT")
SIDE = 40


def section(folder, number, *, patient=None, counts_seed=None):
    """Twenty spots on purple and pink squares; DARK follows the purple, PALE the pink."""
    rng = np.random.default_rng(number)
    dark = rng.random((4, 5)) < 0.5
    pixels = np.where(dark.repeat(SIDE, 0).repeat(SIDE, 1)[..., None], (110, 60, 150), (225, 160, 190))
    path = folder / f"S{number}.png"
    if not path.exists():
        noisy = (pixels + rng.integers(-12, 12, pixels.shape)).astype(np.uint8)
        Image.fromarray(noisy).save(path, compress_level=1)
    share = np.where(dark.reshape(-1, 1), (0.5, 0.1, 0.4), (0.1, 0.5, 0.4))
    counts = np.random.default_rng((number, 1)).poisson(400 * share)
    if counts_seed is not None:
        counts = np.random.default_rng(counts_seed).integers(100, 900, counts.shape)
    rows, columns = np.divmod(np.arange(20), 5)
    centres = (np.stack([columns, rows], axis=1) + 0.5) * SIDE
    return Section(
        f"S{number}", patient or f"P{number}", path, 0.5, GENES, sparse.csr_matrix(counts.astype(float)), centres
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sections")


@pytest.fixture(scope="module")
def sections(folder):
    return [section(folder, number) for number in range(3)]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False, num_classes=0, img_size=32)
    half = (0.5, 0.5, 0.5)
    card = EncoderCard("tiny", "test", "none", False, 0.5, 32, network.num_features, mean=half, std=half)
    return TileEncoder(network, card)


SETTINGS = FineTuneSettings(epochs=4, learning_rate=1e-3, batch_size=10, threads=1)


def tune(encoder, sections, **options):
    changes = {k: options.pop(k) for k in tuple(options) if k in FineTuneSettings.__dataclass_fields__}
    return fine_tune(encoder, sections, Panel(GENES), settings=replace(SETTINGS, **changes), device=CPU, **options)


@pytest.fixture(scope="module")
def tuned(encoder, sections):
    return tune(encoder, sections, epochs=8)


def test_the_likelihood_grows_and_the_best_epoch_of_unseen_patients_is_kept(tuned):
    assert tuned.training_loss[-1] < tuned.training_loss[0] - 0.05
    assert min(tuned.validation_loss) < tuned.validation_loss[0]
    assert tuned.best_epoch == int(np.argmin(tuned.validation_loss)) > 0
    assert len(tuned.validation_loss) == len(tuned.training_loss) + 1
    assert tuned.held_out_level == "patient"
    assert len(tuned.held_out) == 1


def test_the_encoder_itself_stays_as_it_was(encoder, tuned):
    assert encoder.card.weights_sha256 == weights_sha256(encoder.network.state_dict())
    assert tuned.sha256 != encoder.card.weights_sha256
    assert not any(p.requires_grad for p in encoder.network.parameters())


def test_the_same_seed_gives_the_same_weights(encoder, sections):
    one, same = (tune(encoder, sections, epochs=1, threads=n) for n in (1, 2))
    assert one.training_loss == same.training_loss
    assert one.sha256 == same.sha256


def scored(monkeypatch, values):
    """Let validation say ``values`` in turn; return the weights at each time it was asked."""
    states, left = [], iter(values)

    def score(fit, frames):
        states.append(weights_sha256(fit._tuned.network.state_dict()))
        return next(left)

    monkeypatch.setattr(module._Fit, "_score", score)
    return states


def test_training_ends_when_patience_does_and_the_best_weights_come_back(encoder, sections, monkeypatch):
    states = scored(monkeypatch, [3.0, 2.0, 2.5, 2.1, 1.0])
    found = tune(encoder, sections, epochs=4, patience=2)
    assert len(found.training_loss) == 3  # of four: two in a row were no better
    assert found.best_epoch == 1
    assert found.sha256 == states[1]
    assert len(set(states)) == 4


def test_counts_of_what_is_held_out_matter_only_through_stopping(folder, encoder, sections, monkeypatch):
    _, (patient,) = choose_held_out(sections, seed=0)
    number = int(patient[1:])
    changed = [section(folder, n, counts_seed=7 if n == number else None) for n in range(3)]
    scored(monkeypatch, [3.0, 2.0, 1.0])
    before = tune(encoder, sections, epochs=2)
    scored(monkeypatch, [3.0, 2.0, 1.0])
    after = tune(encoder, changed, epochs=2)
    assert before.best_epoch == after.best_epoch == 2
    assert before.sha256 == after.sha256
    assert before.training_loss == after.training_loss
    scored(monkeypatch, [3.0, 2.0, 1.0])
    other = [section(folder, n, counts_seed=7 if n != number else None) for n in range(3)]
    assert tune(encoder, other, epochs=2).sha256 != before.sha256


def test_layers_with_rate_0_stay(encoder, sections, monkeypatch):
    scored(monkeypatch, [2.0, 1.0])
    found = tune(encoder, sections, epochs=1, layer_decay=0.0).weights
    before = encoder.network.state_dict()
    changed = {name for name in before if not torch.equal(found[name], before[name])}
    assert changed
    assert not any(name.startswith(("patch_embed", "cls_token", "pos_embed", "blocks")) for name in changed)
    scored(monkeypatch, [2.0, 1.0])
    assert tune(encoder, sections, epochs=1, learning_rate=0.0).sha256 == encoder.card.weights_sha256


def test_context_is_learnt_through_its_maps(sections, monkeypatch):
    states = scored(monkeypatch, [2.0, 1.0])
    encoder = ContextEncoder()
    found = tune(encoder, sections, epochs=1)
    assert states[0] != states[1]
    image = np.array(Image.open(sections[0].image))
    centres = np.array([[100.0, 80.0]])
    learnt = encoder.with_weights(found.weights, images_seen=frozenset({"a"}))
    options = {"device": CPU, "batch_size": 1, "cancelled": never_cancelled}
    assert (learnt.encode(image, centres, **options) != encoder.encode(image, centres, **options)).any()
    assert learnt.card.weights_sha256 == found.sha256 != encoder.card.weights_sha256
    assert learnt.images_seen == {"a"}
    assert encoder.images_seen == frozenset()


def test_patients_are_held_out_where_there_are_three_else_sections(folder):
    five = [section(folder, n) for n in range(5)]
    assert choose_held_out(five, seed=0)[0] == "patient"
    of_two = [section(folder, n, patient="AB"[n % 2]) for n in range(5)]
    level, names = choose_held_out(of_two, seed=0)
    assert level == "section"
    assert names[0] in {f"S{n}" for n in range(5)}
    serial = [section(folder, n, patient="ABC"[n % 3]) for n in range(5)]
    assert choose_held_out(serial, seed=0)[1][0] in "ABC"
    with pytest.raises(UsageError, match="at least two training sections to fine-tune an encoder, found one"):
        choose_held_out(five[:1], seed=0)


@pytest.mark.parametrize("one", [ColourEncoder(), CombinedEncoder([ColourEncoder(), ContextEncoder()])])
def test_encoders_without_gradients_are_refused(one, sections):
    with pytest.raises(UsageError, match=r"expected an encoder that is a network .* found colour"):
        tune(one, sections)


def test_layers_are_numbered_from_the_pixels_and_learn_more_slowly_there():
    trunk = MobileNetTrunk()
    layers = layers_of(trunk)
    assert len(layers) == 14  # the stem and thirteen blocks
    assert layers[0][0] is trunk.stem.weight
    assert layers[-1][-1] is trunk.blocks[12].project.bias
    assert sum(map(len, layers)) == len(list(trunk.parameters()))
    groups = layer_rates(trunk, 1e-3, 0.5)
    assert [g["lr"] for g in groups] == [1e-3 * 0.5**k for k in range(14)]
    assert groups[13]["params"][0] is trunk.stem.weight
    vit = layers_of(timm.create_model("test_vit", pretrained=False, num_classes=0))
    depth = len(timm.create_model("test_vit", pretrained=False).blocks)
    assert len(vit) == depth + 2  # what comes before the blocks, and the norm after


def test_batch_normalisation_keeps_its_statistics(sections, monkeypatch):
    scored(monkeypatch, [2.0, 1.0])
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    card = EncoderCard("bn", "test", "none", False, 0.5, 32, network.num_features, mean=(0.5,) * 3, std=(0.5,) * 3)
    encoder = TileEncoder(network, card)
    found, before = tune(encoder, sections, epochs=1).weights, encoder.network.state_dict()
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(found[name], before[name]) for name in statistics)
    assert any(not torch.equal(found[name], before[name]) for name in before)


def test_a_place_keeps_its_pixel_however_the_image_is_turned():
    image = np.arange(12 * 20 * 3, dtype=np.float32).reshape(12, 20, 3)
    centres = np.array([[3.5, 7.5], [19.5, 0.5]])
    seen = set()
    for quarters in range(4):
        for mirrored in (False, True):
            view, there = turned(image, centres, quarters=quarters, mirrored=mirrored)
            for (x, y), (u, v) in zip(centres.astype(int), there.astype(int), strict=True):
                np.testing.assert_array_equal(view[v, u], image[y, x])
            seen.add(view.tobytes())
    assert len(seen) == 8


def test_rates_rise_and_fall_to_nothing():
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[5] == 1
    assert rates[52] == pytest.approx((1 + np.cos(np.pi * 47 / 95)) / 2)
    assert rates[-1] < 0.001


def test_cancelling_ends_it_within_a_batch(encoder, sections):
    calls = iter(range(1000))
    with pytest.raises(CancelledError):
        tune(encoder, sections, cancelled=lambda: next(calls) >= 110)
    assert next(calls) < 115


def test_progress_counts_epochs(encoder, sections):
    said = []
    tune(encoder, sections, epochs=1, on_progress=lambda *args: said.append(args[:3]))
    assert said == [("fine-tune", 0, 1), ("fine-tune", 1, 1), ("fine-tune", 1, 1)]


def test_nonsense_is_refused():
    for changes in ({"epochs": 0}, {"learning_rate": -1.0}, {"layer_decay": 1.5}, {"patience": 0}):
        with pytest.raises(ValueError, match="expected whole numbers of at least 1 and rates between 0 and 1"):
            FineTuneSettings(**changes)


def test_half_precision_is_asked_for_on_cuda_alone(encoder):
    assert as_tunable(encoder, CPU)._encoder.card.precision == "float32"
