"""Resampled figures against the plain loop over resamples."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.spots.residuals import column_pearson
from stimage_qupath.validation.bootstrap import BlockBootstrap, Column, Interval, mean_over_genes, resampled_pearson


@pytest.fixture
def boot():
    x, y = np.divmod(np.arange(72), 9)
    return BlockBootstrap.draw(np.stack([x, y], axis=1) * 200.0, replicates=40, seed=3, block_um=600.0)


def test_the_first_resample_is_the_section_and_blocks_stay_together(boot):
    assert (boot.weights[0] == 1).all()
    assert boot.weights.shape == (41, 72)
    for block in range(boot.block.max() + 1):
        of_block = boot.weights[:, boot.block == block]
        assert (of_block == of_block[:, :1]).all()
    np.testing.assert_array_equal(boot.times.sum(axis=1), boot.block.max() + 1)


def test_correlations_are_those_of_repeated_rows(boot):
    rng = np.random.default_rng(0)
    a = rng.poisson(2, (72, 5)).astype(float)
    b = a + rng.normal(0, 2, a.shape)
    found = resampled_pearson(boot, Column.of(boot, a), Column.of(boot, b))
    for row, weights in zip(found, boot.weights, strict=True):
        rows = np.repeat(np.arange(72), weights.astype(int))
        np.testing.assert_allclose(row, column_pearson(a[rows], b[rows]), rtol=1e-9)


def test_a_gene_that_is_constant_in_a_resample_has_no_figure_there(boot):
    a = np.zeros((72, 1))
    a[boot.block == 0] = np.arange((boot.block == 0).sum())[:, None] + 7.7
    b = np.random.default_rng(1).normal(size=(72, 1))
    found = resampled_pearson(boot, Column.of(boot, a), Column.of(boot, b))[:, 0]
    np.testing.assert_array_equal(np.isnan(found), boot.times[:, 0] == 0)
    flat = np.full((72, 1), 1 / 3)
    assert (resampled_pearson(boot, Column.of(boot, b), Column.of(boot, flat)) == 0).all()


def test_means_and_differences(boot):
    values = np.random.default_rng(2).normal(size=(72, 3))
    figure = boot.figure(values)
    assert figure.value == pytest.approx(values.mean())
    expected = [np.average(values.mean(axis=1), weights=w) for w in boot.weights[1:]]
    np.testing.assert_allclose(figure.replicates, expected, rtol=1e-10)
    np.testing.assert_allclose(figure.ci, np.percentile(expected, [2.5, 97.5]), rtol=1e-10)
    nothing = figure.minus(figure)
    assert (nothing.value, nothing.ci) == (0, (0, 0))
    both = Interval.mean_of([figure, Interval(0.0, (0.0, 0.0), np.zeros(40))])
    assert both.value == pytest.approx(figure.value / 2)
    np.testing.assert_allclose(both.ci, np.array(figure.ci) / 2)


def test_genes_without_figure_do_not_count():
    np.testing.assert_array_equal(mean_over_genes(np.array([[1.0, np.nan, 3.0], [np.nan] * 3])), [2, 0])
