"""Dataset tables and the files they name."""

from __future__ import annotations

import gzip

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.readers import read_dataset

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
    (folder / "counts.tsv.gz").unlink()
    (folder / "counts.tsv").write_text("\tA\tB\tA\n10x2\t1\t2\t3\n11x2\t0\t5\t7\n")
    (folder / "table.csv").write_text(HEADER + "S1,P1,he.png,counts.tsv,spots.tsv,legacy_st,0.69\n")
    (section,) = read_dataset(folder / "table.csv")
    assert section.genes == ("A", "B")
    np.testing.assert_array_equal(section.counts.toarray(), [[4, 2], [7, 5]])
    assert section.notes == ("1 genes appeared more than once and were added up, first A",)


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
        (
            "S1,P1,he.png,foreign.tsv,spots.tsv,legacy_st,0.69",
            "have in common, found none: .10X2. in one, .11x2. in the other",
        ),
    ],
)
def test_a_bad_row_names_the_section_and_the_fault(folder, row, message):
    (folder / "foreign.tsv").write_text("\tA\n10X2\t1\n")
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


def test_proteins_pass_as_proteins_and_cannot_be_trained_on(folder):
    data = anndata.AnnData(
        X=np.array([[0.5, 2.25], [1.5, 0]], dtype=np.float32), var=pd.DataFrame(index=["CD3", "HER2"])
    )
    data.obs_names = ["a", "b"]
    data.obsm["spatial"] = np.array([[10.0, 20.0], [30.0, 40.0]])
    data.write_h5ad(folder / "codex.h5ad")
    row = "S1,P1,he.png,codex.h5ad,,anndata,0.5"
    (folder / "table.csv").write_text(f"{HEADER.strip()},kind\n{row},protein\n")
    (section,) = read_dataset(folder / "table.csv")
    np.testing.assert_array_equal(section.counts_of(("HER2",)), [[2.25], [0]])
    with pytest.raises(UsageError, match="expected raw counts in section S1, found a table of kind protein"):
        section.with_enough_counts()
    (folder / "table.csv").write_text(f"{HEADER.strip()},kind\n{row},counts\n")
    with pytest.raises(UsageError, match=r"expected raw counts .* mark proteins in the column kind"):
        read_dataset(folder / "table.csv")
    (folder / "table.csv").write_text(f"{HEADER.strip()},kind\n{row},proteins\n")
    with pytest.raises(UsageError, match="expected kind counts or protein for section S1, found 'proteins'"):
        read_dataset(folder / "table.csv")


def test_axes_and_scale_of_the_table(folder):
    row = "S1,P1,he.png,counts.tsv.gz,spots.tsv,legacy_st,0.69,yx,0.5"
    (folder / "table.csv").write_text(f"{HEADER.strip()},axes,image_scale\n{row}\n")
    (section,) = read_dataset(folder / "table.csv")
    np.testing.assert_array_equal(section.positions_px, [[10.25, 50.25], [10.125, 55.25]])
    (folder / "table.csv").write_text(f"{HEADER.strip()},axes,image_scale\n{row[:-3]}7\n")
    with pytest.raises(UsageError, match="expected image_scale above 0 and up to 1, found 7"):
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
