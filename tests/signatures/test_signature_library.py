"""The signatures that ship: counts and numbers as published, and users' own files."""

from __future__ import annotations

import csv

import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.library import LINEAR, data_rows, genomic_grade, linear_signatures, mcpcounter, read_gmt
from stimage_qupath.spots.genes import named_list


def test_mcpcounter_has_ten_populations_of_111_genes():
    populations = mcpcounter()
    assert len(populations) == 10
    assert sum(len(signature.genes) for signature in populations) == 111
    assert sorted(gene for signature in populations for gene in signature.genes) == sorted(named_list("mcpcounter"))


def test_pam50_proliferation_is_11_of_the_50_genes():
    (signature,) = linear_signatures(["pam50-proliferation"])
    assert len(signature.genes) == 11
    assert set(signature.genes) <= {row["gene"] for row in data_rows("pam50_centroids.csv")} == set(named_list("pam50"))


def test_the_genomic_grade_weighs_a_gene_by_its_probe_sets():
    up, down = genomic_grade().terms
    assert up.weights["MKI67"] == 3  # three probe sets of grade 3
    assert (up.coefficient, down.coefficient) == pytest.approx((98 / 112, -14 / 112), abs=0.02)
    assert up.coefficient - down.coefficient == pytest.approx(1)


def test_groups_of_the_21_genes_have_the_published_weights():
    her2 = next(s for s in linear_signatures(["oncotype"]) if s.name.endswith("HER2"))
    assert her2.terms[0].weights == {"GRB7": 0.9, "ERBB2": 0.1}


def test_every_word_gives_signatures_with_a_source():
    for signature in linear_signatures(LINEAR):
        assert signature.source
        assert signature.genes


def test_the_tables_are_those_of_genefu(real_data):
    folder = real_data / "cohorts" / "breast_arrays" / "genefu" / "inst" / "extdata"
    with (folder / "veer2002_sig_gene70.csv").open(newline="") as file:
        theirs = {row["probe"]: float(row["average.good.prognosis.profile"]) for row in csv.DictReader(file)}
    assert {row["reporter"]: float(row["good_profile"]) for row in data_rows("gene70.csv")} == theirs
    assert len(theirs) == 70
    model = (folder / "pam50_model.csv").read_text(encoding="utf-8").splitlines()
    lines = {line.split(":")[0][11:]: line.split(": ")[1].split() for line in model if line.startswith("# centroid")}
    ours = data_rows("pam50_centroids.csv")
    for subtype, numbers in lines.items():
        assert [float(row[subtype]) for row in ours] == pytest.approx([float(n) for n in numbers], rel=1e-8)


def test_a_gmt_file_is_a_mean_a_line(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("FIRST\thttp://x\tA\tB\tA\n\nsecond\t\tC\t\n", encoding="utf-8")
    first, second = read_gmt(path)
    assert (first.name, first.genes, first.source) == ("FIRST", ("A", "B"), "sets.gmt")
    assert second.genes == ("C",)


@pytest.mark.parametrize(("text", "message"), [("", "expected gene sets"), ("NAME\tno genes\n", "in line 1 of")])
def test_a_gmt_file_without_sets_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.gmt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_gmt(path)


def test_a_missing_file_an_unknown_word_and_doubled_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match="expected a GMT file at"):
        linear_signatures([str(tmp_path / "none.gmt")])
    with pytest.raises(UsageError, match="found 'pam51'"):
        linear_signatures(["pam51"])
    many = tmp_path / "many.gmt"
    many.write_text("".join(f"set{i}\t\tCD3D\n" for i in range(101)), encoding="utf-8")
    with pytest.raises(UsageError, match="at most 100 signatures at a time, found 101"):
        linear_signatures([str(many)])
    path = tmp_path / "twice.gmt"
    path.write_text("T cells\t\tCD3D\n", encoding="utf-8")
    with pytest.raises(UsageError, match="'t_cells' more than once"):
        linear_signatures(["mcpcounter", str(path)])
