"""Moran's I against its formula written out, a second library, and known patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.section import Section
from stimage_qupath.spots.spatial_genes import morans_i, neighbour_weights, spatial_genes


def test_by_the_formula_in_a_loop():
    rng = np.random.default_rng(0)
    points, values = rng.random((30, 2)), rng.normal(size=(30, 4))
    weights = np.zeros((30, 30))
    for i in range(30):
        distance = np.linalg.norm(points - points[i], axis=1)
        distance[i] = np.inf
        weights[i, np.argsort(distance)[:6]] = 1 / 6
    expected = []
    for column in values.T:
        z = column - column.mean()
        above = sum(weights[i, j] * z[i] * z[j] for i in range(30) for j in range(30))
        expected.append(30 / weights.sum() * above / (z**2).sum())
    np.testing.assert_allclose(neighbour_weights(points).toarray(), weights)
    np.testing.assert_allclose(morans_i(values, neighbour_weights(points)), expected, rtol=1e-12)


@pytest.mark.filterwarnings("default")
def test_by_a_second_library():
    esda = pytest.importorskip("esda")
    from libpysal.weights import KNN

    rng = np.random.default_rng(1)
    points, values = rng.random((80, 2)), rng.normal(size=(80, 3))
    graph = KNN(points, k=6)
    expected = [esda.Moran(column, graph, transformation="r", permutations=0).I for column in values.T]
    np.testing.assert_allclose(morans_i(values, neighbour_weights(points)), expected, rtol=1e-10)


def test_known_patterns():
    """A checkerboard by its four neighbours is -1, a constant 0; noise averages -1 / (n - 1)."""
    rows, columns = np.indices((20, 20))
    board = ((rows + columns) % 2).ravel().astype(float)
    inner = ((rows > 0) & (rows < 19) & (columns > 0) & (columns < 19)).ravel()
    points = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)
    four = neighbour_weights(points, neighbours=4)
    lag = four @ (board - board.mean())
    np.testing.assert_allclose(lag[inner], -(board - board.mean())[inner])
    assert morans_i(np.ones((400, 1)), four) == [0]
    noise = np.random.default_rng(2).normal(size=(400, 3000))
    assert morans_i(noise, four).mean() == pytest.approx(-1 / 399, abs=0.002)


def test_spots_at_one_place_are_not_their_own_neighbours():
    weights = neighbour_weights(np.zeros((10, 2)), neighbours=3)
    np.testing.assert_allclose(weights.diagonal(), 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    with pytest.raises(ValueError, match="expected more than 6 spots for 6 neighbours each, found 6"):
        neighbour_weights(np.zeros((6, 2)))


def make(genes, columns, points):
    counts = sparse.csr_matrix(np.stack(columns, axis=1).astype(float))
    return Section("S", "P", Path("x.png"), 0.5, genes, counts, points)


def test_the_smooth_gene_comes_before_the_noisy_one():
    """NOISY varies more, PATCH in space; DEPTH follows the total alone, RARE is seen nowhere near often enough."""
    rng = np.random.default_rng(3)
    rows, columns = np.indices((15, 15))
    points = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)
    depth = np.exp(np.sin(points[:, 0] / 3))
    patch = rng.poisson(depth * (10 + 10 * (points[:, 1] > 7)))
    noisy = rng.poisson(depth * rng.permutation(np.repeat([1, 60], [113, 112])))
    rest = rng.poisson(500 * depth)
    rare = np.where((points < 2).all(axis=1), 5, 0)
    section = make(("DEPTH", "NOISY", "PATCH", "RARE"), [rest, noisy, patch, rare], points)
    assert spatial_genes([section, section], number=1).genes == ("PATCH",)
    assert spatial_genes([section], number=1, keep=("RARE", "ABSENT")).genes == ("PATCH", "RARE")
    with pytest.raises(UsageError, match="expected sections of more than 6 spots to find spatial genes, found S"):
        spatial_genes([make(("A",), [np.ones(6)], points[:6])], number=1)
