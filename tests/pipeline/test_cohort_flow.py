"""Run folders and a clinical table to a row a patient, on runs whose pseudobulk is known."""

from __future__ import annotations

import json
import uuid

import numpy as np
import pandas as pd
import pytest
import shapely

from stimage_qupath import names
from stimage_qupath.cli import run as command
from stimage_qupath.config import CohortSettings
from stimage_qupath.errors import CancelledError, OutputExistsError, UnknownGeneError, UsageError
from stimage_qupath.export.run_folder import RunWriter
from stimage_qupath.pipeline import cohort
from stimage_qupath.pipeline.cohort_files import read_measured
from stimage_qupath.results import Cells, Panel, Prediction, Region

GENES = ("ERBB2", "GRB7", "ESR1", "PGR", "MKI67")
MODEL = {"name": "known", "sha256": "a" * 64, "patients": 4, "encoder": {"tile_um": 100.0}}


def write_run(folder, image, means, *, side_um=1000.0, model=MODEL, seed=0, n=60, signatures=None, types=None):
    """Write a run of two regions at 0.5 um; gene means are ``means``, doubled in the second region, Stroma."""
    rng = np.random.default_rng(seed)
    writer = RunWriter(folder, panel=Panel(GENES), genes=GENES[:1], model_card={})
    side = side_um / 0.5
    with writer:
        for number, name in enumerate(("Tumor", "Stroma")):
            box = shapely.box(number * side, 0, (number + 1) * side, side)
            writer.start_region(Region(id=str(uuid.UUID(int=number + 1)), geometry=box, classification=name))
            if not n:
                continue
            places = rng.uniform(0, side, (n, 2)) + np.array([number * side, 0])
            mean = np.tile(np.array(means) * (number + 1), (n, 1)) * rng.uniform(0.5, 1.5, (n, 1))
            mean = (mean / mean.mean(axis=0) * np.array(means) * (number + 1)).astype(np.float32)
            measured = {
                names.AREA: np.full(n, 40, np.float32),
                names.TISSUE_FRACTION: np.full(n, 0.8, np.float32),
            }
            ids = np.array([str(uuid.UUID(int=1000 * number + i + 10)) for i in range(n)], dtype=object)
            cells = Cells(ids, shapely.buffer(shapely.points(places), 5), places, measured)
            if types is not None:
                cells = Cells(ids, cells.polygons, places, measured, np.array([types[number]] * n, dtype=object))
            ood = np.where(np.arange(n) < n // 4, 2.0, 0.5).astype(np.float32)
            writer.append(cells, Prediction(mean, np.full_like(mean, 4.0), np.full_like(mean, 0.09), ood))
        record = {
            "image": {"name": image, "mpp": 0.5},
            "model": model,
            "settings": {"unit": "cells", "segmenter": "classical"},
            "quality": {"tissue_mm2": 50.0},
            "research_use": "Research use only.",
        }
        writer.finish(record | ({} if signatures is None else {"signatures": {"signatures": signatures}}))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Return a folder with four runs of three patients, one of them with two slides of different area."""
    folder = tmp_path_factory.mktemp("study")
    write_run(folder / "runs" / "one", "s1.svs", [1, 2, 3, 4, 5])
    write_run(folder / "runs" / "two", "s2.svs", [2, 2, 2, 2, 2], seed=1)
    write_run(folder / "runs" / "large", "s3.svs", [10, 1, 1, 1, 1], side_um=2000, seed=2)
    write_run(folder / "runs" / "small", "s4.svs", [20, 2, 1, 1, 1], seed=3)
    rows = [
        "slide,patient,time,event",
        "s1.svs,007,10,1",
        "s2.svs,P2,20,0",
        "s3.svs,P3,30,1",
        "s4.svs,P3,30,1",
        "s9,P9,1,0",
    ]
    (folder / "clinical.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def settings(study, output, **options):
    given = {"runs": ((study / "runs").as_posix(),), "clinical": study / "clinical.csv", "output": output}
    return CohortSettings(**given | options)


@pytest.fixture(scope="module")
def made(study):
    output = study / "cohort.parquet"
    return cohort.run(settings(study, output)), pd.read_parquet(output)


def test_each_patient_is_a_row_with_the_clinical_columns_as_given(made, study):
    record, table = made
    assert table.patient.tolist() == ["007", "P2", "P3"]
    assert table[["time", "event"]].to_numpy().tolist() == [[10, 1], [20, 0], [30, 1]]
    assert record["without_slide"] == ["P9"]
    beside = json.loads((study / "cohort.parquet.json").read_text(encoding="utf-8"))
    assert beside["patients"] == record["patients"] == 3
    assert beside["model"]["sha256"] == MODEL["sha256"]
    assert any("1 patients have no slide" in warning for warning in beside["warnings"])


def test_pseudobulk_is_the_mean_over_nuclei_overall_and_by_class(made):
    _, table = made
    one = table.set_index("patient").loc["007"]
    assert [one[f"{gene}_mean"] for gene in GENES] == pytest.approx([1.5, 3, 4.5, 6, 7.5], rel=1e-5)
    assert [one[f"{gene}_mean@Tumor"] for gene in GENES] == pytest.approx([1, 2, 3, 4, 5], rel=1e-5)
    assert one["ERBB2_mean@Stroma"] == pytest.approx(2, rel=1e-5)
    assert one["qc_nuclei@Stroma"] == 60


def test_slides_are_weighted_by_their_tissue(made):
    record, table = made
    third = table.set_index("patient").loc["P3"]
    assert third["ERBB2_mean"] == pytest.approx(0.8 * 15 + 0.2 * 30, rel=1e-5)  # 8 and 2 mm2
    assert third["qc_tissue_mm2"] == pytest.approx(10)
    assert third["qc_slides"] == 2
    weights = {row["slide"]: row["weight"] for row in record["slides"]}
    assert weights == pytest.approx({"s1.svs": 1, "s2.svs": 1, "s3.svs": 0.8, "s4.svs": 0.2})


def test_the_sd_adds_an_unaveraged_and_a_window_averaged_part(made):
    record, table = made
    windows = {row["slide"]: row["independent_windows"] for row in record["slides"]}
    one = table.set_index("patient").loc["007"]
    assert one["ERBB2_sd"] == pytest.approx(np.sqrt(0.3**2 + 4 / windows["s1.svs"]), rel=1e-5)
    both = np.sqrt(0.3**2 + 0.8**2 * 4 / windows["s3.svs"] + 0.2**2 * 4 / windows["s4.svs"])
    assert table.set_index("patient").loc["P3", "ERBB2_sd"] == pytest.approx(both, rel=1e-5)
    assert 40 < windows["s1.svs"] < 120  # 120 nuclei on 2 mm2, windows of 0.01 mm2


def test_quality_columns(made):
    _, table = made
    assert table.qc_outside_training.tolist() == pytest.approx([0.25] * 3)
    assert table.qc_tissue_fraction.tolist() == pytest.approx([0.8] * 3)
    assert table.qc_nuclei.tolist() == [120, 120, 240]


@pytest.mark.parametrize(("rule", "expected"), [("mean", 22.5), ("largest", 15.0)])
def test_other_rules(study, tmp_path, rule, expected):
    record = cohort.run(settings(study, tmp_path / "c.csv", combine=rule, genes=("ERBB2",), by=()))
    table = pd.read_csv(tmp_path / "c.csv")
    assert table.ERBB2_mean.iloc[2] == pytest.approx(expected, rel=1e-5)
    assert [c for c in table.columns if c.startswith("ERBB2")] == ["ERBB2_mean", "ERBB2_sd"]
    assert rule in record["rule"] or "alike" in record["rule"]


def test_runs_of_different_models_and_bad_clinical_tables_are_refused(study, tmp_path):
    other = write_run(tmp_path / "other", "s2.svs", [1] * 5, model=MODEL | {"sha256": "b" * 64})
    runs = ((study / "runs" / "one").as_posix(), other.as_posix())
    with pytest.raises(UsageError, match="expected runs of one model"):
        cohort.run(settings(study, tmp_path / "c.csv", runs=runs))
    path = tmp_path / "clinical.csv"
    path.write_text("slide,patient,time\ns3.svs,P3,1\ns4.svs,P3,2\n", encoding="utf-8")
    with pytest.raises(UsageError, match="one value of time for patient P3"):
        cohort.run(settings(study, tmp_path / "c.csv", clinical=path))
    path.write_text("slide,patient,qc_nuclei\ns1.svs,P1,1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="found qc_nuclei; rename"):
        cohort.run(settings(study, tmp_path / "c.csv", clinical=path))
    assert not list(tmp_path.glob("c.csv*"))


def test_what_is_there_is_kept_and_what_is_asked_wrongly_refused(study, tmp_path):
    (tmp_path / "c.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="--force"):
        cohort.run(settings(study, tmp_path / "c.csv"))
    with pytest.raises(UnknownGeneError, match="found ERBB9"):
        cohort.run(settings(study, tmp_path / "d.csv", genes=("ERBB9",)))
    with pytest.raises(UsageError, match="run folder, or a folder of them"):
        cohort.run(settings(study, tmp_path / "d.csv", runs=(tmp_path.as_posix(),)))
    one = (study / "runs" / "one").as_posix()
    with pytest.raises(UsageError, match="each run once"):
        cohort.run(settings(study, tmp_path / "d.csv", runs=(one, one)))
    with pytest.raises(UsageError, match=r"named \*.csv or \*.parquet"):
        settings(study, tmp_path / "d.xlsx")
    with pytest.raises(CancelledError):
        cohort.run(settings(study, tmp_path / "d.csv"), cancelled=lambda: True)


def test_a_projects_output_is_read_by_its_table(study, tmp_path):
    write_run(tmp_path / "p" / "1-x", "export.tif", [1, 1, 1, 1, 1])
    images = [{"name": "s1.svs", "run": "1-x"}, {"name": "s2.svs", "run": None}]
    (tmp_path / "p" / names.RUN_JSON).write_text(json.dumps({"kind": "project", "images": images}), encoding="utf-8")
    record = cohort.run(settings(study, tmp_path / "c.csv", runs=((tmp_path / "p").as_posix(),)))
    assert [(row["slide"], row["patient"]) for row in record["slides"]] == [("s1.svs", "007")]


def test_cell_types_get_means_and_missing_ones_are_empty(study, tmp_path):
    runs = (write_run(tmp_path / "r1", "s1.svs", [1] * 5, types=("Immune", "Tumor")), study / "runs" / "two")
    cohort.run(settings(study, tmp_path / "c.csv", runs=tuple(r.as_posix() for r in runs), genes=("ERBB2",)))
    table = pd.read_csv(tmp_path / "c.csv")
    assert table["ERBB2_mean@type:Immune"].iloc[0] == pytest.approx(1, rel=1e-5)
    assert np.isnan(table["ERBB2_mean@type:Immune"].iloc[1])
    assert table["qc_nuclei@type:Immune"].tolist() == [60, 0]


def test_member_scores_of_runs_give_a_mean_and_the_members_spread(study, tmp_path):
    runs = []
    for i, members in enumerate(([1.0, 2.0], [3.0, 6.0])):
        entry = [{"name": "T cells", "member_mean": members}]
        runs.append(write_run(tmp_path / f"r{i}", f"s{i + 3}.svs", [1] * 5, signatures=entry, side_um=1000 * (2 - i)))
    cohort.run(settings(study, tmp_path / "c.csv", runs=tuple(r.as_posix() for r in runs), genes=("ERBB2",)))
    (row,) = pd.read_csv(tmp_path / "c.csv").itertuples()
    combined = 0.8 * np.array([1.0, 2.0]) + 0.2 * np.array([3.0, 6.0])
    assert row.t_cells_nuclei_score == pytest.approx(combined.mean())
    assert row.t_cells_nuclei_score_sd == pytest.approx(combined.std())


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return twelve runs of a patient each, and measured expression that ERBB2 follows and MKI67 does not."""
    folder = tmp_path_factory.mktemp("simulated")
    rng = np.random.default_rng(1)
    truth = rng.gamma(3, 2, (12, len(GENES)))
    for i, means in enumerate(truth):
        write_run(folder / "runs" / f"r{i}", f"s{i}.svs", means, n=12, seed=i)
    patients = [f"s{i}" for i in range(12)]
    measured = truth.copy()
    order = np.argsort(truth[:, 4])
    measured[order, 4] = truth[order, 4][[5, 8, 1, 10, 3, 6, 4, 9, 0, 7, 11, 2]]  # ranks without correlation
    frame = pd.DataFrame(np.log2(1 + measured), index=patients, columns=GENES).rename_axis("patient")
    frame.to_csv(folder / "bulk.csv")
    pd.DataFrame({"patient": patients}).assign(age=50).to_csv(folder / "clinical.csv", index=False)
    return folder


def test_measured_expression_is_followed_across_patients(simulated, tmp_path):
    found = cohort.run(
        settings(simulated, tmp_path / "c.csv", bulk=simulated / "bulk.csv", replicates=100, permutations=499)
    )
    genes = pd.read_csv(tmp_path / "c.csv.genes.csv").set_index("gene")
    assert genes.pearson["ERBB2"] > 0.99
    assert genes.fdr["ERBB2"] < 0.02
    assert genes.fdr["MKI67"] > 0.3
    assert found["bulk"]["across_patients"]["patients"] == 12
    assert found["bulk"]["within_patients"]["evidence"] is False


def test_measured_tables_keep_zeros_of_names_and_genes_that_differ_by_a_number(tmp_path):
    (tmp_path / "bulk.csv").write_text("patient,COG8,COG8.1\n007,1,2\n", encoding="utf-8")
    found = read_measured(tmp_path / "bulk.csv")
    assert found.to_dict("list") == {"patient": ["007"], "COG8": [1], "COG8.1": [2]}
    (tmp_path / "bulk.tsv").write_text("patient\tA\tA\n007\t1\t2\n", encoding="utf-8")
    with pytest.raises(UsageError, match="found A more than once"):
        read_measured(tmp_path / "bulk.tsv")
    with pytest.raises(UsageError, match="found no file"):
        read_measured(tmp_path / "none.csv")


def test_signatures_of_the_cohort_with_the_reason_for_what_is_left_out(simulated, tmp_path):
    gmt = tmp_path / "own.gmt"
    gmt.write_text("amplicon\t\tERBB2\tGRB7\n", encoding="utf-8")
    found = cohort.run(settings(simulated, tmp_path / "c.csv", signatures=("pam50", gmt.as_posix())))
    table = pd.read_csv(tmp_path / "c.csv")
    expected = np.log2(1 + table[["ERBB2_mean", "GRB7_mean"]]).mean(axis=1)
    assert table.amplicon_score.tolist() == pytest.approx(expected.tolist())
    assert (table.amplicon_score_sd > 0).all()
    assert any("half of the 50 genes of PAM50" in warning for warning in found["warnings"])


def test_signatures_see_the_panel_whatever_genes_are_written(simulated, tmp_path):
    gmt = tmp_path / "own.gmt"
    gmt.write_text("amplicon\t\tERBB2\tGRB7\n", encoding="utf-8")
    for name, genes in (("few", ("MKI67",)), ("all", ())):
        output = tmp_path / f"{name}.csv"
        cohort.run(settings(simulated, output, signatures=(gmt.as_posix(),), genes=genes, by=()))
    few, every = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("few", "all"))
    assert few.amplicon_score.tolist() == every.amplicon_score.tolist()
    assert [c for c in few.columns if c.endswith("_mean")] == ["MKI67_mean"]


def test_slides_without_nuclei_or_clinical_row_are_left_out_and_named(study, tmp_path):
    empty = write_run(tmp_path / "empty", "s2.svs", [1] * 5, n=0)
    foreign = write_run(tmp_path / "foreign", "zz.svs", [1] * 5)
    runs = tuple(path.as_posix() for path in (study / "runs" / "one", empty, foreign))
    found = cohort.run(settings(study, tmp_path / "c.csv", runs=runs, genes=("ERBB2",)))
    assert (found["patients"], found["without_nuclei"], found["without_clinical_row"]) == (1, ["s2.svs"], ["zz.svs"])
    with pytest.raises(UsageError, match="expected nuclei in at least one of 1 runs"):
        cohort.run(settings(study, tmp_path / "d.csv", runs=(empty.as_posix(),)))


def test_the_command_prints_the_cohort_and_its_limits(simulated, tmp_path, capsys):
    arguments = ["cohort", str(simulated / "runs"), "--clinical", str(simulated / "clinical.csv")]
    code = command([*arguments, "--output", str(tmp_path / "c.csv"), "--bulk", str(simulated / "bulk.csv")])
    printed = capsys.readouterr()
    assert code == 0
    assert "12 patients of 12 slides" in printed.out
    assert "across 12 patients: mean Pearson of 5 genes" in printed.out
    assert "not been tested for clinical use" in printed.out
    assert command([*arguments, "--output", str(tmp_path / "c.csv")]) == 2
