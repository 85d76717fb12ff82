"""Spatially variable genes: Moran's I of every gene at once.

``I = sum_i z_i sum_j w_ij z_j / sum_i z_i^2`` with ``z`` the values about their mean and ``w`` the neighbours of a
spot, each row summing to 1 (P. A. P. Moran, Biometrika 37:17-23, 1950; rows standardised: A. D. Cliff and J. K. Ord,
Spatial Processes, 1981). Without structure its mean is ``-1 / (n - 1)``; 1 would be the smoothest pattern there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from stimage_qupath.errors import UsageError
from stimage_qupath.results import Panel
from stimage_qupath.spots.genes import common_genes, detection_share, require_detected
from stimage_qupath.spots.residuals import CONSTANT_VARIANCE, pearson_residuals
from stimage_qupath.spots.section import Section

NEIGHBOURS: Final = 6
"""Of a spot in a honeycomb; on a square grid the four sides and two corners."""
BLOCK_GENES: Final = 2000
"""Genes held dense at once: 80 MB for 5,000 spots."""


def neighbour_weights(points: NDArray[np.float64], *, neighbours: int = NEIGHBOURS) -> sparse.csr_matrix:
    """Return the (spot, spot) weights of the nearest neighbours, each row summing to 1.

    Parameters
    ----------
    points
        (spot, 2) x and y.
    neighbours
        Of each spot, itself not counted; ties are broken by the search tree.

    Raises
    ------
    ValueError
        There are not more spots than neighbours.
    """
    n = len(points)
    if n <= neighbours:
        msg = f"expected more than {neighbours} spots for {neighbours} neighbours each, found {n}"
        raise ValueError(msg)
    _, nearest = cKDTree(points).query(points, k=neighbours + 1)
    # The spot itself is usually first, but not among spots at one place.
    own = nearest == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True
    others = nearest[~own].reshape(n, neighbours)
    rows = np.repeat(np.arange(n), neighbours)
    return sparse.csr_matrix((np.full(rows.size, 1 / neighbours), (rows, others.ravel())), shape=(n, n))


def morans_i(values: NDArray[np.float64], weights: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return Moran's I of each column, (gene,); 0 where a column is constant.

    Parameters
    ----------
    values
        (spot, gene).
    weights
        (spot, spot), every row summing to 1.
    """
    centred = values - values.mean(axis=0)
    spread = (centred**2).sum(axis=0)
    shared = np.einsum("ij,ij->j", centred, weights @ centred)
    varies = spread > CONSTANT_VARIANCE * len(values)
    return np.asarray(np.divide(shared, spread, out=np.zeros_like(spread), where=varies))


def section_morans_i(section: Section, genes: Sequence[str]) -> NDArray[np.float64]:
    """Return Moran's I of each gene in one section, (gene,), of Pearson residuals: depth has a pattern of its own."""
    weights = neighbour_weights(section.positions_px)
    totals = section.totals
    found = []
    for start in range(0, len(genes), BLOCK_GENES):
        counts = section.counts_of(tuple(genes[start : start + BLOCK_GENES]))
        rates = counts.sum(axis=0) / totals.sum()
        found.append(morans_i(pearson_residuals(counts, totals, rates), weights))
    return np.concatenate(found)


def spatial_genes(
    sections: Sequence[Section], *, number: int, min_detection: float = 0.2, keep: Sequence[str] = ()
) -> Panel:
    """Choose the genes with the strongest pattern in space, by the mean Moran's I over the training sections.

    Parameters
    ----------
    sections
        Training sections, each of more than six spots.
    number
        Genes to keep at the most.
    min_detection
        Share of spots with at least one count, in the section where it is highest.
    keep
        Genes that join the panel besides, if every section measured them.

    Raises
    ------
    UsageError
        A section is too small, or no gene is seen often enough.
    """
    small = [section.name for section in sections if len(section.positions_px) <= NEIGHBOURS]
    if small:
        msg = f"expected sections of more than {NEIGHBOURS} spots to find spatial genes, found {', '.join(small)}"
        raise UsageError(msg)
    common = common_genes(sections)
    eligible = require_detected(common, detection_share(sections, common), min_detection)
    score = np.mean([section_morans_i(section, eligible) for section in sections], axis=0)
    best = np.argsort(-score, kind="stable")[:number]
    return Panel(tuple(sorted({eligible[i] for i in best} | set(common).intersection(keep))))
