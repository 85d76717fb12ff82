"""Names of genes: accessions, versions, renamed symbols, and what is reported."""

from __future__ import annotations

import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.gene_names import find_genes, is_accession, read_gene_table, renamed, without_version


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("ENSG00000142208.12", "ENSG00000142208"),
        ("ENSG00000182378.15_PAR_Y", "ENSG00000182378"),
        ("ENSMUSG00000051951.1", "ENSMUSG00000051951"),
        ("ENSG00000142208", "ENSG00000142208"),
        ("HLA-A.1", "HLA-A.1"),
        ("ENST00000142208.1", "ENST00000142208.1"),
        ("AC012345.2", "AC012345.2"),
    ],
)
def test_versions_of_accessions_alone_are_dropped(name, plain):
    assert without_version(name) == plain
    assert is_accession(name) == plain.startswith(("ENSG", "ENSM"))


def test_what_becomes_of_each_name():
    asked = ["ERBB2", "ENSG00000142208.9", "MLL2", "AKT1", "KRT8", "SEPTIN9", "NOSUCH", "ERBB2"]
    measured = ["AKT1", "ERBB2", "KMT2D", "KRT8", "SEPT9"]
    found = find_genes(asked, measured, {"ENSG00000142208": "AKT1"})
    assert found.genes == ("ERBB2", "AKT1", "KMT2D", "KRT8", "SEPT9")
    assert found.by_accession == {"ENSG00000142208.9": "AKT1"}
    assert found.by_earlier_name == {"MLL2": "KMT2D", "SEPTIN9": "SEPT9"}
    assert found.merged == ("AKT1",)
    assert found.missing == ("NOSUCH",)
    assert found.notes() == [
        "1 genes were found by their Ensembl accession",
        "renamed genes were found: MLL2 as KMT2D, SEPTIN9 as SEPT9",
        "named more than once under different names: AKT1",
        "not measured: NOSUCH",
    ]


def test_a_measured_name_is_never_replaced():
    """Data of an old annotation hold both: the asked one counts."""
    assert find_genes(["MLL2"], ["MLL2", "KMT2D"], {}).genes == ("MLL2",)


def test_the_renamed_table_is_one_to_one_and_has_no_chains():
    table = renamed()
    assert len(set(table.values())) == len(table)
    assert not set(table) & set(table.values())
    assert table["KNTC2"] == "NDC80"


def test_a_users_table(tmp_path):
    path = tmp_path / "genes.tsv"
    path.write_text("symbol\tgene_id\tbiotype\nAKT1\tENSG00000142208.3\tx\nAKT1\tENSG00000142208.4\tx\nX\t\tx\n")
    assert read_gene_table(path) == {"ENSG00000142208": "AKT1"}
    path.write_text("symbol\tgene_id\nAKT1\tENSG00000142208.3\nPKB\tENSG00000142208.4\n")
    with pytest.raises(UsageError, match="found several for ENSG00000142208"):
        read_gene_table(path)
    path.write_text("name\tid\nA\tB\n")
    with pytest.raises(UsageError, match=r"expected the columns gene_id and symbol .* found name, id"):
        read_gene_table(path)
    with pytest.raises(UsageError, match="found no file"):
        read_gene_table(tmp_path / "gone.csv")
