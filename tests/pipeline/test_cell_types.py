"""Cell types from labelled nuclei to the run folder, on a slide with two kinds of nuclei."""

from __future__ import annotations

import gzip
import hashlib
import json
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from scipy import ndimage

from stimage_qupath import cli, names
from stimage_qupath.config import PredictSettings, TrainCellTypesSettings
from stimage_qupath.errors import CancelledError, UnknownModelError, UsageError
from stimage_qupath.models.cell_type_store import load_cell_types
from stimage_qupath.pipeline import predict, train_cell_types

KINDS = {"Immune": (7.0, (70, 40, 125)), "Tumor": (12.0, (125, 85, 170))}
PROBABILITIES = [f"STimage: Cell type: {name}: probability" for name in KINDS]


def write_slide(folder, name, *, seed):
    """Write 1000 x 900 px at 0.5 um: Immune nuclei are small and dark, Tumor nuclei large and pale; Tumor lies left."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(60 + 75.0 * np.arange(12), 60 + 75.0 * np.arange(11))
    centres = np.stack([x.ravel(), y.ravel()], axis=1) + rng.uniform(-12, 12, size=(132, 2))
    kinds = np.where((centres[:, 0] < 480) ^ (rng.random(132) < 0.1), "Tumor", "Immune")
    pixels = np.empty((900, 1000, 3))
    fibres = ndimage.gaussian_filter(rng.normal(size=(900, 1000)), 10)
    pixels[:] = (226, 168, 200) - 15 * (fibres / fibres.std())[..., None] * np.array([0.4, 1, 0.6])
    row, column = np.mgrid[0:900, 0:1000] + 0.5
    for (centre_x, centre_y), kind in zip(centres, kinds, strict=True):
        radius, colour = KINDS[kind]
        box = np.s_[int(centre_y) - 15 : int(centre_y) + 16, int(centre_x) - 15 : int(centre_x) + 16]
        cover = np.clip(radius + 0.5 - np.hypot(column[box] - centre_x, row[box] - centre_y), 0, 1)[..., None]
        pixels[box] = cover * np.array(colour) + (1 - cover) * pixels[box]
    noisy = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    tifffile.imwrite(
        folder / f"{name}.tif",
        noisy,
        photometric="rgb",
        tile=(256, 256),
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    features = [nucleus(c, KINDS[k][0], k) for c, k in zip(centres, kinds, strict=True)]
    (folder / f"{name}.geojson").write_text(json.dumps(features), encoding="utf-8")
    return SimpleNamespace(path=folder / f"{name}.tif", centres=centres, kinds=kinds)


def nucleus(centre, radius, kind):
    color = [200, 0, 0] if kind == "Tumor" else [1, 2, 3]
    return {
        "type": "Feature",
        "geometry": shapely.geometry.mapping(shapely.Point(centre).buffer(radius)),
        "properties": {"objectType": "detection", "classification": {"name": kind, "color": color}},
    }


def area(kind, *box):
    properties = {"objectType": "annotation", "classification": {"name": kind, "color": [5, 6, 7]}}
    return {"type": "Feature", "geometry": shapely.geometry.mapping(shapely.box(*box)), "properties": properties}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with two slides: S to learn from, with labels, areas and spots; T to predict for."""
    folder = tmp_path_factory.mktemp("types")
    slides = {name: write_slide(folder, name, seed=seed) for seed, name in enumerate("ST")}
    (folder / "nuclei.csv").write_text("image,labels,patient,licence\nS.tif,S.geojson,P1,CC0\n")
    areas = [area("left", 20, 20, 460, 880), area("right", 520, 20, 980, 880)]
    (folder / "areas.geojson").write_text(json.dumps(areas), encoding="utf-8")
    (folder / "areas.csv").write_text("image,labels,source\nS.tif,areas.geojson,annotations\n")
    x, y = (v.ravel() for v in np.meshgrid(np.arange(100, 1000, 100), np.arange(100, 900, 100)))
    share = np.clip((700 - x) / 500, 0.05, 0.95)
    pd.DataFrame({"x_px": x, "y_px": y, "Tumor": share, "Rest": 1 - share}).to_csv(folder / "spots.csv.gz")
    lone = [nucleus((50 + 20 * i, 50), 7, kind) for i, kind in enumerate(KINDS)]
    (folder / "lone.geojson").write_text(json.dumps(lone), encoding="utf-8")
    (folder / "lone.csv").write_text("image,labels\nS.tif,lone.geojson\n")
    (folder / "spots.csv").write_text("image,labels\nS.tif,spots.csv.gz\n")
    return SimpleNamespace(folder=folder, **slides)


def train(data, table, output, **changes):
    settings = (
        {"members": 3, "encoder": "none", "views": 1} if table == "nuclei.csv" else {"members": 3, "encoder": "colour"}
    )
    settings |= {"dataset": data.folder / table, "output": data.folder / output, "device": "cpu"} | changes
    return train_cell_types.run(TrainCellTypesSettings(**settings))


@pytest.fixture(scope="module")
def model(data):
    card = train(data, "nuclei.csv", "model")
    return SimpleNamespace(path=data.folder / "model", card=card)


def run(data, output, *, force=True, **changes):
    settings = {"image": data.T.path, "output": output, "genes": ("BGN",), "overview": False, "device": "cpu"} | changes
    return predict.run(PredictSettings(**settings, force=force))


@pytest.fixture(scope="module")
def typed(data, model):
    output = data.folder / "run"
    return SimpleNamespace(path=output, record=run(data, output, cell_types=(str(model.path),)))


def features_of(folder):
    with gzip.open(folder / names.CELLS_GEOJSON, "rb") as file:
        return json.load(file)["features"]


def truth_of(slide, table):
    """Return the kind of the nucleus that each row of a table outlines."""
    places = table[["x_px", "y_px"]].to_numpy()
    distance = np.hypot(*(places[:, None] - slide.centres[None]).transpose(2, 0, 1))
    assert (distance.min(axis=1) < 6).all()
    return slide.kinds[distance.argmin(axis=1)]


def test_the_card_says_what_it_was_trained_on_and_how_good_it_is_where_it_did_not_look(model):
    card = model.card
    assert card["classes"] == ["Immune", "Tumor"]
    assert card["colors"] == {"Immune": [1, 2, 3], "Tumor": [200, 0, 0]}
    assert card["features"] == {"encoder": None, "appearance": True, "shape": True}
    assert card["training"]["patients"] == 1
    assert card["training"]["images"][0]["licence"] == "CC0"
    assert card["training"]["left_out_together"] == "spatial block of 200 um"
    assert card["training"]["shares"]["Tumor"] == pytest.approx(card["training"]["images"][0]["classes"]["Tumor"] / 132)
    figures = card["figures"]["out_of_fold"]
    assert figures["f1"]["macro"]["value"] > 0.95
    assert figures["ece"] is None  # 132 nuclei hold no calibration
    assert np.array(figures["confusion"]).sum() == 132
    assert load_cell_types(model.path).card == json.loads((model.path / names.MODEL_JSON).read_text(encoding="utf-8"))


def test_nuclei_of_another_slide_get_the_right_class_colour_and_probability(data, typed):
    features = features_of(typed.path)
    table = pd.read_parquet(typed.path / names.CELLS_PARQUET)
    truth = truth_of(data.T, table)
    assert len(table) > 110
    assert (table.cell_type == truth).mean() > 0.95
    for feature, kind in zip(features, table.cell_type, strict=True):
        color = [200, 0, 0] if kind == "Tumor" else [1, 2, 3]
        assert feature["properties"]["classification"] == {"name": kind, "color": color}
        measured = feature["properties"]["measurements"]
        assert sum(measured[name] for name in PROBABILITIES) == pytest.approx(1, abs=1e-5)
        assert 0 <= measured["STimage: Cell type: mutual information"] <= measured["STimage: Cell type: entropy"] + 1e-6
        assert measured["STimage: Cell type: entropy"] <= np.log(2) + 1e-6


def test_tables_hold_the_same_under_their_own_names(typed):
    table = pd.read_parquet(typed.path / names.CELLS_PARQUET)
    data = anndata.read_h5ad(typed.path / names.CELLS_H5AD)
    columns = [f"cell_type_probability_{name}" for name in KINDS]
    columns += ["cell_type_entropy", "cell_type_mutual_information"]
    for column in columns:
        np.testing.assert_array_equal(data.obs[column], table[column])
    assert data.obs.cell_type.tolist() == table.cell_type.tolist()
    assert (table.cell_type_probability_Tumor > 0.5).tolist() == (table.cell_type == "Tumor").tolist()


def test_the_record_says_which_model_gave_the_class(model, typed):
    (entry,) = typed.record["cell_types"]
    assert entry["gives_class"]
    assert entry["level"] == "nucleus"
    assert entry["sha256"] == hashlib.sha256((model.path / names.MODEL_JSON).read_bytes()).hexdigest()
    assert "cell types" in typed.record["stages"]


def test_all_else_of_a_run_is_the_same_without_the_option(data, typed, tmp_path):
    run(data, tmp_path / "plain")
    ours = set(PROBABILITIES) | {"STimage: Cell type: entropy", "STimage: Cell type: mutual information"}
    for with_types, without in zip(features_of(typed.path), features_of(tmp_path / "plain"), strict=True):
        del with_types["properties"]["classification"]
        assert ours <= set(with_types["properties"]["measurements"])
        for name in ours:
            del with_types["properties"]["measurements"][name]
        assert with_types == without
    plain = pd.read_parquet(tmp_path / "plain" / names.CELLS_PARQUET)
    assert not [column for column in plain.columns if column.startswith("cell_type_")]


def test_the_users_nuclei_keep_their_class_and_get_measurements_alone(data, model, tmp_path):
    record = run(data, tmp_path / "mine", nuclei=data.folder / "T.geojson", cell_types=(str(model.path),))
    features = features_of(tmp_path / "mine")
    assert sorted(f["properties"]["classification"]["name"] for f in features) == sorted(data.T.kinds)
    assert all(PROBABILITIES[0] in f["properties"]["measurements"] for f in features)
    assert not record["cell_types"][0]["gives_class"]
    with pytest.raises(UsageError, match="found the user's, which keep theirs"):
        run(
            data,
            tmp_path / "no",
            nuclei=data.folder / "T.geojson",
            cell_types=(str(model.path),),
            classify="always",
        )


@pytest.mark.flow
def test_regions_and_neighbourhoods_are_measurements_and_no_class_unless_asked(data, tmp_path):
    regions = train(data, "areas.csv", "regions", level="region")
    spots = train(data, "spots.csv", "spots", level="neighbourhood")
    assert regions["figures"]["out_of_fold"]["f1"]["macro"]["value"] > 0.8
    assert spots["figures"]["out_of_fold"]["agreement"]["Tumor"]["pearson"] > 0.5
    assert "not its own type" in spots["meaning"]
    both = (str(data.folder / "regions"), str(data.folder / "spots"))
    run(data, tmp_path / "run", cell_types=both)
    table = pd.read_parquet(tmp_path / "run" / names.CELLS_PARQUET)
    assert table.cell_type.isna().all()
    left = table.x_px < 450
    assert (table.region_probability_left[left] > 0.5).mean() > 0.9
    assert table.neighbourhood_proportion_Tumor[left].mean() > table.neighbourhood_proportion_Tumor[~left].mean() + 0.2
    measured = features_of(tmp_path / "run")[0]["properties"]["measurements"]
    assert {"STimage: Region: left: probability", "STimage: Neighbourhood: Tumor: proportion"} <= set(measured)
    assert "STimage: Region: entropy" in measured
    run(data, tmp_path / "asked", cell_types=both[:1], classify="always")
    assert set(pd.read_parquet(tmp_path / "asked" / names.CELLS_PARQUET).cell_type) == {"left", "right"}


def test_the_command_trains_says_its_figures_and_predicts(data, model, tmp_path, capsys):
    arguments = ["train-cell-types", str(data.folder / "nuclei.csv"), "--output", str(tmp_path / "m"), "--members", "2"]
    assert cli.run([*arguments, "--encoder", "none", "--looks", "shape", "--views", "0"]) == 0
    said = capsys.readouterr().out
    assert "Tumor: F1 " in said
    assert "(left out: spatial block of 200 um)" in said
    card = json.loads((tmp_path / "m" / names.MODEL_JSON).read_text(encoding="utf-8"))
    assert card["features"] == {"encoder": None, "appearance": False, "shape": True}
    predicted = ["predict", str(data.T.path), "--output", str(tmp_path / "run"), "--genes", "BGN", "--no-overview"]
    assert cli.run([*predicted, "--cell-types", str(tmp_path / "m"), "--classify", "never"]) == 0
    table = pd.read_parquet(tmp_path / "run" / names.CELLS_PARQUET)
    assert table.cell_type_entropy.notna().all()
    assert table.cell_type.isna().all()
    assert cli.run([*predicted, "--force", "--cell-types", str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize(
    ("table", "changes", "error", "message"),
    [
        ("nuclei.csv", {"level": "region", "looks": ("shape",)}, UsageError, "expected shape only of nuclei"),
        ("nuclei.csv", {"encoder": "none", "looks": ()}, UsageError, "expected an encoder, appearance or shape"),
        ("areas.csv", {}, UsageError, "expected a source out of geojson, anndata, xenium for level nucleus"),
        (
            "lone.csv",
            {"encoder": "none"},
            UsageError,
            "expected labels in at least 5 blocks of 50 um, found 1; label more",
        ),
        ("none.csv", {}, UsageError, "expected a dataset table at"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(data, table, changes, error, message):
    with pytest.raises(error, match=message):
        train(data, table, "refused", **changes)
    assert not (data.folder / "refused").exists()


def test_classes_that_tables_could_not_tell_apart_are_refused(data):
    text = (data.folder / "S.geojson").read_text(encoding="utf-8").replace('"Immune"', '"Tu mor"')
    (data.folder / "like.geojson").write_text(text.replace('"Tumor"', '"Tu-mor"'), encoding="utf-8")
    (data.folder / "like.csv").write_text("image,labels\nS.tif,like.geojson\n")
    with pytest.raises(UsageError, match="expected classes that differ in letters or digits, found Tu mor and Tu-mor"):
        train(data, "like.csv", "refused", encoder="none")


def test_two_models_of_one_level_a_gene_model_and_a_request_without_model_are_refused(data, model, tmp_path):
    with pytest.raises(UsageError, match="each speak of something else, found levels nucleus, nucleus"):
        run(data, tmp_path / "two", cell_types=(str(model.path),) * 2)
    with pytest.raises(UsageError, match="expected a cell-type model to classify nuclei by, found none"):
        run(data, tmp_path / "none", classify="always")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / names.MODEL_JSON).write_text('{"kind": "nuclei"}')
    with pytest.raises(UnknownModelError, match="expected a cell-type model"):
        run(data, tmp_path / "other-run", cell_types=(str(tmp_path / "other"),))


def test_training_can_be_cancelled_and_an_existing_folder_is_kept(data, model, tmp_path):
    settings = TrainCellTypesSettings(dataset=data.folder / "nuclei.csv", output=tmp_path / "c", encoder="none")
    with pytest.raises(CancelledError):
        train_cell_types.run(settings, cancelled=lambda: True)
    assert not (tmp_path / "c").exists()
    with pytest.raises(UsageError, match=r"expected no .* yet, found one"):
        train(data, "nuclei.csv", "model")
    before = (model.path / names.MODEL_JSON).read_bytes()
    train(data, "nuclei.csv", "model", force=True)
    assert (model.path / names.MODEL_JSON).read_bytes() == before  # equal seeds, equal bytes


@pytest.mark.slow
def test_an_encoder_of_the_nucleus_is_recorded_and_used(data, tmp_path):
    card = train(data, "nuclei.csv", "deep", encoder="nucleus", members=2, views=0)
    assert card["features"]["encoder"]["name"] == "nucleus"
    assert card["features"]["encoder"]["weights_sha256"]
    run(data, tmp_path / "run", cell_types=(str(data.folder / "deep"),))
    table = pd.read_parquet(tmp_path / "run" / names.CELLS_PARQUET)
    assert (table.cell_type == truth_of(data.T, table)).mean() > 0.9
