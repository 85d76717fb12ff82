"""Dataset tables and the files they name."""

from __future__ import annotations

import gzip

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.readers import read_dataset, read_legacy_st

HEADER = "section,patient,image,counts,spots,platform,mpp\n"


@pytest.fixture
def folder(tmp_path):
    """Write a section of three spots and three genes; one spot has no position, one was not selected."""
    (tmp_path / "he.png").write_bytes(b"not opened by the reader")
    with gzip.open(tmp_path / "counts.tsv.gz", "wt") as file:
        file.write("\tERBB2\tCD3D\tKRT8\n10x2\t5\t0\t1\n11x2\t7\t2\t0\n12x2\t1\t1\t1\n13x2\t4\t4\t4\n")
    (tmp_path / "spots.tsv").write_text(
        "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n"
        "11\t2\t11.1\t2.0\t110.5\t20.25\t1\n10\t2\t10.1\t2.0\t100.5\t20.5\t1\n13\t2\t13\t2\t130\t20\t0\n"
    )
    (tmp_path / "table.csv").write_text(HEADER + "S1,P1,he.png,counts.tsv.gz,spots.tsv,legacy_st,0.69\n")
    return tmp_path


def test_counts_are_joined_to_positions_on_the_array_place(folder):
    (section,) = read_dataset(folder / "table.csv")
    assert (section.name, section.patient, section.mpp, section.genes) == ("S1", "P1", 0.69, ("ERBB2", "CD3D", "KRT8"))
    np.testing.assert_array_equal(section.positions_px, [[100.5, 20.5], [110.5, 20.25]])
    np.testing.assert_array_equal(section.counts_of(("CD3D", "ERBB2")), [[0, 5], [2, 7]])
    np.testing.assert_array_equal(section.totals, [6, 9])
    assert "2 of 4 spots have no position" in section.notes[0]


def test_genes_that_were_not_measured_are_0(folder):
    (section,) = read_dataset(folder / "table.csv")
    np.testing.assert_array_equal(section.counts_of(("NONE", "KRT8")), [[0, 1], [0, 0]])


def test_a_gene_under_two_accessions_is_added_up(folder):
    (folder / "doubled.tsv").write_text("\tA\tB\tA\n10x2\t1\t2\t3\n11x2\t0\t5\t7\n")
    table, _, notes = read_legacy_st(folder / "doubled.tsv", folder / "spots.tsv")
    assert list(table.columns) == ["A", "B"]
    assert table["A"].tolist() == [4, 7]
    assert "A" in notes[0]


def test_anndata_with_counts_in_a_layer(folder):
    counts = sparse.csr_matrix(np.array([[3.0, 0], [1, 2]]))
    data = anndata.AnnData(X=np.log1p(counts.toarray()), var=pd.DataFrame(index=["G1", "G2"]))
    data.obs_names = ["a", "b"]
    data.layers["counts"] = counts
    data.obsm["spatial"] = np.array([[10.0, 20.0], [30.0, 40.0]])
    data.write_h5ad(folder / "counts.h5ad")
    (folder / "table.csv").write_text(HEADER + "S1,P1,he.png,counts.h5ad,,anndata,\n")
    (section,) = read_dataset(folder / "table.csv")
    assert section.mpp is None
    np.testing.assert_array_equal(section.counts.toarray(), counts.toarray())
    np.testing.assert_array_equal(section.positions_px, [[10, 20], [30, 40]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("S1,P1,he.png,counts.tsv.gz,spots.tsv,slide_seq,0.69", "expected a platform out of .* found 'slide_seq'"),
        ("S1,P1,gone.png,counts.tsv.gz,spots.tsv,legacy_st,0.69", "expected the image of section S1"),
        ("S1,P1,he.png,counts.tsv.gz,,legacy_st,0.69", "expected a spot table for platform legacy_st"),
        ("S1,P1,he.png,counts.tsv.gz,spots.tsv,legacy_st,wide", "section S1 cannot be read: could not convert"),
        ("S1,P1,he.png,spots.tsv,spots.tsv,legacy_st,0.69", "found none in common"),
    ],
)
def test_a_bad_row_names_the_section_and_the_fault(folder, row, message):
    (folder / "table.csv").write_text(HEADER + row + "\n")
    with pytest.raises(UsageError, match=message):
        read_dataset(folder / "table.csv")


def test_bad_tables(folder):
    with pytest.raises(UsageError, match="expected a dataset table at"):
        read_dataset(folder / "none.csv")
    (folder / "table.csv").write_text("section,image\nS1,he.png\n")
    with pytest.raises(UsageError, match="found no column patient, counts, platform"):
        read_dataset(folder / "table.csv")
    row = "S1,P1,he.png,counts.tsv.gz,spots.tsv,legacy_st,0.69\n"
    (folder / "table.csv").write_text(HEADER + row + row)
    with pytest.raises(UsageError, match="expected each section once"):
        read_dataset(folder / "table.csv")


def test_normalised_values_are_no_counts(folder):
    (folder / "normalised.tsv").write_text("\tA\n10x2\t1.5\n11x2\t0\n")
    (folder / "table.csv").write_text(HEADER + "S1,P1,he.png,normalised.tsv,spots.tsv,legacy_st,0.69\n")
    with pytest.raises(UsageError, match="expected raw counts"):
        read_dataset(folder / "table.csv")


def test_real_sections(real_data, tmp_path):
    """Facts known of the files: 187 spots of C2, two of them under 200 counts; every spot has its place."""
    her2st = real_data / "her2st"
    row = f"C2,C,{her2st}/images/C2.jpg,{her2st}/counts/C2.tsv.gz,{her2st}/spots/C2_selection.tsv,legacy_st,0.69\n"
    (tmp_path / "table.csv").write_text(HEADER + row)
    (section,) = read_dataset(tmp_path / "table.csv")
    assert section.counts.shape == (187, 15706)
    kept = section.with_enough_counts()
    assert len(kept.positions_px) == 185
    assert kept.notes == ("2 of 187 spots under 200 counts left out",)
