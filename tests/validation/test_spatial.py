"""Patterns in space, against hand arithmetic, enumeration and esda."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import sparse, stats

from stimage_qupath.validation import spatial


def chain(n):
    """Return n places in a row, each with its neighbours."""
    weights = np.zeros((n, n))
    for i in range(n):
        near = [j for j in (i - 1, i + 1) if 0 <= j < n]
        weights[i, near] = 1 / len(near)
    return sparse.csr_matrix(weights)


def wave(n, seed=0):
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 1000, (n, 2))
    return places, np.sin(places[:, 0] / 90) + 0.3 * rng.normal(size=n)


def as_esda(weights):
    graph = pytest.importorskip("libpysal.graph").Graph
    coo = weights.tocoo()
    return graph.from_arrays(coo.row, coo.col, coo.data)


def test_morans_i_of_a_chain_is_that_of_the_hand():
    # 1, 2, 3: z = -1, 0, 1; w z = 0, 0, 0, so I = 0. Alternating 1, -1, 1, -1: w z = -z, so I = -1.
    values = np.array([[1.0, 1], [2, -1], [3, 1]])
    assert spatial.morans_i(values[:, :1], chain(3))[0] == pytest.approx(0)
    alternating = np.array([[1.0], [-1], [1], [-1]])
    assert spatial.moran_test(alternating, chain(4)).value[0] == pytest.approx(-1)


def test_mean_and_variance_are_those_of_all_permutations():
    values = np.array([0.3, 1.7, -2.0, 0.4, 5.0, 1.1])
    weights = chain(6)
    every = np.array(list(itertools.permutations(values))).T
    found = spatial.morans_i(every, weights)
    test = spatial.moran_test(values[:, None], weights)
    assert found.mean() == pytest.approx(test.expected)
    assert (test.value[0] - test.expected) / found.std() == pytest.approx(test.z[0])
    assert test.q[0] == pytest.approx(2 * stats.norm.sf(abs(test.z[0])))


def test_a_constant_gene_has_no_pattern():
    test = spatial.moran_test(np.column_stack([np.ones(30), np.arange(30.0)]), chain(30))
    assert test.value[0] == 0
    assert np.isnan(test.z[0])
    assert test.q[0] == 1
    assert test.q[1] < 1e-5
    clusters = spatial.local_clusters(np.ones(30), spatial.neighbour_weights(np.c_[np.arange(30.0), np.zeros(30)]))
    assert not clusters.code.any()


def test_few_places_are_refused():
    with pytest.raises(ValueError, match=r"at least four places .* found 3"):
        spatial.moran_test(np.arange(3.0)[:, None], chain(3))


def test_global_figures_are_those_of_esda():
    moran = pytest.importorskip("esda.moran")
    places, values = wave(120)
    other = np.random.default_rng(3).normal(size=120) + values
    weights = spatial.neighbour_weights(places, neighbours=5)
    theirs = moran.Moran(values, as_esda(weights), transformation="O", permutations=0)
    ours = spatial.moran_test(values[:, None], weights)
    assert ours.value[0] == pytest.approx(theirs.I, abs=1e-12)
    assert ours.z[0] == pytest.approx(theirs.z_rand, rel=1e-9)
    both = moran.Moran_BV(values, other, as_esda(weights), transformation="O", permutations=0)
    assert spatial.bivariate_moran(values[:, None], other[:, None], weights)[0] == pytest.approx(both.I, abs=1e-12)


def test_the_bivariate_figure_of_a_gene_with_itself_is_its_own():
    places, values = wave(80)
    weights = spatial.neighbour_weights(places)
    own = spatial.bivariate_moran(values[:, None], values[:, None], weights)
    assert own == pytest.approx(spatial.morans_i(values[:, None], weights))
    assert spatial.bivariate_moran(values[:, None], np.zeros((80, 1)), weights)[0] == 0


def test_draws_of_neighbours_are_those_of_the_definition():
    places, values = wave(40)
    weights = spatial.neighbour_weights(places, neighbours=4)
    z, n = values - values.mean(), 40
    found = spatial.local_clusters(values, weights, permutations=99, seed=5)
    rng, lag = np.random.default_rng(5), weights @ z
    above = np.zeros(n)
    for _ in range(99):
        drawn = rng.choice(n - 1, 4, replace=False)
        for i in range(n):
            others = np.delete(z, i)
            above[i] += z[i] * others[drawn].mean() >= z[i] * lag[i] - 1e-12
    p = np.minimum(1, 2 * (np.minimum(above, 99 - above) + 1) / 100)
    assert found.p == pytest.approx(p)
    assert found.value == pytest.approx((n - 1) / n * z * lag / z.var())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numba, which esda calls
def test_local_figures_are_those_of_esda():
    """Slow because esda compiles itself first."""
    moran = pytest.importorskip("esda.moran")
    places, values = wave(400)
    weights = spatial.neighbour_weights(places)
    ours = spatial.local_clusters(values, weights, permutations=999, seed=1)
    theirs = moran.Moran_Local(values, as_esda(weights), transformation="O", permutations=999, seed=1)
    assert ours.value == pytest.approx(theirs.Is, rel=1e-9)
    # Their p is of one side; both draw 999 times, so that 0.5 differs by four standard errors at the most.
    assert np.abs(ours.p / 2 - theirs.p_sim).max() < 4 * np.sqrt(0.25 / 999) * np.sqrt(2)
    significant = ours.code > 0
    their_quadrant = np.array([0, 1, 4, 2, 3])[theirs.q]  # theirs: 1 HH, 2 LH, 3 LL, 4 HL
    assert significant.sum() > 100
    assert (ours.code == their_quadrant)[significant].all()


def test_noise_has_no_clusters_and_a_wave_has():
    places, values = wave(2000)
    weights = spatial.neighbour_weights(places, neighbours=spatial.NUCLEUS_NEIGHBOURS)
    noise = np.random.default_rng(1).normal(size=2000)
    assert (spatial.local_clusters(noise, weights).code > 0).mean() < 0.01
    clusters = spatial.local_clusters(values, weights)
    crest, trough = np.sin(places[:, 0] / 90) > 0.8, np.sin(places[:, 0] / 90) < -0.8
    assert (clusters.code[crest] == 1).mean() > 0.9
    assert (clusters.code[trough] == 2).mean() > 0.9
    again = spatial.local_clusters(values, weights)
    assert (again.p == clusters.p).all()


def test_partners_in_a_ring_are_as_far_apart_as_asked():
    places, values = wave(1500)
    weights = spatial.ring_weights(places, inner_um=200, outer_um=300, seed=2)
    assert weights is not None
    coo = weights.tocoo()
    apart = np.linalg.norm(places[coo.row] - places[coo.col], axis=1)
    assert 200 <= apart.min() <= apart.max() <= 300
    sums = np.asarray(weights.sum(axis=1)).ravel()
    assert sums.sum() == pytest.approx(1500)
    assert sums[sums > 0] == pytest.approx(1500 / (sums > 0).sum())
    assert np.diff(weights.indptr).max() <= spatial.NUCLEUS_NEIGHBOURS
    near = spatial.morans_i(values[:, None], spatial.neighbour_weights(places))[0]
    assert spatial.morans_i(values[:, None], weights)[0] < 0.2 < 0.7 < near
    assert spatial.ring_weights(places, inner_um=5000, outer_um=6000) is None
