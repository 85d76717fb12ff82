"""Patterns in space of a run's predictions: Moran's I, pairs of genes, local clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.export.run_genes import GeneValues
from stimage_qupath.report.run_report_layers import Layer
from stimage_qupath.validation.spatial import (
    CLUSTERS,
    NUCLEUS_NEIGHBOURS,
    bivariate_moran,
    local_clusters,
    moran_test,
    neighbour_weights,
    ring_weights,
)

MOST_GENES: Final = 12
"""Pairs and clusters of more genes no page shows."""
MOST_DRAWS: Final = 5e7
"""Places times permutations: above 50,000 nuclei there are fewer permutations, so that a gene takes about a second."""
LEAST_PERMUTATIONS: Final = 99
RING: Final = 1.5
"""Outer radius of the ring beyond the window, in windows."""
COLOURS: Final = ("#b9bec4", "#d55e00", "#0072b2", "#f0b070", "#8cc8ea")
"""Of the clusters, in their order."""


@dataclass(frozen=True, slots=True)
class RunPatterns:
    """What is known of the patterns.

    Attributes
    ----------
    record
        As ``spatial.json`` holds it; empty where there was nothing to test.
    clusters
        Gene to a layer of the viewer.
    """

    record: dict[str, Any] = field(default_factory=dict)
    clusters: Mapping[str, Layer] = field(default_factory=dict)


def run_patterns(
    genes: Mapping[str, GeneValues],
    positions_um: NDArray[np.float64],
    *,
    window_um: float,
    permutations: int,
    seed: int,
) -> RunPatterns:
    """Return the patterns of a run's genes.

    Parameters
    ----------
    genes
        Values of all nuclei; nuclei without a prediction are left out.
    positions_um
        (nucleus, 2).
    window_um
        Side of what the model looks at: nuclei nearer than that share input.
    permutations, seed
        Of the local test, and the seed of every draw.
    """
    if not genes:
        return RunPatterns()
    means = np.column_stack([values.mean for values in genes.values()])
    known: NDArray[np.bool_] = np.asarray(np.isfinite(means).all(axis=1))
    if known.sum() <= NUCLEUS_NEIGHBOURS + 1:
        return RunPatterns()
    logs, places = np.log(np.maximum(means[known], 1e-9)), positions_um[known]
    near = neighbour_weights(places, neighbours=NUCLEUS_NEIGHBOURS)
    far = ring_weights(places, inner_um=window_um, outer_um=RING * window_um, seed=seed)
    test = moran_test(logs, near)
    beyond = np.full(len(genes), np.nan) if far is None else moran_test(logs, far).value
    draws = int(np.clip(MOST_DRAWS / len(places), LEAST_PERMUTATIONS, permutations))
    shown = list(genes)[:MOST_GENES]
    found = {gene: local_clusters(logs[:, i], near, permutations=draws, seed=seed) for i, gene in enumerate(shown)}
    per_gene = {
        gene: {
            "moran_i": float(test.value[i]),
            "z": float(test.z[i]),
            "q": float(test.q[i]),
            "moran_i_beyond_window": None if np.isnan(beyond[i]) else float(beyond[i]),
            "clusters": _counts(found[gene].code) if gene in found else None,
        }
        for i, gene in enumerate(genes)
    }
    record = {
        "values": "log of the predicted mean",
        "nuclei": int(known.sum()),
        "neighbours": NUCLEUS_NEIGHBOURS,
        "window_um": window_um,
        "permutations": draws,
        "seed": seed,
        "false_discovery_rate": 0.05,
        "genes": per_gene,
        "pairs": _pairs(shown, logs, near),
    }
    return RunPatterns(record, {gene: _layer(gene, of.code, known) for gene, of in found.items()})


def _pairs(genes: list[str], logs: NDArray[np.float64], weights: Any) -> list[dict[str, Any]]:
    """Return the figure of each pair, in which either gene may come first: the mean of both orders."""
    pairs = [(i, j) for i in range(len(genes)) for j in range(i + 1, len(genes))]
    if not pairs:
        return []
    first, second = np.array(pairs).T
    value = bivariate_moran(logs[:, first], logs[:, second], weights)
    value = (value + bivariate_moran(logs[:, second], logs[:, first], weights)) / 2
    return [
        {"genes": [genes[i], genes[j]], "bivariate_moran_i": float(of)} for (i, j), of in zip(pairs, value, strict=True)
    ]


def _counts(code: NDArray[np.uint8]) -> dict[str, int]:
    return dict(zip(CLUSTERS, np.bincount(code, minlength=len(CLUSTERS)).tolist(), strict=True))


def _layer(gene: str, code: NDArray[np.uint8], known: NDArray[np.bool_]) -> Layer:
    values = np.full(len(known), np.nan)
    values[known] = code
    classes = tuple(zip(CLUSTERS, COLOURS, strict=True))
    return Layer(gene, "clusters", "local Moran's I, 5 % false discoveries", values, "classes", classes)
