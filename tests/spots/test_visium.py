"""Space Ranger's folders, version by version, by hand-written files and by real ones."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.readers import read_dataset

BARCODES = ["CC-1", "AA-1", "BB-1"]
COUNTS = [[5, 0, 1], [0, 2, 3], [4, 4, 4]]
PLACES = [  # in another order than the matrix, one outside tissue, one that the matrix lacks
    ("AA-1", 1, 0, 0, 100, 200),
    ("BB-1", 0, 0, 2, 100, 300),
    ("CC-1", 1, 1, 1, 187, 250),
    ("DD-1", 1, 1, 3, 187, 350),
]
NAMES = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def write_positions(spatial, version):
    """Write the positions as Space Ranger 1, 2 or HD does."""
    spatial.mkdir(parents=True)
    table = pd.DataFrame(PLACES, columns=NAMES)
    if version == "1":
        table.to_csv(spatial / "tissue_positions_list.csv", header=False, index=False)
    elif version == "2":
        table.to_csv(spatial / "tissue_positions.csv", index=False)
    else:
        table.to_parquet(spatial / "tissue_positions.parquet")


def write_folder(folder, *, zipped, quoted=False):
    """Write the matrix as three text files."""
    folder.mkdir(parents=True)
    entries = [(c + 1, r + 1, COUNTS[r][c]) for r in range(3) for c in range(3) if COUNTS[r][c]]
    files = {
        "matrix.mtx": "%%MatrixMarket matrix coordinate integer general\n3 3 "
        + f"{len(entries)}\n"
        + "".join(f"{a} {b} {v}\n" for a, b, v in entries),
        "features.tsv": "".join(f"ENSG{i:011d}\tG{i}\tGene Expression\n" for i in range(3)),
        "barcodes.tsv": "\n".join(BARCODES) + "\n",
    }
    for name, text in files.items():
        if quoted and name != "matrix.mtx":
            text = "\n".join("\t".join(f'"{w}"' for w in line.split("\t")) for line in text.splitlines())
        content = text.encode()
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("version", ["1", "2", "hd"])
@pytest.mark.parametrize("matrix", ["h5", "prefixed h5", "mtx.gz", "mtx", "quoted mtx"])
def test_every_layout_gives_the_same_section(tmp_path, as_table, write_matrix, version, matrix):
    outs = tmp_path / "outs"
    write_positions(outs / "spatial", version)
    if matrix.endswith("h5"):
        name = "Breast_1_filtered_feature_bc_matrix.h5" if "prefixed" in matrix else "filtered_feature_bc_matrix.h5"
        write_matrix(outs / name, COUNTS, BARCODES)
    else:
        write_folder(outs / "filtered_feature_bc_matrix", zipped=matrix == "mtx.gz", quoted="quoted" in matrix)
    (section,) = read_dataset(as_table("visium", "outs"))
    assert section.genes == ("G0", "G1", "G2")
    assert section.gene_ids == ("ENSG00000000000", "ENSG00000000001", "ENSG00000000002")
    np.testing.assert_array_equal(section.counts.toarray(), [[5, 0, 1], [0, 2, 3]])
    np.testing.assert_array_equal(section.positions_px, [[250, 187], [200, 100]])  # x is the column
    assert section.notes == ("1 of 3 spots outside tissue (in_tissue 0) left out",)


def test_the_pixel_size_is_that_of_the_honeycomb(tmp_path, as_table, write_matrix):
    """Spots are 100 um apart; turned by 30 degrees and 0.25 um per pixel, positions say so."""
    rng = np.random.default_rng(0)
    array = np.array([(r, c) for r in range(12) for c in range(r % 2, 20, 2)])
    um = np.stack([array[:, 1] * 50.0, array[:, 0] * 50 * 3**0.5], axis=1)
    angle = np.deg2rad(30)
    pixels = um @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / 0.25 + 9000
    barcodes = [f"B{i}-1" for i in range(len(array))]
    (tmp_path / "outs/spatial").mkdir(parents=True)
    rows = np.column_stack([barcodes, np.ones(len(array), int), array, pixels[:, 1], pixels[:, 0]])
    pd.DataFrame(rows, columns=NAMES).to_csv(tmp_path / "outs/spatial/tissue_positions.csv", index=False)
    write_matrix(tmp_path / "outs/filtered_feature_bc_matrix.h5", rng.poisson(3, (len(array), 2)), barcodes)
    (section,) = read_dataset(as_table("visium", "outs"))
    assert section.mpp == pytest.approx(0.25, rel=1e-6)
    (section,) = read_dataset(as_table("visium", "outs", mpp="0.5"))
    assert section.mpp == 0.5
    assert section.notes == ("the table says 0.5 um per pixel, the array's own geometry 0.25; check the column mpp",)


def test_hd_states_its_pixel_size_and_bins_are_found(tmp_path, as_table, write_matrix):
    for size in ("002", "008"):
        bins = tmp_path / f"outs/binned_outputs/square_{size}um"
        write_positions(bins / "spatial", "hd")
        (bins / "spatial/scalefactors_json.json").write_text(json.dumps({"microns_per_pixel": 0.27}))
        write_matrix(bins / "filtered_feature_bc_matrix.h5", np.array(COUNTS) * int(size), BARCODES)
    (section,) = read_dataset(as_table("visium_hd", "outs"))
    assert section.mpp == 0.27
    assert section.totals.tolist() == [48, 40]  # eight times 6 and 5
    (section,) = read_dataset(as_table("visium_hd", "outs/binned_outputs/square_002um"))
    assert section.totals.tolist() == [12, 10]


def square(number, x, y):
    ring = [[x - 1, y - 1], [x + 1, y - 1], [x + 1, y + 1], [x - 1, y + 1], [x - 1, y - 1]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "properties": {"cell_id": number}, "geometry": geometry}


@pytest.fixture
def segmented(tmp_path, write_matrix):
    """Two cells at (200, 100) and (220, 100), each of two 2 um bins."""
    outs = tmp_path / "outs"
    (outs / "segmented_outputs").mkdir(parents=True)
    cells = ["cellid_000000007-1", "cellid_000000003-1"]
    write_matrix(outs / "segmented_outputs/filtered_feature_cell_matrix.h5", [[1, 2], [3, 4]], cells)
    features = [square(3, 200, 100), square(7, 220, 100), square(9, 500, 500)]
    path = outs / "segmented_outputs/cell_segmentations.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return outs


def test_segmented_cells_stand_at_their_centroids(segmented, as_table):
    (section,) = read_dataset(as_table("visium_hd", "outs/segmented_outputs"))
    np.testing.assert_allclose(section.positions_px, [[220, 100], [200, 100]])
    np.testing.assert_array_equal(section.counts.toarray(), [[1, 2], [3, 4]])
    assert section.notes == ()


@pytest.mark.parametrize("as_text", [True, False])
def test_outlines_in_another_frame_are_found_out_by_the_bins(segmented, as_table, as_text):
    spatial = segmented / "binned_outputs/square_002um/spatial"
    spatial.mkdir(parents=True)
    places = [("b1", 1, 0, 0, 98, 2000), ("b2", 1, 0, 1, 102, 2000), ("b3", 1, 5, 5, 100, 2200), ("b4", 1, 6, 6, 0, 0)]
    pd.DataFrame(places, columns=NAMES).to_parquet(spatial / "tissue_positions.parquet")
    ids = [f"cellid_{n:09d}-1" for n in (3, 3, 7)] if as_text else [3.0, 3.0, 7.0]
    mapping = pd.DataFrame({"square_002um": ["b1", "b2", "b3", "b4"], "cell_id": [*ids, None]})
    mapping.to_parquet(segmented / "barcode_mappings.parquet")
    (section,) = read_dataset(as_table("visium_hd", "outs/segmented_outputs"))
    np.testing.assert_allclose(section.positions_px, [[2200, 100], [2000, 100]])
    assert "not in pixels of the full image" in section.notes[0]


def test_proteins_of_the_same_matrix(tmp_path, as_table, write_matrix):
    write_positions(tmp_path / "outs/spatial", "2")
    types = ["Gene Expression", "Antibody Capture", "Antibody Capture"]
    write_matrix(tmp_path / "outs/filtered_feature_bc_matrix.h5", COUNTS, BARCODES, types=types)
    (genes,) = read_dataset(as_table("visium", "outs"))
    assert genes.genes == ("G0",)
    assert genes.notes[0] == "features of other types left out: 2 Antibody Capture"
    (proteins,) = read_dataset(as_table("visium", "outs", kind="protein"))
    assert proteins.genes == ("G1", "G2")


def test_doubled_symbols_are_added_up_and_versions_dropped(tmp_path, as_table, write_matrix):
    write_positions(tmp_path / "outs/spatial", "2")
    ids = ["ENSG00000182378.15", "ENSG00000182378.15_PAR_Y", "ENSG00000142208.3"]
    write_matrix(tmp_path / "outs/filtered_feature_bc_matrix.h5", COUNTS, BARCODES, ids=ids, names=ids)
    (section,) = read_dataset(as_table("visium", "outs"))
    assert section.genes == ("ENSG00000182378", "ENSG00000142208")
    np.testing.assert_array_equal(section.counts.toarray(), [[5, 1], [2, 3]])
    assert section.notes[-2:] == (
        "3 of 3 genes have no symbol and keep their Ensembl accession",
        "1 genes appeared more than once and were added up, first ENSG00000182378",
    )
    table = tmp_path / "genes.csv"
    table.write_text("gene_id,symbol\nENSG00000142208,AKT1\nENSG00000182378.14,PLCXD1\n")
    (section,) = read_dataset(tmp_path / "table.csv", gene_table=table)
    assert section.genes == ("PLCXD1", "AKT1")


def test_what_is_missing_is_named(tmp_path, as_table, write_matrix):
    outs = tmp_path / "outs"
    outs.mkdir()
    with pytest.raises(
        UsageError, match=r"section S cannot be read: expected a matrix of Visium in .*outs, found none"
    ):
        read_dataset(as_table("visium", "outs"))
    write_matrix(outs / "filtered_feature_bc_matrix.h5", COUNTS, BARCODES)
    with pytest.raises(UsageError, match="expected the positions of the spots"):
        read_dataset(as_table("visium", "outs"))
    write_positions(outs / "spatial", "2")
    write_matrix(outs / "filtered_feature_bc_matrix.h5", COUNTS, ["CC", "AA", "BB"])
    with pytest.raises(UsageError, match="in common, found none: 'CC' in one, 'AA-1' in the other"):
        read_dataset(as_table("visium", "outs"))
    write_matrix(outs / "filtered_feature_bc_matrix.h5", COUNTS, ["AA-1", "AA-1", "BB-1"])
    with pytest.raises(UsageError, match=r"expected each barcode once .* found AA-1 more than once"):
        read_dataset(as_table("visium", "outs"))
    (outs / "filtered_feature_bc_matrix.h5").write_bytes(b"no hdf5")
    with pytest.raises(UsageError, match="expected a feature-barcode matrix"):
        read_dataset(as_table("visium", "outs"))
    write_matrix(outs / "a_filtered_feature_bc_matrix.h5", COUNTS, BARCODES)
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    write_matrix(outs / "b_filtered_feature_bc_matrix.h5", COUNTS, BARCODES)
    with pytest.raises(UsageError, match=r"found a_filtered.*, b_filtered.*; name the file"):
        read_dataset(as_table("visium", "outs"))


def test_damaged_indices_are_refused(tmp_path, as_table, write_matrix):
    import h5py

    write_positions(tmp_path / "outs/spatial", "2")
    path = write_matrix(tmp_path / "outs/filtered_feature_bc_matrix.h5", COUNTS, BARCODES)
    with h5py.File(path, "a") as file:
        file["matrix/indices"][0] = 99
    with pytest.raises(UsageError, match="found damaged indices"):
        read_dataset(as_table("visium", "outs"))


@pytest.mark.parametrize(
    ("folder", "platform", "shape", "total", "mpp"),
    [
        ("visium", "visium", (338, 36591), 4_851_955, 0.3669),
        ("hdvisium/binned_outputs/square_016um", "visium_hd", (675, 18082), 274_112, 0.2738),
        ("hdvisium/binned_outputs/square_002um", "visium_hd", (33859, 18082), 253_127, 0.2738),
        ("hdvisium/segmented_outputs", "visium_hd", (1487, 18085), 111_756, 0.2738),
    ],
)
def test_real_sections_of_10x(real_data, as_table, folder, platform, shape, total, mpp):
    """Sizes as the files' own ``matrix/shape`` says, less doubled symbols; sums of ``matrix/data``."""
    (section,) = read_dataset(as_table(platform, real_data / "visium_hd/tests/data" / folder))
    assert section.counts.shape == shape
    assert section.totals.sum() == total
    assert section.mpp == pytest.approx(mpp, abs=1e-4)
