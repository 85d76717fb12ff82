"""The regression of counts against its truth, and its dispersion."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.validation.nb_glm import TOTAL_COUNT_RANGE, fit_nb_glm, moment_total_count, section_means


def test_coefficients_are_those_the_counts_were_made_with():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 3))
    features[1500:] += 2.0  # a whole-section difference, which must not become an effect
    effect, section = np.array([[0.5, -0.3, 0.0], [0.2, 0.0, 0.4], [0.0, 0.1, -0.2]]), np.repeat([0, 1], 1500)
    within = features - np.repeat([features[:1500].mean(0), features[1500:].mean(0)], 1500, axis=0)
    totals = np.exp(rng.normal(8, 0.5, 3000))
    mean = totals[:, None] * np.array([0.004, 0.01, 0.002]) * np.exp(within @ effect)
    counts = rng.negative_binomial(4.0, 4.0 / (4.0 + mean)).astype(float)
    glm = fit_nb_glm(features, counts, totals, section, reference_total=1000.0)
    np.testing.assert_allclose(glm.left @ glm.right, effect, atol=0.05)
    at_mean = np.exp(glm(features.mean(axis=0)[None])[0])
    np.testing.assert_allclose(at_mean, [4, 10, 2], rtol=0.15)


def test_dispersion_by_moments():
    rng = np.random.default_rng(1)
    mean = np.exp(rng.uniform(1, 3, (40_000, 3)))
    counts = np.stack(
        [
            rng.negative_binomial(0.5, 0.5 / (0.5 + mean[:, 0])),
            rng.negative_binomial(5.0, 5.0 / (5.0 + mean[:, 1])),
            np.rint(mean[:, 2]),
        ],
        axis=1,
    ).astype(float)
    found = moment_total_count(counts, mean)
    np.testing.assert_allclose(found[:2], [0.5, 5.0], rtol=0.1)
    assert found[2] == TOTAL_COUNT_RANGE[1]


def test_means_of_a_section_have_its_shares():
    counts, totals = np.array([[1.0, 3], [3, 1], [0, 8]]), np.array([10.0, 30, 8])
    found = section_means(counts, totals, np.array([0, 0, 1]))
    np.testing.assert_allclose(found, [[1, 1], [3, 3], [1e-8, 8]])
    assert found.sum() == pytest.approx(counts.sum(), rel=1e-6)
