"""Numbers that are explained, against the formulas of the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from stimage_qupath.attribution.per_nucleus import block_attribution, predictions_that_see
from stimage_qupath.attribution.scene import Contributions
from stimage_qupath.attribution.targets import Outputs
from stimage_qupath.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ensemble(make_ensemble):
    return make_ensemble(6, members=4)


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).normal(0, 3, (9, 6)).astype(np.float32)  # some beyond the limit of 4


def test_log_means_are_those_of_the_prediction(ensemble, features):
    found = Outputs(ensemble, ("DOWN", "UP")).of_arrays(features).reshape(9, 2, 4)
    mean = ensemble.predict(features, device=CPU).mean
    np.testing.assert_allclose(np.exp(found).mean(axis=2), mean[:, ::-1], rtol=1e-5)
    one = Outputs(ensemble, ("UP",), "member 2").of_arrays(features)
    np.testing.assert_array_equal(one[:, 0], found[:, 1, 2])


def test_the_epistemic_variance_is_that_of_the_prediction(ensemble, features):
    found = Outputs(ensemble, ("UP", "DOWN"), "epistemic").of_arrays(features)
    np.testing.assert_allclose(found, ensemble.predict(features, device=CPU).epistemic, rtol=1e-4)


def test_the_chance_to_be_high_is_the_tail_of_the_gamma(ensemble, features):
    outputs = Outputs(ensemble, ("UP",), "high")
    log_mean = Outputs(ensemble, ("UP",)).of_arrays(features)
    r = ensemble.total_count[:, 0]
    expected = special.gammaincc(r, r * 1.0 / np.exp(log_mean)).mean(axis=1)
    np.testing.assert_allclose(outputs.of_arrays(features)[:, 0], expected, rtol=1e-6)
    leaf = torch.from_numpy(features).double().requires_grad_()
    (slope,) = torch.autograd.grad(outputs(leaf).sum(), leaf)
    nudged = features.astype(np.float64)
    nudged[:, 3] += 1e-4
    change = (outputs(torch.from_numpy(nudged)) - outputs(torch.from_numpy(features).double()))[:, 0] / 1e-4
    np.testing.assert_allclose(slope[:, 3].numpy(), change.numpy(), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("target", ["log mean", "member 1", "epistemic"])
def test_slopes_are_those_of_the_outputs(ensemble, features, target):
    """Kinds times mix, against differentiation of every output, where features are within limits and beyond."""
    outputs = Outputs(ensemble, ("UP", "DOWN"), target)
    at = torch.from_numpy(features).double()
    slopes = outputs.slopes(at)
    found = torch.einsum("okf,kpf->pof", slopes.mix, slopes.shared)
    expected = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: outputs(x[None])[0], place, vectorize=False) for place in at]
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert (expected == 0).any()
    assert slopes.shared.shape[0] == (2 if target == "epistemic" else 1)


def test_a_target_that_there_is_not(ensemble):
    for target in ("mean", "member 4", "member x", "member"):
        with pytest.raises(UsageError, match=rf"'member 0' to 'member 3', found '{target}'"):
            Outputs(ensemble, ("UP",), target)
    with pytest.raises(UsageError, match=r"expected genes that can be called high, found DOWN"):
        Outputs(ensemble, ("UP", "DOWN"), "high")


def test_a_nucleus_gets_the_mean_over_the_predictions_that_see_it(blobs, linear, ask):
    question = ask(linear)
    scene = blobs.scene
    middles = np.array([(60.0, 60.0), (75.0, 60.0), (500.0, 500.0)])
    seen = predictions_that_see(scene, middles, 40)
    at = {tuple(c): w for c, w in zip(scene.centres.astype(int).tolist(), scene.weights, strict=True)}
    assert seen.tolist() == [at[60, 60], at[60, 60] + at[90, 60], 0]
    sums = np.arange(3 * 6, dtype=float).reshape(3, 6)
    small = type(scene)(scene.image, np.clip(scene.labels, -1, 2), 2, 3, scene.centres, scene.weights, 0.5)
    found = block_attribution(small, middles, Contributions(sums, np.full(6, 2.0)), question)
    np.testing.assert_allclose(found.value[0], np.array([1.0, 4.0]) / seen[0])  # means of 0, 1, 2 and of 3, 4, 5
    np.testing.assert_allclose(found.sd[1], np.full(2, np.sqrt(2 / 3)) / seen[1], rtol=1e-5)
    assert np.isnan(found.value[2]).all()
    np.testing.assert_allclose(found.contributed, [1 + 7 + 13, 4 + 10 + 16])
    np.testing.assert_allclose(found.amount, [[8, 14], [13, 16]])
    np.testing.assert_allclose(found.area_um2, small.pixels * 0.25)
