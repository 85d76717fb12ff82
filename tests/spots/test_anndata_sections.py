"""AnnData and SpatialData: where counts, names and places may stand."""

from __future__ import annotations

import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from stimage_qupath.errors import MissingPartError, UsageError
from stimage_qupath.spots.readers import read_dataset

COUNTS = np.array([[3.0, 0], [1, 2], [7, 7]], dtype=np.float32)


def make(x=COUNTS, **var):
    data = anndata.AnnData(X=x, var=pd.DataFrame(var, index=["G1", "G2"]))
    data.obs_names = ["a", "b", "c"]
    data.obsm["spatial"] = np.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    return data


def read(data, tmp_path, as_table, **cells):
    data.write_h5ad(tmp_path / "s.h5ad")
    (section,) = read_dataset(as_table("anndata", "s.h5ad", **cells))
    return section


def test_raw_serves_where_x_is_normalised(tmp_path, as_table):
    data = make()
    data.raw = data.copy()
    data.X = np.log1p(COUNTS)
    np.testing.assert_array_equal(read(data, tmp_path, as_table).counts.toarray(), COUNTS)


def test_spots_outside_tissue_and_other_features_are_out(tmp_path, as_table):
    data = make(feature_types=["Gene Expression", "Antibody Capture"], gene_ids=["ENSG00000141736.9", ""])
    data.obs["in_tissue"] = [1, 0, 1]
    section = read(data, tmp_path, as_table)
    assert section.genes == ("G1",)
    assert section.gene_ids == ("ENSG00000141736",)
    np.testing.assert_array_equal(section.counts.toarray(), [[3], [7]])
    np.testing.assert_array_equal(section.positions_px, [[10, 20], [50, 60]])
    assert section.notes == (
        "1 of 3 spots outside tissue (in_tissue 0) left out",
        "features of other types left out: 1 Antibody Capture",
    )
    assert read(data, tmp_path, as_table, kind="protein").genes == ("G2",)


def test_symbols_of_a_table_of_accessions(tmp_path, as_table):
    data = make(feature_name=["ERBB2", ""])
    data.var_names = ["ENSG00000141736", "ENSG00000000002"]
    section = read(data, tmp_path, as_table)
    assert section.genes == ("ERBB2", "ENSG00000000002")
    assert section.gene_ids == ("ENSG00000141736", "ENSG00000000002")
    assert section.notes == ("1 of 2 genes have no symbol and keep their Ensembl accession",)


def test_faults_are_named(tmp_path, as_table):
    data = make()
    del data.obsm["spatial"]
    with pytest.raises(UsageError, match=r"expected obsm\['spatial'\] with x, y in pixels in s.h5ad, found nothing"):
        read(data, tmp_path, as_table)
    (tmp_path / "s.h5ad").write_text("x,y\n")
    with pytest.raises(UsageError, match="expected an AnnData file"):
        read_dataset(as_table("anndata", "s.h5ad"))
    (tmp_path / "spots.csv").write_text("x,y\n")
    with pytest.raises(UsageError, match="expected no spot table for platform anndata"):
        read_dataset(as_table("anndata", "s.h5ad", spots="spots.csv"))
    data = make(np.array([[np.nan, 1], [0, 1], [1, 1]], dtype=np.float32))
    with pytest.raises(UsageError, match="expected finite values in section S"):
        read(data, tmp_path, as_table)
    data = make()
    data.obsm["spatial"][1] = np.nan
    with pytest.raises(UsageError, match="expected a position for every spot"):
        read(data, tmp_path, as_table)


def test_spatialdata_that_is_not_installed(tmp_path, as_table, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    (tmp_path / "s.zarr").mkdir()
    with pytest.raises(MissingPartError, match=r'run: pip install "stimage-qupath\[spatial\]"'):
        read_dataset(as_table("spatialdata", "s.zarr"))


@pytest.mark.filterwarnings("default")
def test_spatialdata_in_the_frame_of_the_image(tmp_path, as_table):
    """Circles in their own frame, which is twice as fine as the image; rows of the table in another order."""
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    circles = ShapesModel.parse(
        np.array([[20.0, 40.0], [60.0, 80.0], [100.0, 120.0]]),
        geometry=0,
        radius=5.0,
        index=pd.Index([5, 6, 7]),
        transformations={"image": Scale([0.5, 0.5], axes=("x", "y")), "global": Identity()},
    )
    data = make()
    del data.obsm["spatial"]
    data.obs["region"] = pd.Categorical(["spots"] * 3)
    data.obs["spot"] = [7, 5, 6]
    table = TableModel.parse(data, region="spots", region_key="region", instance_key="spot")
    spatialdata.SpatialData(shapes={"spots": circles}, tables={"table": table}).write(tmp_path / "s.zarr")
    (section,) = read_dataset(as_table("spatialdata", "s.zarr", coordinate_system="image"))
    np.testing.assert_allclose(section.positions_px, [[50, 60], [10, 20], [30, 40]])
    np.testing.assert_array_equal(section.counts.toarray(), COUNTS)
    with pytest.raises(UsageError, match=r"expected the coordinate system 'px' .* found .*image"):
        read_dataset(as_table("spatialdata", "s.zarr", coordinate_system="px"))
