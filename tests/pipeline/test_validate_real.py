"""Validation of a real run: tissue by its expression clusters, the same labels shuffled, and a coarse copy of a slide.

The labels are expression clusters, not pathology: they come from the counts of the section that is predicted, and show
that the command works and what its figures look like, not that a pathologist would agree.
"""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
from sklearn.metrics import roc_auc_score

from stimage_qupath import names
from stimage_qupath.cli import run as run_command
from stimage_qupath.config import PredictSettings, ValidateSettings
from stimage_qupath.pipeline import predict, validate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SECTION, MPP = "C6", 0.69
PITCH_PX = 200 / MPP
AMPLICON = ("GRB7", "STARD3", "PGAP3", "MIEN1")
"""Neighbours of ERBB2 on chromosome 17 that tell HER2-positive tumour; ERBB2 is left out, since it is asked for."""


def tumour_spots(folder):
    """Return spots with pixel_x, pixel_y and whether their cluster is high in the amplicon's genes."""
    clusters = pd.read_csv(folder / f"clusters/{SECTION}-cluster-annotation.tsv.gz", sep="\t")
    counts = pd.read_csv(folder / f"counts/{SECTION}.tsv.gz", sep="\t", index_col=0)
    spots = pd.read_csv(folder / f"spots/{SECTION}_selection.tsv", sep="\t")
    spots.index = spots.x.astype(str) + "x" + spots.y.astype(str)
    spots = spots.join(counts[list(AMPLICON)].div(counts.sum(axis=1), axis=0).sum(axis=1).rename("marker"), how="inner")
    nearest = (
        (spots[["pixel_x", "pixel_y"]].to_numpy()[:, None] - clusters[["pixel_x", "pixel_y"]].to_numpy()) ** 2
    ).sum(2)
    spots["cluster"] = clusters.label.to_numpy()[nearest.argmin(axis=1)]
    spots = spots[nearest.min(axis=1) < 1]  # a few spots were not clustered
    mean = spots.groupby("cluster").marker.transform("mean")
    return spots.assign(tumour=mean > spots.marker.mean())


def annotations(spots, labels, path):
    """Write connected squares around the spots of each label as annotations."""
    features = []
    for name in np.unique(labels):
        inside = spots[labels == name]
        squares = shapely.box(
            inside.pixel_x - PITCH_PX / 2, inside.pixel_y - PITCH_PX / 2,
            inside.pixel_x + PITCH_PX / 2, inside.pixel_y + PITCH_PX / 2,
        )  # fmt: skip
        for part in shapely.get_parts(shapely.union_all(squares)):
            properties = {"objectType": "annotation", "classification": {"name": str(name), "color": [200, 0, 0]}}
            features.append({"type": "Feature", "geometry": shapely.geometry.mapping(part), "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    image = real_data / "her2st" / "images" / f"{SECTION}.jpg"
    predict.run(PredictSettings(image=image, mpp=MPP, output=folder / "run", overview=False))
    return folder, tumour_spots(real_data / "her2st")


def test_erbb2_tells_tumour_clusters_from_the_rest(finished):
    folder, spots = finished
    labels = np.where(spots.tumour, "Tumour clusters", "Other clusters")
    path = annotations(spots, labels, folder / "clusters.geojson")
    found = validate.run(
        ValidateSettings(run=folder / "run", annotations=path, output=folder / "validation", genes=("ERBB2", "CD74"))
    )
    tumour = found["classes"]["Tumour clusters"]
    assert set(tumour["baselines"]) == {
        "nuclear density, 50 um", "hematoxylin of the nucleus", "eosin of the nucleus"
    }  # fmt: skip
    auroc = tumour["genes"]["ERBB2"]["auroc"]
    assert auroc["ci"][0] <= auroc["value"] <= auroc["ci"][1]
    assert auroc["value"] > 0.6
    assert "expression clusters are not pathology" in found["note"]
    page = (folder / "validation" / names.VALIDATION_HTML).read_text(encoding="utf-8")
    assert "expression clusters are not pathology" in page
    # The same figure by scikit-learn, nuclei labelled by hand.
    table = pd.read_parquet(folder / "run" / names.CELLS_PARQUET)
    inside = {
        name: shapely.contains_xy(_area(path, name), table.x_px, table.y_px)
        for name in ("Tumour clusters", "Other clusters")
    }
    one = inside["Tumour clusters"] ^ inside["Other clusters"]
    erbb2 = anndata.read_h5ad(folder / "run" / names.CELLS_H5AD)[:, "ERBB2"].X[:, 0]
    assert auroc["value"] == pytest.approx(roc_auc_score(inside["Tumour clusters"][one], erbb2[one]), abs=5e-3)


def _area(path, name):
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    return shapely.union_all(
        [shapely.geometry.shape(f["geometry"]) for f in features if f["properties"]["classification"]["name"] == name]
    )


def test_shuffled_labels_say_nothing(finished):
    folder, spots = finished
    covered = 0
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation(np.where(spots.tumour, "A", "B"))
        path = annotations(spots, labels, folder / f"shuffled{seed}.geojson")
        settings = ValidateSettings(
            run=folder / "run", annotations=path, output=folder / f"shuffled{seed}", genes=("ERBB2",)
        )
        auroc = validate.run(settings)["classes"]["A"]["genes"]["ERBB2"]["auroc"]
        covered += auroc["ci"][0] <= 0.5 <= auroc["ci"][1]
    assert covered >= 2


def test_a_coarse_copy_is_refused_with_the_reason(real_data, tmp_path, capsys):
    image = real_data / "her2st" / "images" / "A1_lowres.png"
    code = run_command(["predict", str(image), "--mpp", "3.19", "--output", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert code == 5
    assert "3.19" in said
    assert not (tmp_path / "run").exists()
