"""Labels of nuclei, spots and areas from the files that people have."""

from __future__ import annotations

import json

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from PIL import Image
from scipy import ndimage, sparse

from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.training.cell_types_labels import classified_nuclei, labelled_cells
from stimage_qupath.training.cell_types_places import annotated_areas, spot_proportions
from stimage_qupath.training.xenium_labels import compare_stains, read_reference, xenium_nuclei

MPP = 0.5
SIDE = 200


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "slide.png"
    Image.fromarray(np.full((SIDE, SIDE, 3), 230, np.uint8)).save(path)
    with open_slide(path) as found:
        yield found


def detection(x, y, name, *, radius=5, kind="detection", color=(1, 2, 3)):
    properties = {"objectType": kind}
    if name is not None:
        properties["classification"] = {"name": name, "color": list(color)}
    geometry = shapely.geometry.mapping(shapely.Point(x, y).buffer(radius))
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


def h5ad(path, points, labels, *, counts=None, genes=None):
    counts = sparse.csr_matrix(np.ones((len(points), 2)) if counts is None else counts)
    var = pd.DataFrame(index=["G1", "G2"] if genes is None else list(genes))
    obs = pd.DataFrame({"kind": labels}, index=[f"c{i}" for i in range(len(points))])
    data = anndata.AnnData(counts, obs=obs, var=var, obsm={"spatial": np.array(points, dtype=float)})
    data.write_h5ad(path)
    return path


def test_classified_detections_and_cells_are_taken_and_the_rest_is_counted(slide, tmp_path):
    path = write(
        tmp_path / "n.geojson",
        detection(20, 30, "Immune"),
        detection(60, 30, "Tumor: Positive", color=(200, 0, 0)),
        detection(90, 30, None),
        detection(120, 30, "Tumor", kind="annotation"),
    )
    labels = classified_nuclei(path, slide, MPP)
    np.testing.assert_allclose(labels.points_px, [[20, 30], [60, 30]], atol=0.01)
    assert labels.shares.columns.tolist() == ["Immune", "Tumor: Positive"]
    np.testing.assert_array_equal(labels.shares.to_numpy(), np.eye(2))
    assert labels.colors["Tumor: Positive"] == (200, 0, 0)
    assert "1 nuclei without a class were left out" in labels.notes
    with pytest.raises(UsageError, match=r"expected nuclei with a class in bare.geojson, found 1 without"):
        classified_nuclei(write(tmp_path / "bare.geojson", detection(1, 1, None)), slide, MPP)


def test_measured_cells_go_to_the_nucleus_they_lie_on_or_the_next(slide, tmp_path):
    nuclei = write(tmp_path / "n.geojson", *(detection(x, 50, None) for x in (20, 60, 100)))
    points = [(21, 51), (60, 63), (100, 50), (103, 50), (170, 170)]  # in; 8 px below; two on one; nowhere near
    cells = h5ad(tmp_path / "c.h5ad", points, ["B", "T", "B", "T", "T"])
    labels = labelled_cells(cells, slide, MPP, nuclei=nuclei, column="kind")
    assert labels.shares.idxmax(axis=1).tolist() == ["B", "T", "B"]
    np.testing.assert_allclose(labels.points_px[:, 0], [20, 60, 100], atol=0.01)
    assert labels.notes[-1] == "3 of 5 labelled cells lie on a nucleus of the image; the others were left out"


def test_cells_without_label_nuclei_or_place_are_refused_or_left_out(slide, tmp_path):
    nuclei = write(tmp_path / "n.geojson", detection(20, 50, None), detection(60, 50, None))
    some = h5ad(tmp_path / "s.h5ad", [(20, 50), (60, 50)], ["B", None])
    assert len(labelled_cells(some, slide, MPP, nuclei=nuclei, column="kind")) == 1
    with pytest.raises(UsageError, match=r"expected the nuclei of the image .* `stimage-qupath segment`"):
        labelled_cells(some, slide, MPP, nuclei=None, column="kind")
    with pytest.raises(UsageError, match=r"obs\['type'\] in s.h5ad, found one of them missing"):
        labelled_cells(some, slide, MPP, nuclei=nuclei, column="type")
    far = h5ad(tmp_path / "f.h5ad", [(190, 190)], ["B"])
    with pytest.raises(UsageError, match="found none of 1 within 5 um of one; check that the positions are pixels"):
        labelled_cells(far, slide, MPP, nuclei=nuclei, column="kind")


def proportions(folder, rows, spots):
    pd.DataFrame(rows, index=["3x4", "5x6", "9x9"], columns=["A", "B"]).to_csv(folder / "p.tsv", sep="\t")
    pd.DataFrame(spots, columns=["x", "y", "pixel_x", "pixel_y"]).to_csv(folder / "s.tsv", sep="\t", index=False)
    return folder / "p.tsv", folder / "s.tsv"


def test_spots_are_joined_by_name_and_their_nuclei_share_what_they_have(slide, tmp_path):
    path, spots = proportions(tmp_path, [[2, 2], [0, 5], [1, 0]], [[5, 6, 150, 50], [3.1, 4.2, 50, 50]])
    centres = spot_proportions(path, slide, MPP, spots=spots, nuclei=None)
    np.testing.assert_allclose(centres.points_px, [[50, 50], [150, 50]])
    np.testing.assert_allclose(centres.shares.to_numpy(), [[0.5, 0.5], [0, 1]])
    assert centres.nuclei is None
    nuclei = write(tmp_path / "n.geojson", detection(40, 50, None), detection(58, 50, None), detection(99, 120, None))
    shared = spot_proportions(path, slide, MPP, spots=spots, nuclei=nuclei, spot_um=40)  # 40 px around a spot
    np.testing.assert_allclose(shared.shares.to_numpy(), [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(shared.weight, [0.5, 0.5])
    assert shared.notes == ("1 of 2 spots hold no nucleus and were left out",)


def test_a_table_may_bring_its_own_places_and_must_hold_shares(slide, tmp_path):
    table = pd.DataFrame({"x_px": [10.0], "y_px": [20.0], "A": [0.2], "B": [0.6]}, index=["s"])
    table.to_csv(tmp_path / "own.csv")
    labels = spot_proportions(tmp_path / "own.csv", slide, MPP, spots=None, nuclei=None)
    np.testing.assert_allclose(labels.shares.to_numpy(), [[0.25, 0.75]])
    table.assign(A=-1.0).to_csv(tmp_path / "bad.csv")
    with pytest.raises(UsageError, match="expected proportions of at least 0"):
        spot_proportions(tmp_path / "bad.csv", slide, MPP, spots=None, nuclei=None)
    path, spots = proportions(tmp_path, [[1, 1]] * 3, [[7, 7, 1, 1]])
    with pytest.raises(UsageError, match=r"rows of p.tsv that are called XxY as in s.tsv, found none"):
        spot_proportions(path, slide, MPP, spots=spots, nuclei=None)
    with pytest.raises(UsageError, match="fill the column spots, or add x_px and y_px"):
        spot_proportions(path, slide, MPP, spots=None, nuclei=None)


def area(name, *box):
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [9, 9, 9]}}
    return {"type": "Feature", "geometry": shapely.geometry.mapping(shapely.box(*box)), "properties": properties}


def test_places_of_annotations_lie_on_one_grid_and_the_smallest_has_its_say(slide, tmp_path):
    path = write(tmp_path / "a.geojson", area("Stroma", 0, 0, 190, 190), area("Tumor", 75, 75, 125, 125))
    labels = annotated_areas(path, slide, MPP, grid_um=25)
    tumour = labels.points_px[labels.shares["Tumor"] == 1]
    assert tumour.tolist() == [[100, 100]]
    stroma = labels.points_px[labels.shares["Stroma"] == 1]
    assert (stroma % 50 == 0).all()
    assert not ((stroma == 100).all(axis=1)).any()
    assert labels.colors == {"Stroma": (9, 9, 9), "Tumor": (9, 9, 9)}
    small = write(tmp_path / "s.geojson", area("Stroma", 0, 0, 190, 190), area("Tumor", 110, 110, 120, 120))
    found = annotated_areas(small, slide, MPP, grid_um=25)
    assert found.points_px[found.shares["Tumor"] == 1].tolist() == [[115, 115]]


def test_annotations_without_class_are_refused(slide, tmp_path):
    bare = area("x", 0, 0, 50, 50)
    del bare["properties"]["classification"]
    with pytest.raises(UsageError, match=r"expected annotations with a class in b.geojson, found none"):
        annotated_areas(write(tmp_path / "b.geojson", bare), slide, MPP)
    with pytest.raises(AnnotationError, match="no area annotation"):
        annotated_areas(write(tmp_path / "n.geojson", detection(9, 9, "A")), slide, MPP)


GENES = [f"G{i}" for i in range(30)]


def marked(types, *, depth=60, seed=0):
    """Return counts whose first genes are high in A and whose last are high in B."""
    rate = np.where(np.array([t == "A" for t in types])[:, None], np.arange(30) < 15, np.arange(30) >= 15) * 4 + 0.5
    return np.random.default_rng(seed).poisson(rate / rate.sum(axis=1, keepdims=True) * depth).astype(float)


def test_a_xenium_bundle_gets_types_from_a_reference(slide, tmp_path, write_xenium):
    known = ["A", "B"] * 40
    reference = h5ad(tmp_path / "ref.h5ad", np.zeros((80, 2)), known, counts=marked(known), genes=GENES)
    truth = ["A", "B", "A"]
    places_um = np.array([[20.0, 50.0], [60.0, 50.0], [100.0, 50.0]]) * 0.2125  # 1 px of the image: 0.2125 um
    bundle = write_xenium(tmp_path / "bundle", marked(truth, seed=1), GENES, places_um)
    nuclei = write(tmp_path / "n.geojson", *(detection(x, 50, None) for x in (20, 60, 100)))
    labels, record = xenium_nuclei(
        bundle, slide, 0.2125, alignment="none", nuclei=nuclei, dapi=None, reference=read_reference(reference, "kind")
    )
    assert labels.shares.idxmax(axis=1).tolist() == truth
    assert record["transfer"]["held_out_accuracy"] > 0.9
    assert record["registration"] is None
    with pytest.raises(UsageError, match=r"expected the types in obs\['other'\]"):
        read_reference(reference, "other")
    with pytest.raises(UsageError, match=r"the Xenium bundle bundle cannot be read: .*export the alignment"):
        xenium_nuclei(
            bundle, slide, 0.2125, alignment="", nuclei=nuclei, dapi=None, reference=read_reference(reference, "kind")
        )


@pytest.fixture
def write_xenium():
    """Return a function that writes a bundle of cells."""

    def written(folder, counts, genes, places_um):
        folder.mkdir()
        names = [f"cell-{i}" for i in range(len(counts))]
        matrix = sparse.csc_matrix(counts.T)  # (feature, barcode), as Xenium Ranger writes it
        with h5py.File(folder / "cell_feature_matrix.h5", "w") as file:
            group = file.create_group("matrix")
            for key in ("data", "indices", "indptr"):
                group[key] = getattr(matrix, key)
            group["shape"] = np.array(matrix.shape)
            group["barcodes"] = np.array(names, dtype="S")
            for key, values in (("id", genes), ("name", genes), ("feature_type", ["Gene Expression"] * len(genes))):
                group[f"features/{key}"] = np.array(values, dtype="S")
        table = pd.DataFrame({"cell_id": names, "x_centroid": places_um[:, 0], "y_centroid": places_um[:, 1]})
        table.to_parquet(folder / "cells.parquet")
        return folder

    return written


@pytest.mark.parametrize("moved_um", [0.0, 16.0])
def test_a_shift_between_haematoxylin_and_dapi_is_reported(tmp_path, moved_um):
    """The DAPI image has pixels of 1 um and is turned round; the alignment says so, but for ``moved_um``."""
    rng = np.random.default_rng(0)
    canvas = np.zeros((500, 600))
    canvas[rng.integers(0, 500, 900), rng.integers(0, 600, 900)] = 1
    nuclei = ndimage.gaussian_filter(canvas, 4)
    nuclei /= nuclei.max()
    rgb = (235 - nuclei[..., None] * (140, 175, 90)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "he.png")  # 1 um a pixel
    turned = np.roll(nuclei, round(moved_um), axis=1)[::-1, ::-1]
    tifffile.imwrite(tmp_path / "dapi.tif", (turned * 5000).astype(np.uint16)[None])
    to_image = np.array([[-1.0, 0, 600], [0, -1.0, 500], [0, 0, 1]])
    with open_slide(tmp_path / "he.png") as slide:
        found = compare_stains(slide, 1.0, tmp_path / "dapi.tif", to_image, 1.0)
    assert found.shift_um == pytest.approx((-moved_um, 0), abs=2)
    assert (found.warning is None) == (moved_um == 0)
