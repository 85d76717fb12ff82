"""Scores of members: by hand, and both variances against a simulation of members and counts."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.signatures.scores import MemberScores, member_scores


def test_scores_of_members_by_hand():
    mean = np.array([[[1.0, 3.0]], [[7.0, 0.0]]])  # two members, one place, two genes
    found = member_scores(mean, np.full((2, 2), np.inf), np.array([[0.5], [0.25]]))
    assert found.members[0, :, 0] == pytest.approx([0.5 * 1 + 0.25 * 2, 0.5 * 3])
    assert found.score == pytest.approx(np.array([[1.25]]))
    assert found.epistemic == pytest.approx(np.array([[0.0625]]))
    poisson = [0.25 * 1 / 4 + 0.0625 * 3 / 16, 0.25 * 7 / 64]
    assert found.aleatoric[0, 0] == pytest.approx(np.mean(poisson) / np.log(2) ** 2)
    assert found.sd[0, 0] == pytest.approx(np.sqrt(found.aleatoric[0, 0] + 0.0625))


def test_the_two_variances_add_up_to_that_of_simulated_scores():
    rng = np.random.default_rng(3)
    members, genes = 6, 30
    factor = rng.normal(0, 0.3, (members, 1, 1))  # members disagree on all genes alike
    mean = np.exp(rng.uniform(2.5, 4.5, (1, 1, genes)) + factor)
    total_count = rng.uniform(5, 20, (members, genes))
    weights = rng.uniform(0, 2, (genes, 1)) / genes
    found = member_scores(mean, total_count, weights)
    member = rng.integers(members, size=40_000)
    r = total_count[member]
    counts = rng.negative_binomial(r, r / (r + mean[member, 0]))
    simulated = np.log2(1 + counts) @ weights[:, 0]
    assert found.sd[0, 0] ** 2 == pytest.approx(simulated.var(), rel=0.05)
    assert found.epistemic[0, 0] > 5 * found.aleatoric[0, 0]


def test_the_delta_method_is_not_too_small_for_rare_genes():
    rng = np.random.default_rng(5)
    for mean, r in ((0.05, 2.0), (0.3, 2.0), (1.0, 5.0), (20.0, 10.0)):
        counts = rng.negative_binomial(r, r / (r + mean), size=200_000)
        found = member_scores(np.array([[[mean]]]), np.array([[r]]), np.ones((1, 1)))
        assert found.aleatoric[0, 0] > 0.85 * np.log2(1 + counts).var()


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected aleatoric of shape"):
        MemberScores(np.zeros((3, 2, 4)), np.zeros((3, 2)))
