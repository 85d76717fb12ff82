"""The run folder: three files of the same nuclei, whole or absent, equal for equal input."""

from __future__ import annotations

import errno
import gzip
import io
import json
import platform
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import geojson
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely.geometry import shape

from stimage_qupath import names
from stimage_qupath.errors import OutputError, OutputExistsError, UnknownGeneError, UsageError
from stimage_qupath.export.run_folder import RunWriter, read_run
from stimage_qupath.geojson_dialect import read_features
from stimage_qupath.results import Region

REGIONS = [
    Region(id="00000000-0000-0000-0000-00000000000a", geometry=shapely.box(0, 0, 400.125, 90), name="core", z=1),
    Region(id="00000000-0000-0000-0000-00000000000b", geometry=shapely.box(400, 0, 900, 90), classification="Tumor",
           z=1, color=(1, 2, 3), is_locked=True, source="tissue"),
]  # fmt: skip
SIZES = (20, 30)
CARD = {"name": "starter", "patients": np.int64(3), "heldout": {"ERBB2": np.float32(0.25), "KRT5": float("nan")}}


@pytest.fixture
def write(panel, make_cells, make_prediction):
    """Return a writer of a run of two regions, in any number of blocks."""

    def write(output: Path, *, cuts: tuple[int, ...] = (), fields: Any = None, **options: Any) -> Path:
        options = {"panel": panel, "genes": ("KRT5", "ERBB2"), "model_card": CARD, **options}
        with RunWriter(output, **options) as writer:
            first = 0
            for region, size in zip(REGIONS, SIZES, strict=True):
                writer.start_region(region)
                edges = [0, *(cut for cut in cuts if cut < size), size]
                for a, b in pairwise(edges):
                    cells = make_cells(b - a, first + a, **(fields(first + a, first + b) if fields else {}))
                    prediction = make_prediction(b - a, first + a, intervals=True) if options["panel"] else None
                    writer.append(cells, prediction)
                first += size
            return writer.finish({"version": "1.2", "path": Path("x")})

    return write


def features_of(output: Path) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress((output / names.CELLS_GEOJSON).read_bytes()))["features"]


def cell_types(first: int, last: int) -> dict[str, Any]:
    """Nuclei of the first region have no class at all, as when the user's annotation has none."""
    if first < SIZES[0]:
        return {}
    return {"classifications": np.array([("Immune", "Tumor", None)[i % 3] for i in range(first, last)], dtype=object)}


def test_folder_holds_the_four_files(tmp_path: Path, write) -> None:
    output = write(tmp_path / "run")
    assert output == (tmp_path / "run").resolve()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "cells.geojson.gz",
        "cells.h5ad",
        "cells.parquet",
        "run",
        "run.json",
    ]


def test_ids_order_and_regions_are_shared(tmp_path: Path, write) -> None:
    output = write(tmp_path / "run", cuts=(7, 11))
    run = read_run(output)
    table, data = run.table(), run.anndata()
    ids = [feature["id"] for feature in features_of(output)]
    assert len(run) == len(ids) == len(set(ids)) == sum(SIZES)
    assert table["cell_id"].tolist() == data.obs_names.tolist() == ids
    assert table["region_id"].tolist() == data.obs["region_id"].tolist()
    assert [(span.first, span.count) for span in run.spans] == [(0, 20), (20, 30)]
    for span in run.spans:
        assert set(table["region_id"][span.rows]) == {span.region.id}
    np.testing.assert_array_equal(table[["x_px", "y_px"]], data.obsm["spatial"])
    assert data.obsm["spatial"].dtype == np.float64


def test_geojson_is_what_qupath_shall_show(tmp_path: Path, write, make_cells, make_prediction) -> None:
    output = write(tmp_path / "run", measurements="all", fields=cell_types, color_of_class={"Immune": (9, 8, 7)})
    features = features_of(output)
    cells, prediction = make_cells(50), make_prediction(50, intervals=True)
    feature = features[24]
    values = feature["properties"]["measurements"]
    assert list(values) == [
        names.AREA,
        names.CIRCULARITY,
        "STimage: object version",
        "STimage: OOD score",
        "STimage: outside training",
        *(f"STimage: {gene}: {what}" for gene in ("KRT5", "ERBB2")
          for what in ("mean", "aleatoric SD", "epistemic SD", "p05", "p95")),
    ]  # fmt: skip
    assert feature["properties"]["objectType"] == "detection"
    assert feature["properties"]["classification"] == {"name": "Immune", "color": [9, 8, 7]}
    assert values["STimage: object version"] == 1.0
    assert (values["STimage: OOD score"], values["STimage: outside training"]) == (2.0, 1)
    mean = float(prediction.mean[24, 3])
    assert values["STimage: KRT5: mean"] == pytest.approx(mean)
    assert values["STimage: KRT5: aleatoric SD"] == pytest.approx(2 * mean)
    assert values["STimage: KRT5: epistemic SD"] == pytest.approx(3 * mean)
    assert values["STimage: KRT5: p05"] == pytest.approx(mean / 2)
    for found, polygon in zip(features, cells.polygons, strict=True):
        assert shape(found["geometry"]).hausdorff_distance(polygon) < 0.0075
    assert geojson.loads(json.dumps(features[0])).is_valid
    assert [f.object_type for f in read_features(output / names.CELLS_GEOJSON)] == ["detection"] * 50


def test_parquet_holds_exactly_what_qupath_got(tmp_path: Path, write) -> None:
    output = write(tmp_path / "run", measurements="all", fields=cell_types)
    table = pd.read_parquet(output / names.CELLS_PARQUET)
    assert list(table.columns) == [
        "cell_id", "region_id", "cell_type", "x_px", "y_px", "nucleus_area_um2", "nucleus_circularity",
        "ood_score", "outside_training", *(f"{gene}_{what}" for gene in ("KRT5", "ERBB2")
                                           for what in ("mean", "aleatoric_sd", "epistemic_sd", "p05", "p95")),
    ]  # fmt: skip
    assert isinstance(table.index, pd.RangeIndex)
    rows = [feature["properties"]["measurements"] for feature in features_of(output)]
    for measurement, column in {
        names.AREA: "nucleus_area_um2",
        names.OOD_SCORE: "ood_score",
        names.OUTSIDE_TRAINING: "outside_training",
        "STimage: ERBB2: mean": "ERBB2_mean",
        "STimage: KRT5: epistemic SD": "KRT5_epistemic_sd",
        "STimage: KRT5: p95": "KRT5_p95",
    }.items():
        assert table[column].dtype == np.float32
        assert table[column].tolist() == [float(np.float32(row[measurement])) for row in rows]
    assert table["cell_type"][:20].isna().all()
    assert table["cell_type"][20:23].isna().tolist() == [True, False, False]
    assert table["cell_type"][21:23].tolist() == ["Immune", "Tumor"]


@pytest.mark.parametrize("intervals", [False, True])
def test_h5ad_holds_the_whole_panel(tmp_path: Path, write, panel, make_prediction, intervals: bool) -> None:
    output = write(tmp_path / "run", intervals=intervals, fields=cell_types, cuts=(3,))
    data = anndata.read_h5ad(output / names.CELLS_H5AD)
    prediction = make_prediction(50, intervals=True)
    assert data.var_names.tolist() == list(panel.genes)
    np.testing.assert_array_equal(data.X, prediction.mean)
    assert data.X.dtype == np.float32
    layers = {"aleatoric", "epistemic", *(["p05", "p95", "high"] if intervals else [])}
    assert set(data.layers) - {None} == layers  # newer AnnData lists X as the layer None
    for name in layers:
        np.testing.assert_array_equal(data.layers[name], getattr(prediction, name))
    assert list(data.obs.columns) == [
        "region_id", "cell_type", "nucleus_area_um2", "nucleus_circularity", "ood_score", "outside_training",
    ]  # fmt: skip
    assert data.obs["cell_type"].isna().sum() == 20 + 10
    assert data.obs["cell_type"].dropna().tolist()[:3] == ["Immune", "Tumor", "Immune"]
    np.testing.assert_array_equal(data.obs["ood_score"], prediction.ood_score)
    uns = data.uns["stimage_qupath"]
    assert json.loads(uns["card"]) == {"name": "starter", "patients": 3, "heldout": {"ERBB2": 0.25, "KRT5": None}}
    assert [(r["name"], r["first"], r["count"]) for r in json.loads(uns["regions"])] == [
        ("core", 0, 20),
        (None, 20, 30),
    ]
    assert uns["units"]["epistemic"] == "variance, counts^2"


def test_h5ad_survives_anndatas_own_round_trip(tmp_path: Path, write) -> None:
    data = read_run(write(tmp_path / "run", fields=cell_types, intervals=True)).anndata()
    data.write_h5ad(tmp_path / "again.h5ad")
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    pd.testing.assert_frame_equal(again.obs, data.obs)
    np.testing.assert_array_equal(again.X, data.X)
    assert again.uns == data.uns


def test_backed_matrices_stay_on_the_disk(tmp_path: Path, write, make_prediction) -> None:
    data = read_run(write(tmp_path / "run")).anndata(backed=True)
    assert data.isbacked
    np.testing.assert_array_equal(data.X[3:5], make_prediction(50).mean[3:5])
    data.file.close()


def test_equal_input_gives_equal_files(tmp_path: Path, write) -> None:
    first = write(tmp_path / "first", fields=cell_types)
    second = write(tmp_path / "a" / "second", fields=cell_types)
    for name in (names.CELLS_GEOJSON, names.CELLS_PARQUET, names.CELLS_H5AD):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (first / names.CELLS_GEOJSON).read_bytes()[4:8] == bytes(4)  # the time of a gzip header


def test_files_do_not_depend_on_the_blocks(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stimage_qupath.export.cells_parquet.ROW_GROUP", 16)
    whole = write(tmp_path / "whole", fields=cell_types)
    pieces = write(tmp_path / "pieces", fields=cell_types, cuts=(1, 2, 13), chunk_cells=5)
    for name in (names.CELLS_GEOJSON, names.CELLS_PARQUET):
        assert (whole / name).read_bytes() == (pieces / name).read_bytes()
    a, b = read_run(whole).anndata(), read_run(pieces).anndata()
    pd.testing.assert_frame_equal(a.obs, b.obs)
    np.testing.assert_array_equal(a.layers["epistemic"], b.layers["epistemic"])


def test_run_json_indexes_the_regions(tmp_path: Path, write) -> None:
    run = read_run(write(tmp_path / "run"))
    assert run.record["version"] == "1.2"
    assert run.record["path"] == "x"
    assert run.record["cells"] == 50
    assert run.record["genes"] == ["KRT5", "ERBB2"]
    assert "STimage: KRT5: mean" in run.record["measurements"]
    entries = run.record["regions"]
    assert [(entry["id"], entry["first"], entry["count"]) for entry in entries] == [
        (REGIONS[0].id, 0, 20),
        (REGIONS[1].id, 20, 30),
    ]
    assert [span.region for span in run.spans] == REGIONS


def test_no_nuclei_is_a_whole_run(tmp_path: Path, panel) -> None:
    with RunWriter(tmp_path / "run", panel=panel, genes=("ERBB2",), model_card={}, intervals=True) as writer:
        writer.start_region(REGIONS[0])
        run = read_run(writer.finish({}))
    assert features_of(run.path) == []
    assert run.table().shape == (0, 10)
    assert "ERBB2_mean" in run.table()
    data = run.anndata()
    assert data.shape == (0, 4)
    assert data.layers["p95"].shape == (0, 4)
    assert [(span.region, span.first, span.count) for span in run.spans] == [(REGIONS[0], 0, 0)]


def test_region_without_nuclei_between_others(tmp_path: Path, panel, make_cells, make_prediction) -> None:
    with RunWriter(tmp_path / "run", panel=panel, model_card={}) as writer:
        writer.start_region(REGIONS[0])
        writer.append(make_cells(0), make_prediction(0))
        writer.start_region(REGIONS[1])
        writer.append(make_cells(3), make_prediction(3))
        run = read_run(writer.finish({}))
    assert [(span.first, span.count) for span in run.spans] == [(0, 0), (0, 3)]
    assert run.anndata().obs["region_id"].tolist() == [REGIONS[1].id] * 3


def test_segmented_only(tmp_path: Path, write) -> None:
    run = read_run(write(tmp_path / "run", panel=None, genes=()))
    assert list(run.table().columns)[5:] == ["nucleus_area_um2", "nucleus_circularity"]
    assert run.anndata().shape == (50, 0)
    assert list(features_of(run.path)[0]["properties"]["measurements"]) == [
        names.AREA,
        names.CIRCULARITY,
        names.OBJECT_VERSION,
    ]


def test_nuclei_of_the_user_are_not_marked_as_ours(tmp_path: Path, write) -> None:
    output = write(tmp_path / "run", own_objects=False)
    assert all(names.OBJECT_VERSION not in f["properties"]["measurements"] for f in features_of(output))


def test_cells_with_boundaries_are_cells(tmp_path: Path, panel, make_cells, make_prediction) -> None:
    nuclei = make_cells(3)
    boundaries = np.array([polygon.buffer(2) for polygon in nuclei.polygons], dtype=object)
    with RunWriter(tmp_path / "run", panel=panel, model_card={}) as writer:
        writer.start_region(REGIONS[0])
        writer.append(make_cells(3, boundaries=boundaries), make_prediction(3))
        output = writer.finish({})
    found = read_features(output / names.CELLS_GEOJSON)
    assert [f.object_type for f in found] == ["cell"] * 3
    assert all(f.nucleus is not None and f.geometry.contains(f.nucleus) for f in found)


def test_missing_prediction_values_are_left_out_of_geojson_and_nan_elsewhere(
    tmp_path: Path, panel, make_cells, make_prediction
) -> None:
    prediction = make_prediction(3)
    for values in (prediction.mean, prediction.ood_score):
        values[1] = np.nan
    with RunWriter(tmp_path / "run", panel=panel, genes=("ERBB2",), model_card={}) as writer:
        writer.start_region(REGIONS[0])
        writer.append(make_cells(3), prediction)
        run = read_run(writer.finish({}))
    values = features_of(run.path)[1]["properties"]["measurements"]
    assert not {"STimage: ERBB2: mean", names.OOD_SCORE, names.OUTSIDE_TRAINING} & values.keys()
    assert run.table(["ERBB2_mean", "outside_training"]).isna().to_numpy().tolist() == [
        [False] * 2,
        [True] * 2,
        [False] * 2,
    ]


def test_extra_files_travel_with_the_run(tmp_path: Path, panel) -> None:
    with RunWriter(tmp_path / "run", panel=panel, model_card={}) as writer:
        (writer.folder / "report.html").write_text("report")
        output = writer.finish({})
    assert (output / "report.html").read_text() == "report"
    assert "partial" not in output.name


# What may not be written, and what is left then.


def test_arguments_are_checked_before_any_work(tmp_path: Path, panel, write) -> None:
    with pytest.raises(UnknownGeneError, match=r"expected genes of the model's panel, found EGFR, XX; choose"):
        RunWriter(tmp_path / "run", panel=panel, genes=("ERBB2", "EGFR", "XX"), model_card={})
    with pytest.raises(TypeError, match="not JSON serializable: object"):
        RunWriter(tmp_path / "run", panel=panel, model_card={"a": object()})
    output = write(tmp_path / "run")
    with pytest.raises(OutputExistsError, match=r"expected no .*run yet"):
        RunWriter(output, panel=panel, model_card={})


def test_prediction_must_fit(tmp_path: Path, panel, make_cells, make_prediction) -> None:
    with RunWriter(tmp_path / "run", panel=panel, model_card={}, intervals=True) as writer:
        with pytest.raises(ValueError, match=r"expected start_region before append"):
            writer.append(make_cells(2), make_prediction(2))
        writer.start_region(REGIONS[0])
        with pytest.raises(ValueError, match=r"expected each region once"):
            writer.start_region(REGIONS[0])
        with pytest.raises(ValueError, match=r"expected a prediction exactly when there is a panel"):
            writer.append(make_cells(2), None)
        with pytest.raises(ValueError, match=r"expected a prediction of shape \(2, 4\), found \(3, 4\)"):
            writer.append(make_cells(2), make_prediction(3, intervals=True))
        with pytest.raises(ValueError, match=r"expected a prediction with high, p05, p95, found none"):
            writer.append(make_cells(2), make_prediction(2))
        with pytest.raises(ValueError, match="without the keys the writer fills, found cells"):
            writer.finish({"cells": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_run_leaves_nothing(
    tmp_path: Path, panel, make_cells, make_prediction, error: type[BaseException]
) -> None:
    with (  # noqa: PT012
        pytest.raises(error),
        RunWriter(tmp_path / "run", panel=panel, model_card={}) as writer,
    ):
        writer.start_region(REGIONS[0])
        writer.append(make_cells(9), make_prediction(9))
        assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
        raise error
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_a_run_but_no_user_data(tmp_path: Path, write) -> None:
    output = write(tmp_path / "run")
    (output / "overview_ERBB2.png").write_bytes(b"")
    (output / "report.html").write_bytes(b"")
    (output / ".DS_Store").write_bytes(b"")
    write(output, force=True, genes=("CD3D",))
    assert read_run(output).record["genes"] == ["CD3D"]
    assert not (output / "report.html").exists()

    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"expected an earlier run in .*run to replace, found notes\.txt in it"):
        write(output, force=True)
    assert (output / "notes.txt").read_text() == "mine"

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "cells.parquet").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"found no run\.json in it"):
        write(other, force=True)
    (other / "cells.parquet").unlink()
    (other / "run.json").write_text('{"program": "another"}')
    with pytest.raises(OutputExistsError, match=r"found a run\.json of another kind in it"):
        write(other, force=True)
    assert (other / "run.json").read_text() == '{"program": "another"}'
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len(read_run(write(empty, force=True))) == 50


class FullDisk(io.FileIO):
    """A disk with room for so many more bytes, all files together."""

    room = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if FullDisk.room < size:
            raise OSError(errno.ENOSPC, "No space left on device")
        FullDisk.room -= size
        return super().write(data) or 0


@pytest.mark.parametrize("room", [0, 100, 1000, 5_000, 20_000, 60_000, 120_000])
def test_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    original = Path.open

    def open_on_full_disk(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode in {"w+b", "wb"}:
            return io.BufferedRandom(FullDisk(self, "w+b"), 64)
        return original(self, mode, *rest, **options)

    monkeypatch.setattr(FullDisk, "room", room)
    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(OutputError, match=r"expected to write .*run, found: No space left on device; free some space"):
        write(tmp_path / "run", cuts=tuple(range(30)), intervals=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_folder_is_refused(tmp_path: Path, write) -> None:
    with pytest.raises(UsageError, match=r"expected a run folder at .*none, found no folder there"):
        read_run(tmp_path / "none")
    with pytest.raises(UsageError, match=r"expected a run folder at .*, found no run\.json in it; give"):
        read_run(tmp_path)
    output = write(tmp_path / "run")
    with pytest.raises(UsageError, match=r"expected columns of .*, found EGFR_mean, x; it has cell_id, region_id"):
        read_run(output).table(["cell_id", "EGFR_mean", "x"])
    assert list(read_run(output).table(["y_px", "cell_id"]).columns) == ["y_px", "cell_id"]
    for text in ("", "[1]", "{}", '{"format":1}', '{"format":1,"regions":[{"id":"a"}]}'):
        (output / names.RUN_JSON).write_text(text)
        with pytest.raises(UsageError, match=r"expected the record of a run in"):
            read_run(output)
    (output / names.RUN_JSON).write_text('{"format":2,"regions":[]}')
    with pytest.raises(UsageError, match=r"expected format 1 in .*run\.json, found 2; read it with a newer version"):
        read_run(output)
    (output / names.CELLS_H5AD).unlink()
    with pytest.raises(UsageError, match=r"expected a whole run folder at .*, found no cells\.h5ad"):
        read_run(output)


def test_no_time_and_no_path_in_the_files_of_nuclei(tmp_path: Path, write) -> None:
    output = write(tmp_path / "run")
    for name in (names.CELLS_H5AD, names.CELLS_PARQUET):
        data = (output / name).read_bytes()
        for text in (str(tmp_path), output.name + ".", platform.node() or "no name"):
            assert text.encode() not in data
    with h5py.File(output / names.CELLS_H5AD) as file:
        assert file["X"].chunks is not None
        assert file["X"].maxshape[0] is None
