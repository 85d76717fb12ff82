"""Signatures on panels: weights by hand, renamed genes, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import Signature, Term, fit, usable, weight_matrix


def test_a_score_is_the_sum_of_weighted_means_by_hand():
    signature = Signature("up minus down", (Term(2.0, {"A": 3.0, "B": 1.0}), Term(-0.5, {"C": 1.0, "D": 1.0})), "hand")
    found = fit(signature, ("D", "A", "X", "C", "B"))
    assert found.weights == pytest.approx({"A": 1.5, "B": 0.5, "C": -0.25, "D": -0.25})
    x = np.array([4.0, 1.0, 100.0, 2.0, 8.0])
    assert x @ weight_matrix([found], ("D", "A", "X", "C", "B"))[:, 0] == pytest.approx(2 * (3 * 1 + 8) / 4 - 0.5 * 3)


def test_a_mean_over_the_genes_that_are_there_stays_a_mean():
    found = fit(Signature.mean_of("four", "ABCD", source="hand"), ("A", "C", "B"))
    assert found.weights == pytest.approx(dict.fromkeys("ABC", 1 / 3))
    assert found.missing == ("D",)
    assert found.share == pytest.approx(0.75)
    assert found.refusal is None


@pytest.mark.parametrize(("panel", "name"), [(("NDC80",), "NDC80"), (("KNTC2",), "KNTC2")])
def test_a_renamed_gene_is_found_under_either_name(panel, name):
    assert fit(Signature.mean_of("one", ["NDC80"], source="hand"), panel).weights == {name: 1.0}


def test_alternative_names_mean_one_gene():
    signature = Signature.mean_of("two", ["NEWER|OLDER", "B"], source="hand")
    assert fit(signature, ("OLDER", "B")).weights == {"OLDER": 0.5, "B": 0.5}
    assert fit(signature, ("OLDER", "NEWER", "B")).weights == {"NEWER": 0.5, "B": 0.5}


def test_under_half_of_the_genes_is_refused_with_a_sentence_and_half_is_enough():
    signature = Signature.mean_of("four", "ABCD", source="hand")
    assert fit(signature, "AB").refusal is None
    assert (
        "expected at least half of the genes of 'four', found 1 of 4 (B, C, D missing)" in fit(signature, "A").refusal
    )


def test_what_cannot_be_scored_is_left_out_unless_it_is_everything():
    good, bad = Signature.mean_of("good", "AB", source="hand"), Signature.mean_of("bad", "XYZ", source="hand")
    kept, notes = usable([fit(good, "AB"), fit(bad, "AB")])
    assert [found.signature.name for found in kept] == ["good"]
    assert notes == ("signatures left out, under half of their genes are there: bad (0 of 3)",)
    with pytest.raises(UsageError, match="at least half of the genes of 'bad'"):
        usable([fit(bad, "AB")])


@pytest.mark.parametrize("weights", [{}, {"A": 0.0}, {"A": -1.0}, {"A": float("nan")}])
def test_a_term_refuses_weights_that_no_mean_has(weights):
    with pytest.raises(ValueError, match="weights above 0"):
        Term(1.0, weights)
