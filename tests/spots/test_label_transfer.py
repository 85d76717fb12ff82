"""Types of cells from a reference: which method, which genes, and how good it is known to be."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.label_transfer import LEAST_COUNTS, LabelTransfer, Reference

GENES = tuple(f"G{i}" for i in range(40))


def cells(n=300, *, seed=0, depth=100):
    """Return counts of three types with ten marker genes each, and their types."""
    rng = np.random.default_rng(seed)
    code = rng.integers(0, 3, n)
    rate = np.ones((n, 40))
    for one in range(3):
        rate[code == one, 10 * one : 10 * one + 10] = 6
    rate *= depth / rate.sum(axis=1, keepdims=True)
    return rng.poisson(rate).astype(float), np.array(["B", "T", "Tumor"])[code]


def test_types_of_new_cells_are_found_by_name_of_gene_not_by_column():
    counts, types = cells()
    transfer = LabelTransfer.fit(Reference(counts, GENES, types), [*GENES[:35], "OTHER"])
    assert transfer.genes == GENES[:35]
    new, truth = cells(200, seed=1)
    order = np.random.default_rng(2).permutation(35)
    found = transfer.types(new[:, order], [GENES[i] for i in order])
    assert (found == truth).mean() > 0.95
    assert transfer.accuracy == pytest.approx((found == truth).mean(), abs=0.05)
    assert set(transfer.recall) == {"B", "T", "Tumor"}


def test_the_figure_of_a_reference_without_signal_is_chance():
    counts, types = cells()
    shuffled = np.random.default_rng(0).permutation(types)
    transfer = LabelTransfer.fit(Reference(counts, GENES, shuffled), GENES)
    assert transfer.accuracy < 0.45


def test_depth_does_not_change_a_type_and_too_few_counts_give_none():
    counts, types = cells()
    transfer = LabelTransfer.fit(Reference(counts, GENES, types), GENES)
    new, _ = cells(50, seed=3)
    assert (transfer.types(new * 7, GENES) == transfer.types(new, GENES)).all()
    poor = np.zeros((1, 40))
    poor[0, 0] = LEAST_COUNTS - 1
    assert transfer.types(poor, GENES)[0] is None


def test_two_types_and_rare_ones():
    counts, types = cells()
    few = np.flatnonzero(types == "Tumor")[3:]
    kept = np.setdiff1d(np.arange(300), few)
    transfer = LabelTransfer.fit(Reference(counts[kept], GENES, types[kept]), GENES)
    assert transfer.classes == ("B", "T")  # three cells are too few to hold one out in each fold
    assert (transfer.types(counts[kept], GENES) == types[kept])[types[kept] != "Tumor"].mean() > 0.95


def test_what_cannot_be_compared_is_refused():
    counts, types = cells()
    reference = Reference(counts, GENES, types)
    with pytest.raises(UsageError, match="expected at least 20 genes that the reference has too, found 5"):
        LabelTransfer.fit(reference, GENES[:5])
    with pytest.raises(UsageError, match="expected a reference with 5 cells of at least two types"):
        LabelTransfer.fit(Reference(counts[types == "B"], GENES, types[types == "B"]), GENES)
    with pytest.raises(ValueError, match="expected counts of 300 cells and 39 genes"):
        Reference(counts, GENES[1:], types)


@pytest.mark.slow
def test_typed_xenium_cells_of_breast_are_told_apart(real_data):
    folder = real_data / "xenium_reference" / "data_demo"
    table = pd.read_csv(folder / "expr_mat_breast_demo.csv.gz", index_col=0)
    types = pd.read_csv(folder / "cell_types_breast_demo.csv.gz").set_index("c_ids").ct_idx.loc[table.cell_id]
    genes = tuple(c for c in table.columns if c != "cell_id")
    reference = Reference(table[list(genes)].to_numpy(float), genes, types.astype(str).to_numpy(dtype=str))
    transfer = LabelTransfer.fit(reference, genes)
    largest = float(types.value_counts(normalize=True).iloc[0])
    assert transfer.accuracy > largest + 0.2
    assert np.mean(list(transfer.recall.values())) > 0.6
