"""``--genes``: lists by name, rules, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.genes import named_list
from stimage_qupath.spots.panel_choice import choose_panel
from stimage_qupath.spots.section import Section

GENES = ("AURKA", "CD3D", "ERBB2", "KNTC2", "RARE", "REST")


@pytest.fixture
def section():
    rng = np.random.default_rng(0)
    counts = rng.poisson([5, 5, 5, 5, 0, 5000], (100, 6)).astype(float)
    counts[:50, 1] *= 20
    counts[0, 4] = 9
    ids = ("", "", "ENSG00000141736", "", "", "")
    return Section("S", "P", Path("x.png"), 0.5, GENES, sparse.csr_matrix(counts), rng.random((100, 2)), gene_ids=ids)


def test_named_lists(section):
    pam50 = choose_panel("pam50", [section])
    assert set(pam50.panel.genes) == {"ERBB2", "KNTC2"}
    assert len(pam50.missing) == 48
    assert pam50.notes[0] == "renamed genes were found: NDC80 as KNTC2"
    assert choose_panel("oncotype", [section]).panel.genes == ("AURKA", "ERBB2")
    assert choose_panel("mcpcounter", [section]).panel.genes == ("CD3D",)


def test_rules(section):
    assert choose_panel("hvg:1", [section]).panel.genes == ("CD3D",)
    assert choose_panel("detected:0.05", [section]).panel.genes == (*GENES[:4], "REST")
    assert "RARE" in choose_panel("detected:0.01", [section]).panel.genes
    assert len(choose_panel("svg:2", [section]).panel) == 2
    assert choose_panel("hvg:9", [section], min_detection=0.01).panel.genes == GENES
    assert "vary most" in choose_panel("hvg:1", [section]).how
    assert choose_panel(None, [section], number=1).panel.genes == ("AURKA", "CD3D", "ERBB2")


def test_a_file_may_hold_accessions(section, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("ENSG00000141736.4\nCD3D\nNONE\n")
    chosen = choose_panel(str(path), [section])
    assert chosen.panel.genes == ("ERBB2", "CD3D")
    assert chosen.missing == ("NONE",)
    assert chosen.how == "a list given by the user"
    path.write_text("# nothing\n")
    with pytest.raises(UsageError, match=r"expected genes in .*, found none"):
        choose_panel(str(path), [section])


@pytest.mark.parametrize("word", ["pam", "hvg", "hvg:0", "detected:2"])
def test_a_word_that_is_no_list(section, word):
    with pytest.raises(UsageError, match=f"expected genes by a file, one of pam50, .* found '{word}'"):
        choose_panel(word, [section])


def test_the_lists_have_the_size_their_papers_say():
    assert len(named_list("mcpcounter")) == 111
    assert len(named_list("stimage_769")) == 769
