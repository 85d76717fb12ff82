"""Two variances at any depth by simulation, and warnings of ensembles that say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stimage_qupath.models.checks import collapsed_ensemble, constant_output
from stimage_qupath.models.uncertainty import total_variance

MEAN = np.array([[1.0, 20.0], [4.0, 22.0], [2.5, 35.0]])
TOTAL_COUNT = np.array([[0.7, 5.0], [2.0, 9.0], [1.5, 30.0]])


@pytest.mark.parametrize("depth", [0.25, 1.0, 3.0])
def test_the_two_variances_are_those_of_simulated_counts_at_that_depth(depth):
    """One draw: a member, a gamma rate at reference depth, a Poisson count at the depth."""
    rng = np.random.default_rng(0)
    member = rng.integers(0, 3, 400_000)
    rate = rng.gamma(TOTAL_COUNT[member], MEAN[member] / TOTAL_COUNT[member])
    counts = rng.poisson(depth * rate)
    mean, aleatoric, epistemic = total_variance(torch.tensor(MEAN)[:, None], torch.tensor(TOTAL_COUNT), depth)
    np.testing.assert_allclose(mean[0], counts.mean(axis=0), rtol=0.01)
    np.testing.assert_allclose((aleatoric + epistemic)[0], counts.var(axis=0), rtol=0.03)
    of_members = np.array([counts[member == m].mean(axis=0) for m in range(3)])
    np.testing.assert_allclose(epistemic[0], of_members.var(axis=0), rtol=0.06)


def test_depth_may_differ_between_places():
    mean, r = torch.tensor(MEAN)[:, None].repeat(1, 2, 1), torch.tensor(TOTAL_COUNT)
    together = total_variance(mean, r, torch.tensor([0.5, 2.0], dtype=torch.float64).view(2, 1))
    for place, depth in enumerate((0.5, 2.0)):
        for found, alone in zip(together, total_variance(mean[:, :1], r, depth), strict=True):
            torch.testing.assert_close(found[place], alone[0])


def test_a_constant_prediction_warns_with_the_genes():
    log_mean = np.random.default_rng(0).normal(0, 0.3, (50, 4))
    assert constant_output(log_mean, "ABCD") == []
    log_mean[:, :2] = 1.0
    (sentence,) = constant_output(log_mean, "ABCD")
    assert "found 2 of 4 genes constant to 1 % over 50 places (A, B)" in sentence
    assert constant_output(log_mean[:5], "ABCD") == []


def test_members_that_are_copies_warn():
    log_mean = np.random.default_rng(0).normal(size=(1, 30, 6)) + np.zeros((10, 1, 1))
    (sentence,) = collapsed_ensemble(log_mean)
    assert "expected members that differ, found 10" in sentence
    assert collapsed_ensemble(log_mean + np.random.default_rng(1).normal(0, 0.05, log_mean.shape)) == []


def test_one_member_warns_that_it_cannot_disagree():
    (sentence,) = collapsed_ensemble(np.zeros((1, 5, 2)))
    assert "at least two members, found one" in sentence
