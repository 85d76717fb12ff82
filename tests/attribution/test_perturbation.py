"""LIME and KernelSHAP on a window whose features add up: both must find what each adds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from stimage_qupath.attribution import ablation, kernel_shap, lime


@pytest.fixture(scope="module")
def few_places(blobs):
    scene = blobs.scene
    return dataclasses.replace(scene, centres=scene.centres[10:14], weights=scene.weights[10:14])


@pytest.fixture(scope="module")
def known(few_places, blobs, linear, ask):
    return ablation.attribute(few_places, blobs.filled, ask(linear)).sums


def test_kernel_shap_finds_the_terms_of_a_sum(few_places, blobs, linear, ask, known):
    found = kernel_shap.attribute(few_places, blobs.filled, ask(linear, samples=60))
    np.testing.assert_allclose(found.sums, known, rtol=0.02, atol=2e-3 * np.abs(known).max())
    assert (np.abs(found.gap) < 0.01 * np.abs(found.difference)).all()


def test_lime_ranks_them_alike(few_places, blobs, linear, ask, known):
    found = lime.attribute(few_places, blobs.filled, ask(linear, samples=120)).sums
    assert np.corrcoef(found.ravel(), known.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("method", [kernel_shap, lime])
def test_a_seed_fixes_the_samples_and_batches_change_nothing(few_places, blobs, linear, ask, method):
    def sums(**options):
        question = ask(linear, samples=30, genes=("UP",), target="member 0", **options)
        return method.attribute(few_places, blobs.filled, question).sums

    np.testing.assert_allclose(sums(batch_size=7), sums(batch_size=64), rtol=1e-5, atol=1e-7)
    assert not np.allclose(sums(seed=1), sums(seed=2), rtol=1e-6, atol=0)
