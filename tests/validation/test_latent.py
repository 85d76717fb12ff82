"""Places in the plane: principal components against scikit-learn, UMAP where it is installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from stimage_qupath.errors import MissingPartError, UsageError
from stimage_qupath.validation.latent import principal_components, umap


def groups(count=60):
    rng = np.random.default_rng(0)
    middle = np.repeat(rng.normal(0, 8, (3, 12)), count // 3, axis=0)
    return (middle + rng.normal(size=(count, 12))).astype(np.float32)


def test_components_are_those_of_scikit_learn_but_for_the_sign():
    features = groups()
    expected = PCA(2, svd_solver="full").fit_transform(StandardScaler().fit_transform(features.astype(np.float64)))
    np.testing.assert_allclose(np.abs(principal_components(features, 2)), np.abs(expected), rtol=1e-6, atol=1e-8)


def test_the_sign_does_not_hang_on_the_order_of_places():
    features = groups()
    order = np.random.default_rng(1).permutation(len(features))
    found = principal_components(features, 2)
    np.testing.assert_allclose(principal_components(features[order], 2), found[order], rtol=1e-6, atol=1e-8)


def test_features_that_do_not_vary_and_components_that_there_are_not():
    features = np.hstack([groups(), np.full((60, 3), 7.0)])
    np.testing.assert_allclose(principal_components(features, 2), principal_components(groups(), 2), atol=1e-8)
    found = principal_components(np.array([[0.0], [2.0], [4.0]]), 2)
    np.testing.assert_allclose(found, [[-np.sqrt(1.5), 0], [0, 0], [np.sqrt(1.5), 0]], atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_umap_keeps_groups_together_and_follows_the_seed():
    pytest.importorskip("umap")
    features = groups()
    found = umap(features, seed=3)
    middle = found.reshape(3, 20, 2).mean(axis=1)
    nearest = np.linalg.norm(found[:, None] - middle, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, np.repeat(np.arange(3), 20))
    np.testing.assert_array_equal(umap(features, seed=3), found)


def test_without_umap_learn_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingPartError, match=r"umap-learn for UMAP, found none; run: pip install .*\[latent\]"):
        umap(groups(), seed=0)


def test_too_few_places_for_umap():
    pytest.importorskip("umap")
    with pytest.raises(UsageError, match="expected more than 15 places for UMAP, found 12"):
        umap(groups()[:12], seed=0)
