"""Stain normalisation by images that were mixed from known stains."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from scipy.optimize import nnls

from stimage_qupath.errors import MissingPartError
from stimage_qupath.slide.stain_normalisation import METHODS, Appearance, Normaliser

WHITE = np.full((4, 4, 3), 255, np.uint8)
SLOW_METHOD = pytest.param("vahadane", marks=pytest.mark.flow)
EVERY_METHOD = [SLOW_METHOD if method == "vahadane" else method for method in METHODS]


def unit(*rows):
    return np.array(rows, float) / np.linalg.norm(rows, axis=1, keepdims=True)


PURPLE = unit((0.65, 0.70, 0.29), (0.20, 0.95, 0.25))
BLUISH = unit((0.75, 0.55, 0.35), (0.30, 0.90, 0.20))


def mixed(stains, strength=(1.0, 1.0), seed=0, n=20_000):
    """Return pixels of nuclei (mostly hematoxylin) and stroma (mostly eosin), and their concentrations."""
    rng = np.random.default_rng(seed)
    nucleus = rng.random(n) < 0.4
    hematoxylin = np.where(nucleus, rng.uniform(0.6, 1.6, n), rng.uniform(0, 0.05, n))
    eosin = np.where(nucleus, rng.uniform(0, 0.05, n), rng.uniform(0.3, 1.0, n))
    concentrations = np.stack([hematoxylin, eosin], axis=1) * strength
    return np.rint(256 * np.exp(-concentrations @ stains) - 1).clip(0, 255).astype(np.uint8), concentrations


def angle(a, b):
    return np.rad2deg(np.arccos(np.clip(np.sum(np.asarray(a) * b, axis=1), -1, 1)))


def need(method):
    if method == "macenko":
        pytest.importorskip("torchstain")


@pytest.mark.parametrize("method", ["macenko", SLOW_METHOD])
@pytest.mark.parametrize("stains", [PURPLE, BLUISH])
def test_the_stains_that_the_image_was_mixed_from_are_found(method, stains):
    need(method)
    pixels, concentrations = mixed(stains)
    found = Appearance.of_pixels(pixels, method)
    assert angle(found.stains, stains).max() < 3  # degrees
    np.testing.assert_allclose(found.strength, np.percentile(concentrations, 99, axis=0), rtol=0.08)


@pytest.mark.parametrize("method", ["macenko", SLOW_METHOD])
def test_the_same_tissue_in_other_stains_becomes_the_same_image(method):
    """The truth is known: the same concentrations, mixed with the target's stains."""
    need(method)
    ours, _ = mixed(PURPLE, (0.6, 1.2))
    truth, _ = mixed(BLUISH)
    normaliser = Normaliser(Appearance.of_pixels(ours, method), Appearance.of_pixels(truth, method))
    shown = normaliser.apply(ours[None])[0].astype(float)
    before, after = np.abs(ours - truth.astype(float)).mean(), np.abs(shown - truth).mean()
    assert after < 4
    assert after < before / 5


def test_reinhard_gives_the_tissue_the_targets_mean_and_deviation():
    ours, _ = mixed(PURPLE, (0.7, 0.8))
    target, _ = mixed(PURPLE, seed=1)
    shown = Normaliser(Appearance.of_pixels(ours, "reinhard"), Appearance.of_pixels(target, "reinhard")).apply(
        ours[None]
    )
    found = Appearance.of_pixels(shown[0], "reinhard")
    expected = Appearance.of_pixels(target, "reinhard")
    np.testing.assert_allclose(found.lab_mean, expected.lab_mean, atol=1)
    np.testing.assert_allclose(found.lab_sd, expected.lab_sd, rtol=0.1)


def test_reinhard_statistics_are_those_of_another_library():
    pytest.importorskip("torchstain")
    from torchstain.numpy.normalizers import NumpyReinhardNormalizer

    pixels, _ = mixed(PURPLE)
    theirs = NumpyReinhardNormalizer()
    theirs.fit(pixels[None])
    ours = Appearance.of_pixels(pixels, "reinhard")
    np.testing.assert_allclose(ours.lab_mean, theirs.target_means, atol=0.05)
    np.testing.assert_allclose(ours.lab_sd, theirs.target_stds, atol=0.05)


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_white_stays_white_and_its_own_target_changes_nothing(method):
    need(method)
    pixels, _ = mixed(PURPLE)
    own = Appearance.of_pixels(pixels, method)
    same = Normaliser(own, own)
    np.testing.assert_array_equal(same.apply(WHITE), WHITE)
    tolerance = 6 if method == "vahadane" else 2  # the lasso takes a little away from every stain
    assert np.abs(same.apply(pixels[None])[0].astype(int) - pixels).max() <= tolerance
    other = Normaliser(own, Appearance.of_pixels(mixed(BLUISH)[0], method))
    np.testing.assert_array_equal(other.apply(WHITE), WHITE)


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_a_pixel_does_not_depend_on_its_tile(method):
    need(method)
    pixels, _ = mixed(PURPLE)
    normaliser = Normaliser(Appearance.of_pixels(pixels, method), Appearance.of_pixels(mixed(BLUISH)[0], method))
    image = pixels[:6400].reshape(80, 80, 3)
    whole = normaliser.apply(image)
    np.testing.assert_array_equal(normaliser.apply(image[10:30, 40:80]), whole[10:30, 40:80])


def test_vahadane_concentrations_are_those_of_a_solver_for_non_negative_least_squares():
    """The lasso of non-negative concentrations is non-negative least squares with the penalty moved into the target."""
    from stimage_qupath.slide.stain_normalisation import _LASSO, _concentrations

    rng = np.random.default_rng(0)
    density = rng.uniform(-0.1, 1.5, (200, 3)).astype(np.float32)
    gram = PURPLE @ PURPLE.T
    root = np.linalg.cholesky(gram).T
    expected = [nnls(root, np.linalg.solve(root.T, PURPLE @ d - _LASSO))[0] for d in density.astype(float)]
    np.testing.assert_allclose(_concentrations(density, PURPLE, "vahadane"), expected, atol=1e-4)


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_the_card_gives_back_the_same_appearance(method):
    need(method)
    found = Appearance.of_pixels(mixed(PURPLE)[0], method)
    assert Appearance.from_dict(json.loads(json.dumps(found.to_dict() | {"sections": 3}))) == found


@pytest.mark.flow
def test_the_same_seed_gives_the_same_stains():
    pixels, _ = mixed(PURPLE)
    assert Appearance.of_pixels(pixels, "vahadane", seed=4) == Appearance.of_pixels(pixels, "vahadane", seed=4)


def test_nonsense_is_refused(monkeypatch):
    pixels, _ = mixed(PURPLE, n=2000)
    with pytest.raises(ValueError, match="expected at least 1000 tissue pixels of uint8 RGB, found \\(10, 3\\) uint8"):
        Appearance.of_pixels(pixels[:10], "reinhard")
    with pytest.raises(ValueError, match="expected a method out of macenko, reinhard, vahadane, found 'he'"):
        Appearance.from_dict({"method": "he"})
    with pytest.raises(ValueError, match="expected strength of shape"):
        Appearance.from_dict({"method": "macenko", "stains": PURPLE.tolist()})
    with pytest.raises(ValueError, match="expected strengths above 0"):
        Appearance.from_dict({"method": "macenko", "stains": PURPLE.tolist(), "strength": [1, 0]})
    reinhard, vahadane = (Appearance.of_pixels(pixels, m) for m in ("reinhard", "vahadane"))
    with pytest.raises(ValueError, match="expected one method, found reinhard and vahadane"):
        Normaliser(reinhard, vahadane)
    monkeypatch.setitem(sys.modules, "torchstain.numpy.normalizers", None)
    with pytest.raises(MissingPartError, match=r'run: pip install "stimage-qupath\[stain\]"'):
        Appearance.of_pixels(pixels, "macenko")
