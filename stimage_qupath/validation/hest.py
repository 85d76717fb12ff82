"""The protocol of HEST-Benchmark, for figures that stand beside its published table and not beside ours.

Features of tiles of 112 um at 224 px are standardised and reduced to 256 principal components; a ridge without
intercept, of penalty ``100 / (components x genes)``, predicts ``log1p`` of raw counts of the 50 most variable genes;
Pearson's r of each gene, mean over genes, then over folds split by patient (Jaume et al. 2024, arXiv:2406.16192, and
its code, github.com/mahmoodlab/HEST). Depth is not taken out on either side and the genes are chosen on all sections,
so that these figures say less of gene signal than the protocol of this package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.spots.residuals import column_pearson
from stimage_qupath.validation.bootstrap import BlockBootstrap, Column, Interval, mean_over_genes, resampled_pearson

Float = NDArray[np.float64]

TILE_UM = 112.0
TILE_PX = 224
GENES = 50
COMPONENTS = 256
PENALTY = 100.0
LEAST_DETECTED = 0.1
"""Share of the spots of every section in which a gene must be seen to be eligible."""
MEAN_BINS = 20


def penalty(components: int, genes: int) -> float:
    """Return the benchmark's ridge penalty."""
    return PENALTY / (components * genes)


def variable_genes(sections: list[Float], genes: tuple[str, ...], *, number: int = GENES) -> tuple[str, ...]:
    """Return the genes of the greatest dispersion among genes of like mean, in alphabetical order.

    The dispersion ``variance / mean`` of raw counts, in logs, is standardised within twenty bins of ``log1p`` of the
    mean (Satija et al. 2015, doi 10.1038/nbt.3192, as in scanpy's flavour ``seurat``).

    Parameters
    ----------
    sections
        (spot, gene) raw counts of each section.
    genes
        Name of each column.
    number
        Genes to return at the most.
    """
    seen = [(counts > 0).sum(axis=0) >= np.ceil(LEAST_DETECTED * len(counts)) for counts in sections]
    eligible = np.flatnonzero(np.logical_and.reduce(seen))
    counts = np.concatenate([c[:, eligible] for c in sections])
    mean = counts.mean(axis=0)
    table = pd.DataFrame({"mean": np.log1p(mean), "dispersion": np.log(counts.var(axis=0, ddof=1) / mean)})
    bins = pd.cut(table["mean"], bins=MEAN_BINS)
    grouped = table.groupby(bins, observed=True)["dispersion"]
    centre, spread = grouped.transform("mean"), grouped.transform("std")
    alone = spread.isna()  # the only gene of its bin counts as one standard deviation out
    score = (table.dispersion - centre.where(~alone, 0)) / spread.where(~alone, table.dispersion)
    best = eligible[np.argsort(-score.to_numpy(), kind="stable")[:number]]
    return tuple(sorted(genes[i] for i in best))


@dataclass(frozen=True, slots=True)
class FoldResult:
    """What one fold found.

    Attributes
    ----------
    pcc
        (gene,) Pearson's r over the test spots; NaN where a gene is constant there.
    mean
        Over genes, with a spatial-block interval.
    """

    pcc: Float
    mean: Interval


def predict(features: Float, counts: Float, wanted: Float) -> Float:
    """Return predicted ``log1p`` counts of the test spots, (spot, gene).

    Parameters
    ----------
    features, counts
        (training spot, feature) and (training spot, gene) raw counts.
    wanted
        (test spot, feature).
    """
    centre, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    x, new = (features - centre) / sd, (wanted - centre) / sd
    _, _, right = np.linalg.svd(x, full_matrices=False)
    directions = right[:COMPONENTS].T
    scores, targets = x @ directions, np.log1p(counts)
    alpha = penalty(scores.shape[1], targets.shape[1])
    weights = np.linalg.solve(scores.T @ scores + alpha * np.eye(scores.shape[1]), scores.T @ targets)
    return np.asarray(new @ directions @ weights)


def score_fold(predicted: Float, counts: Float, bootstrap: BlockBootstrap) -> FoldResult:
    """Return the correlations of one fold; ``bootstrap`` is of its test spots."""
    truth = np.log1p(counts)
    resampled = resampled_pearson(bootstrap, Column.of(bootstrap, truth), Column.of(bootstrap, predicted))
    return FoldResult(column_pearson(truth, predicted), Interval.of(mean_over_genes(resampled)))
