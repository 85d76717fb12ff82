"""Xenium bundles: cells, outlines, and the way to the H&E image."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.readers import read_dataset
from stimage_qupath.spots.xenium import read_outlines

CELLS = pd.DataFrame({"cell_id": ["b-1", "a-1"], "x_centroid": [21.25, 42.5], "y_centroid": [2.125, 4.25]})
TYPES = ["Gene Expression", "Negative Control Probe"]


@pytest.fixture
def bundle(tmp_path, write_matrix):
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_matrix(folder / "cell_feature_matrix.h5", [[1, 9], [2, 9]], ["a-1", "b-1"], names=["A", "Neg"], types=TYPES)
    CELLS.to_parquet(folder / "cells.parquet")
    return folder


def test_cells_lie_on_the_morphology_image(bundle, as_table):
    """42.5 um are 200 px of 0.2125 um."""
    (section,) = read_dataset(as_table("xenium", "bundle", alignment="none"))
    np.testing.assert_allclose(section.positions_px, [[200, 20], [100, 10]])
    np.testing.assert_array_equal(section.counts.toarray(), [[1], [2]])
    assert section.mpp == pytest.approx(0.2125)
    assert section.notes == ("features of other types left out: 1 Negative Control Probe",)


def test_the_alignment_is_turned_round(bundle, tmp_path, as_table):
    """The matrix carries H&E px to morphology px: turned by 90 degrees, twice as fine, shifted."""
    matrix = np.array([[0, -0.5, 300], [0.5, 0, 10], [0, 0, 1]])
    np.savetxt(tmp_path / "he.csv", matrix, delimiter=",")
    (section,) = read_dataset(as_table("xenium", "bundle", alignment="he.csv"))
    back = np.column_stack([section.positions_px, [1, 1]]) @ matrix.T
    np.testing.assert_allclose(back[:, :2], [[200, 20], [100, 10]])
    np.testing.assert_allclose(section.positions_px, [[20, 200], [0, 400]])
    assert section.mpp == pytest.approx(0.2125 / 2)


def test_the_bundle_states_its_pixel_size(bundle, as_table):
    (bundle / "experiment.xenium").write_text('{"pixel_size": 0.425}')
    (section,) = read_dataset(as_table("xenium", "bundle", alignment="none"))
    np.testing.assert_allclose(section.positions_px, [[100, 10], [50, 5]])


@pytest.mark.parametrize("kind", ["csv.gz", "bytes", "numbers"])
def test_cells_in_every_dress(bundle, as_table, write_matrix, kind):
    table = CELLS.copy()
    (bundle / "cells.parquet").unlink()
    if kind == "csv.gz":
        table.to_csv(bundle / "cells.csv.gz", index=False)
    elif kind == "bytes":
        table["cell_id"] = [name.encode() for name in table.cell_id]
        table.to_parquet(bundle / "cells.parquet")
    else:
        table["cell_id"] = [2, 1]
        write_matrix(bundle / "cell_feature_matrix.h5", [[1, 9], [2, 9]], ["1", "2"], types=TYPES)
        table.to_csv(bundle / "cells.csv")
    (section,) = read_dataset(as_table("xenium", "bundle", alignment="none"))
    np.testing.assert_allclose(section.positions_px, [[200, 20], [100, 10]])


def test_outlines_stand_in_for_cells(bundle, as_table):
    (bundle / "cells.parquet").unlink()
    corner = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * 2.125
    rows = [
        (name, *(np.array(centre) + c))
        for name, centre in {"a-1": (42.5, 4.25), "b-1": (21.25, 4.25)}.items()
        for c in corner
    ]
    pd.DataFrame(rows, columns=["cell_id", "vertex_x", "vertex_y"]).to_parquet(bundle / "cell_boundaries.parquet")
    outlines = read_outlines(bundle)
    assert outlines["a-1"].area == pytest.approx(400)  # 4.25 um are 20 px
    (section,) = read_dataset(as_table("xenium", "bundle", alignment="none"))
    np.testing.assert_allclose(section.positions_px, [[200, 20], [100, 20]])


def test_faults_are_named(bundle, tmp_path, as_table):
    with pytest.raises(UsageError, match="expected how the image lies on the Xenium bundle, found nothing"):
        read_dataset(as_table("xenium", "bundle"))
    with pytest.raises(UsageError, match=r"expected an alignment matrix at .*gone.csv, found no file"):
        read_dataset(as_table("xenium", "bundle", alignment="gone.csv"))
    (tmp_path / "he.csv").write_text("1,0,0\n0,1,0\n")
    with pytest.raises(UsageError, match="expected a 3 x 3 matrix ending in 0,0,1"):
        read_dataset(as_table("xenium", "bundle", alignment="he.csv"))
    CELLS.drop(columns="x_centroid").to_parquet(bundle / "cells.parquet")
    with pytest.raises(UsageError, match="found no x_centroid"):
        read_dataset(as_table("xenium", "bundle", alignment="none"))


def test_a_real_bundle(real_data, as_table):
    """526 cells and 30 features, three of them controls; cells and outlines agree on where a cell is."""
    folder = real_data / "reader_fixtures/pachterlab__SpatialFeatureExperiment/inst/extdata/xenium"
    (section,) = read_dataset(as_table("xenium", folder, alignment="none"))
    assert section.counts.shape == (526, 27)
    outlines = read_outlines(folder)
    assert len(outlines) == 526
    centres = np.array(
        [outlines[name].centroid.coords[0] for name in pd.read_parquet(folder / "cells.parquet").cell_id]
    )
    assert np.median(np.linalg.norm(centres - section.positions_px, axis=1)) * 0.2125 < 1  # um
