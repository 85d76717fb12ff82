"""Tiny files in the layouts of the platforms."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy import sparse

HEADER = "section,patient,image,counts,spots,platform,mpp,kind,alignment,coordinate_system\n"


def write_h5(path, counts, barcodes, *, ids=None, names=None, types=None):
    """Write ``counts`` (barcode, feature) as Space Ranger does: compressed by column of (feature, barcode)."""
    matrix = sparse.csc_matrix(np.asarray(counts).T)
    features = matrix.shape[0]
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"] = np.array(matrix.shape)
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["features/id"] = np.array(ids or [f"ENSG{i:011d}" for i in range(features)], dtype="S")
        group["features/name"] = np.array(names or [f"G{i}" for i in range(features)], dtype="S")
        group["features/feature_type"] = np.array(types or ["Gene Expression"] * features, dtype="S")
    return path


@pytest.fixture
def as_table(tmp_path):
    """Return a function that writes a one-row dataset table beside an image that no reader opens."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "he.png")

    def write(platform, counts, *, spots="", mpp="", kind="", alignment="", coordinate_system=""):
        row = f"S,P,he.png,{counts},{spots},{platform},{mpp},{kind},{alignment},{coordinate_system}\n"
        (tmp_path / "table.csv").write_text(HEADER + row, encoding="utf-8")
        return tmp_path / "table.csv"

    return write


@pytest.fixture(scope="session")
def write_matrix():
    """Return :func:`write_h5`."""
    return write_h5
