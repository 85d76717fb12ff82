"""Panels: read from a file, or chosen on the training sections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.genes import named_list, read_panel, variable_genes, well_known
from stimage_qupath.spots.section import Section


def section(counts, genes, name="S"):
    positions = np.arange(2.0 * len(counts)).reshape(-1, 2)
    return Section(name, "P", Path("x.png"), 0.5, tuple(genes), sparse.csr_matrix(counts), positions)


@pytest.fixture
def sections():
    """FLAT follows depth alone, PATCHY is on in half the spots, RARE is seen once."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(2):
        depth = rng.uniform(0.5, 2, 200)
        patchy = rng.poisson(20 * depth * (np.arange(200) < 100))
        columns = [rng.poisson(100 * depth), patchy, (np.arange(200) == 7) * 9, rng.poisson(400 * depth)]
        made.append(section(np.stack(columns, axis=1).astype(float), ["FLAT", "PATCHY", "RARE", "REST"], f"S{number}"))
    return made


def test_the_gene_that_varies_beyond_depth_comes_first(sections):
    assert variable_genes(sections, number=1).genes == ("PATCHY",)


def test_genes_to_keep_join_if_measured(sections):
    assert variable_genes(sections, number=1, keep=("REST", "ABSENT")).genes == ("PATCHY", "REST")


def test_rare_genes_are_out_whatever_their_variance(sections):
    assert variable_genes(sections, number=10).genes == ("FLAT", "PATCHY", "REST")


def test_a_difference_between_sections_is_no_variability():
    rng = np.random.default_rng(1)
    low, high = (
        section(rng.poisson([[rate, 20, 500]], (200, 3)).astype(float), ["BATCH", "SAME", "REST"]) for rate in (2, 60)
    )
    patchy = rng.poisson(20 * (np.arange(200) % 2))
    for s in (low, high):
        s.counts[:, 1] = sparse.csr_matrix(patchy[:, None].astype(float))
    assert variable_genes([low, high], number=1).genes == ("SAME",)


def test_no_gene_seen_often_enough(sections):
    with pytest.raises(UsageError, match="expected genes detected in 100%"):
        variable_genes([section(np.eye(5), list("ABCDE"))], number=3, min_detection=1.0)


def test_a_list_keeps_its_order_and_says_what_was_not_measured(tmp_path, sections):
    path = tmp_path / "genes.txt"
    path.write_text("# of interest\nREST\n\nERBB2 # not here\nFLAT\nREST\n", encoding="utf-8")
    panel, unmeasured = read_panel(path, sections)
    assert panel.genes == ("REST", "FLAT")
    assert unmeasured == ("ERBB2",)


def test_a_list_of_nothing_measured(tmp_path, sections):
    (tmp_path / "genes.txt").write_text("NONE\n")
    with pytest.raises(UsageError, match="found none of them; the first is 'NONE'"):
        read_panel(tmp_path / "genes.txt", sections)
    with pytest.raises(UsageError, match="expected a list of genes at"):
        read_panel(tmp_path / "gone.txt", sections)


def test_the_lists_have_the_size_their_names_say():
    assert len(named_list("pam50")) == 50
    assert len(named_list("recurrence_21")) == 21
    assert set(named_list("markers")) < set(well_known())
