"""Gradient methods on networks whose derivatives are written down by hand, and by captum itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from scipy import ndimage

from stimage_qupath.attribution import (
    ablation,
    gradient_shap,
    guided_grad_cam,
    input_x_gradient,
    integrated_gradients,
    saliency,
)
from stimage_qupath.attribution.scene import Scene
from stimage_qupath.errors import UsageError
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.context import ContextEncoder

WEIGHT = np.array([[[2.0, -1.0], [0.5, 0.0]], [[4.0, -3.0], [0.0, 1.0]]])
"""(member, feature, gene)"""
SLOPE = np.array([[0.5, -20, -0.5], [0, -40, 0], [0, 10, 0], [1, 30, -1]]) / 255 / 1600
"""(output, colour): by hand, over 40 x 40 px: weight of absorbed green times -10, that of red minus blue as it is."""
OF_GENES = SLOPE.reshape(2, 2, 3).mean(axis=1)
"""(gene, colour), mean over members."""


@pytest.fixture(scope="module")
def few(blobs):
    """Return the scene with the places next to five of its nuclei."""
    apart = np.linalg.norm(blobs.outlines.centroids_px[:, None] - blobs.scene.centres, axis=2)
    chosen = np.unique(apart.argmin(axis=1))[:5]
    return dataclasses.replace(blobs.scene, centres=blobs.scene.centres[chosen], weights=blobs.scene.weights[chosen])


def in_windows(scene, per_pixel):
    """Sum (row, column, output) over features and places, by a plain loop."""
    sums = np.zeros((scene.features, per_pixel.shape[-1]))
    for (x, y), weight in zip(scene.centres.astype(int), scene.weights, strict=True):
        box = np.s_[y - 20 : y + 20, x - 20 : x + 20]
        for feature in np.unique(scene.labels[box][scene.labels[box] >= 0]):
            sums[feature] += weight * per_pixel[box][scene.labels[box] == feature].sum(axis=0)
    return sums


def test_saliency_is_the_slope_whichever_way(blobs, linear, ask, make_ensemble):
    question = ask(linear, ensemble=make_ensemble(2, weight=WEIGHT))
    found = saliency.attribute(blobs.scene, blobs.filled, question)
    slope = np.broadcast_to(np.abs(OF_GENES).sum(axis=1), (300, 300, 2))
    np.testing.assert_allclose(found.sums, in_windows(blobs.scene, slope), rtol=1e-4)


@pytest.mark.parametrize("method", [input_x_gradient, integrated_gradients])
def test_on_a_linear_network_it_is_the_change_times_the_slope(blobs, linear, ask, make_ensemble, method):
    question = ask(linear, ensemble=make_ensemble(2, weight=WEIGHT))
    found = method.attribute(blobs.scene, blobs.filled, question)
    change = blobs.scene.image.astype(float) - blobs.filled
    expected = in_windows(blobs.scene, change @ OF_GENES.T)
    np.testing.assert_allclose(found.sums, expected, rtol=1e-3, atol=1e-4)
    of_members = ablation.attribute(blobs.scene, blobs.filled, question).sums.reshape(-1, 2, 2)
    np.testing.assert_allclose(found.sums, of_members.mean(axis=2), atol=2e-4)
    assert (np.abs(found.gap) < 1e-3 * np.abs(found.difference)).all()


def test_integrated_gradients_are_complete_within_one_percent(few, blobs, convolutional, ask):
    found = integrated_gradients.attribute(few, blobs.filled, ask(convolutional))
    assert (np.abs(found.gap) < 0.01 * np.abs(found.difference)).all()
    assert np.abs(found.difference).min() > 1e-3


def test_members_back_propagated_once_are_their_mean_by_captum(few, blobs, convolutional, ask):
    question = ask(convolutional)
    found = integrated_gradients.attribute(few, blobs.filled, question).sums
    pictures, filled = (
        torch.from_numpy(p).permute(2, 0, 1).float()
        for p in (few.image, few.without(np.ones(few.features, bool), blobs.filled))
    )

    def outputs(tiles):
        return question.outputs(convolutional.features(tiles, torch.tensor([[20.0, 20.0]])))[:, 0]

    expected = np.zeros((few.features, question.outputs.count))
    for (x, y), weight in zip(few.centres.astype(int), few.weights, strict=True):
        box = np.s_[y - 20 : y + 20, x - 20 : x + 20]
        for k in range(question.outputs.count):
            one = IntegratedGradients(outputs).attribute(
                pictures[:, *box][None], baselines=filled[:, *box][None], target=k, n_steps=100
            )
            by_pixel = one[0].sum(dim=0).numpy()
            for feature in np.unique(few.labels[box][few.labels[box] >= 0]):
                expected[feature, k] += weight * by_pixel[few.labels[box] == feature].sum()
    of_genes = expected.reshape(-1, 2, 3).mean(axis=2)
    np.testing.assert_allclose(found, of_genes, rtol=0.02, atol=0.01 * np.abs(of_genes).max())


@pytest.mark.parametrize("method", [saliency, input_x_gradient, integrated_gradients])
def test_batch_size_changes_nothing(few, blobs, convolutional, ask, method):
    one, many = (method.attribute(few, blobs.filled, ask(convolutional, batch_size=size)).sums for size in (1, 64))
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-7)


def test_gradient_shap_comes_near_integrated_gradients(few, blobs, convolutional, ask):
    question = ask(convolutional, genes=("UP",), target="member 0")
    by_draws = gradient_shap.attribute(few, blobs.filled, question).sums
    by_steps = integrated_gradients.attribute(few, blobs.filled, question).sums
    assert np.corrcoef(by_draws.ravel(), by_steps.ravel())[0, 1] > 0.98
    np.testing.assert_array_equal(by_draws, gradient_shap.attribute(few, blobs.filled, question).sums)


def test_guided_grad_cam_needs_convolutions(few, blobs, convolutional, linear, ask):
    found = guided_grad_cam.attribute(few, blobs.filled, ask(convolutional, genes=("UP",), target="member 0"))
    assert np.isfinite(found.sums).all()
    assert np.abs(found.sums).max() > 0
    with pytest.raises(UsageError, match=r"expected a convolutional network for guided Grad-CAM"):
        guided_grad_cam.attribute(few, blobs.filled, ask(linear))


def test_statistics_of_colour_pass_no_gradients(blobs, ask):
    with pytest.raises(UsageError, match=r"expected an encoder with gradients for this method, found colour"):
        integrated_gradients.attribute(blobs.scene, blobs.filled, ask(ColourEncoder()))


@pytest.fixture(scope="module")
def smooth(make_ensemble):
    """Return a small scene for the encoder ``context``, a fill and the encoder with heads that stay within limits."""
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.uniform(0, 255, (112, 96, 3)), (4, 4, 0)).astype(np.uint8)
    labels = np.zeros((112, 96), np.int32)
    labels[40:60, 30:50] = 1
    scene = Scene(image, labels, 1, 2, np.array([[50.0, 60.0], [20.0, 30.0]]), np.array([1.0, 2.5]), 1.0)
    encoder = ContextEncoder()
    return scene, np.full_like(image, 200), encoder, make_ensemble(encoder.card.width, sd=20.0)


@pytest.mark.slow
def test_the_default_encoder_is_explained_from_its_own_pixels(smooth, ask):
    """One pass over the block serves all places; completeness as on tiles, and no member is back-propagated twice."""
    scene, filled, encoder, ensemble = smooth
    found = integrated_gradients.attribute(scene, filled, ask(encoder, ensemble=ensemble))
    assert found.sums.shape == (2, 2)
    assert (np.abs(found.gap) < 0.01 * np.abs(found.difference)).all()
    by_member = ask(encoder, ensemble=ensemble).difference(scene, filled).reshape(2, 3).mean(axis=1)
    np.testing.assert_allclose(found.difference, by_member, rtol=1e-3)


def test_around_the_features_is_the_gradient_of_the_whole(smooth, ask):
    """The slope of the weighted outputs at the features' pixels, by one backward pass over the whole picture."""
    scene, filled, encoder, ensemble = smooth
    question = ask(encoder, ensemble=ensemble)
    found = saliency.attribute(scene, filled, question).sums
    pixels = torch.from_numpy(scene.image).permute(2, 0, 1).float().requires_grad_()
    features = encoder.features(pixels, torch.from_numpy(scene.centres).float())
    outputs = torch.from_numpy(scene.weights).float() @ question.outputs.by_gene(features)
    for gene in range(2):
        (slope,) = torch.autograd.grad(outputs[gene], pixels, retain_graph=True)
        by_pixel = slope.abs().sum(dim=0).numpy()
        expected = [by_pixel[scene.labels == feature].sum() for feature in range(2)]
        np.testing.assert_allclose(found[:, gene], expected, rtol=1e-3)
