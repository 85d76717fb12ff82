"""The command as a person runs it: files, words, baselines, another cohort, and cohorts that say nothing."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import image as pictures

from stimage_qupath.cli import run as run_command
from stimage_qupath.clinical import verdict
from stimage_qupath.config.survival import SurvivalSettings
from stimage_qupath.errors import CancelledError, MissingPartError, UsageError
from stimage_qupath.pipeline import survival

pytestmark = pytest.mark.flow

SCRIPT = "<script>alert(1)</script>"


def table(seed, *, n=150, genes=8, effect=1.5, sd=0.3, prefix="p"):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, genes))
    age = rng.normal(60, 10, n)
    time = rng.exponential(30 * np.exp(-effect * truth[:, 0] - 0.03 * (age - 60)))
    censored = rng.exponential(60, size=n)
    found = pd.DataFrame({"patient": [f"{prefix}{i:03d}" for i in range(n)]})
    found["months"], found["died"] = np.minimum(time, censored) + 0.01, (time <= censored).astype(int)
    found["age"], found["stage"] = age, rng.choice(["I", "II", "III"], n)
    found["site"], found["kind"] = rng.choice([f"S{i}" for i in range(12)], n), rng.choice(["luminal", SCRIPT], n)
    predicted = truth + rng.normal(scale=sd, size=truth.shape)
    for gene in range(genes):
        found[f"G{gene}_mean"], found[f"G{gene}_sd"] = predicted[:, gene], sd
    measured = pd.DataFrame(truth, columns=[f"G{g}" for g in range(genes)]).assign(patient=found["patient"])
    return found, measured


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival")
    cohort, measured = table(0)
    cohort.to_csv(folder / "cohort.csv", index=False)
    measured.iloc[::-1].iloc[:140].to_parquet(folder / "measured.parquet")
    table(1, prefix="x")[0].drop(columns="site").to_csv(folder / "external.csv", index=False)
    table(2, effect=0.0)[0].to_csv(folder / "nothing.csv", index=False)
    return folder


def settings(files, name="cohort.csv", **more):
    values = {"time": "months", "event": "died", "folds": 3, "inner_folds": 2, "permutations": 19, "replicates": 100}
    return SurvivalSettings(**{"cohort": files / name, "draws": 20, **values, **more})


@pytest.fixture(scope="module")
def whole(files):
    chosen = settings(
        files,
        covariates=("age", "stage"),
        site="site",
        external=files / "external.csv",
        compare=files / "measured.parquet",
        horizons=(12.0, 24.0),
        output=files / "whole",
    )
    return survival.run(chosen), files / "whole"


def test_everything_is_written_and_says_the_same(whole):
    found, output = whole
    kept = json.loads((output / "survival.json").read_text(encoding="utf-8"))
    assert kept["models"].keys() == found["models"].keys()
    assert list(found["models"]) == [
        "covariates",
        "expression",
        "expression + covariates",
        "measured expression",
        "measured expression + covariates",
    ]
    page = (output / "survival.html").read_text(encoding="utf-8")
    assert "Clinical use of predicted expression is untested" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    for stem in ("c_index", "groups_expression", "calibration_expression_and_covariates", "external_expression"):
        assert pictures.imread(output / f"{stem}.png").shape[2] == 4
        assert (output / f"{stem}.svg").read_text(encoding="utf-8").startswith("<svg")
    risks = pd.read_csv(output / "risks.csv")
    assert len(risks) == found["cohort"]["patients"] == 140
    assert set(risks["group: expression"]) == {"low", "high"}


def test_signal_is_found_with_its_null_and_measured_stands_beside_predicted(whole):
    found, _ = whole
    for name in ("expression", "measured expression", "expression + covariates"):
        model = found["models"][name]
        assert model["c"]["value"] > 0.65
        assert model["c"]["ci"][0] < model["c"]["value"] < model["c"]["ci"][1]
        assert model["p"] == {"c": 0.05, "log_rank": 0.05}
        assert abs(model["null"]["c"]["mean"] - 0.5) < 4 * model["null"]["c"]["se"]
        assert model["choices"]["features"][0]["name"].startswith("G0")
        assert model["choices"]["features"][0]["same_sign"]
    assert any(line.startswith("Signal in this cohort: expression orders") for line in found["verdict"])
    assert any(line.startswith("Gain of expression + covariates over") for line in found["verdict"])
    assert found["gains"]["expression + covariates"]["p"]["lr_chi2"] == 0.05
    measured, predicted = (found["models"][m]["c"]["value"] for m in ("measured expression", "expression"))
    assert found["measured_less_predicted"]["expression"]["value"] == pytest.approx(measured - predicted, abs=1e-12)
    assert "140 of 150 patients and 8 of 8 features" in " ".join(found["warnings"])


def test_risks_of_the_table_give_the_figures_of_the_report(whole):
    found, output = whole
    risks = pd.read_csv(output / "risks.csv")
    from lifelines.statistics import logrank_test
    from lifelines.utils import concordance_index

    by_fold = [concordance_index(of["months"], -of["risk: expression"], of["died"]) for _, of in risks.groupby("fold")]
    assert found["models"]["expression"]["c"]["value"] == pytest.approx(np.mean(by_fold), abs=1e-12)
    high = risks[risks["group: expression"] == "high"]
    low = risks[risks["group: expression"] == "low"]
    test = logrank_test(high["months"], low["months"], high["died"], low["died"])
    groups = found["models"]["expression"]["groups"]
    assert groups["log_rank_chi2"] == pytest.approx(test.test_statistic, rel=1e-9)
    sites = pd.read_csv(output.parent / "cohort.csv").set_index("patient")["site"]
    assert (risks.groupby(risks["patient"].map(sites))["fold"].nunique() == 1).all()


def test_uncertain_input_widens_and_the_external_cohort_is_judged_once(whole):
    found, _ = whole
    band = found["models"]["expression"]["band"]
    assert band["c"][0] < band["c"][1] < band["c"][2]
    assert band["c"][1] < found["models"]["expression"]["c"]["value"]  # noise on noise
    assert 0 < band["changed_group"] < 0.5
    assert found["models"]["measured expression"]["band"] is None
    external = found["external"]
    assert external["patients"] == 150
    assert external["models"]["expression"]["c"]["value"] > 0.65
    assert external["models"]["expression"]["log_rank_p"] < 0.001
    slope = external["models"]["expression"]["calibration_slope"]
    assert slope["ci"][0] < slope["value"] < slope["ci"][1]
    assert found["baselines"]["site alone"]["folds_by"] == "patient"
    assert [auc["horizon"] for auc in found["models"]["covariates"]["auc"]] == [12, 24]
    assert 0 <= found["models"]["covariates"]["proportional_hazards_p"]["risk"] <= 1


def test_a_cohort_without_signal_is_told_so(files, tmp_path, capsys):
    words = ["survival", str(files / "nothing.csv"), "--time", "months", "--event", "died", "--folds", "3"]
    words += [
        "--permutations",
        "39",
        "--replicates",
        "100",
        "--draws",
        "20",
        "--strata",
        "kind",
        "--features",
        "G*_mean",
    ]
    words += ["--output", str(tmp_path / "o")]
    assert run_command(words) == 0
    said = capsys.readouterr().out
    assert "No signal found: expression orders patients no better than permuted outcomes allow" in said
    assert "Clinical use of predicted expression is untested" in said
    page = (tmp_path / "o" / "survival.html").read_text(encoding="utf-8")
    assert "No signal found" in page
    assert SCRIPT not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "stratum alone" in page
    assert run_command(words) == 2
    assert "force its replacement (--force)" in capsys.readouterr().err
    assert run_command([*words, "--force", "--json", "--permutations", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"]["expression"]["p"] is None
    assert found["verdict"][0].startswith("Not tested: expression reached C")


def test_equal_seeds_give_equal_figures(files, tmp_path):
    chosen = {"permutations": 0, "draws": 20}
    a, b = (survival.run(settings(files, output=tmp_path / name, **chosen)) for name in "ab")
    assert a["models"] == b["models"]
    for name in ("c_index.png", "c_index.svg", "risks.csv"):
        first, second = ((tmp_path / run / name).read_bytes() for run in "ab")
        assert first == second


def test_a_forest_takes_the_same_way(files, tmp_path, monkeypatch):
    monkeypatch.setattr("stimage_qupath.clinical.forest.TREES", 20)
    found = survival.run(settings(files, output=tmp_path / "o", model="forest", permutations=0, features=("G?_mean",)))
    assert found["models"]["expression"]["c"]["value"] > 0.6
    assert found["models"]["expression"]["calibration"] is None
    assert "A forest gives no hazard ratios" in found["warnings"][-1]


def test_log1p_and_rows_of_slides(files, tmp_path):
    cohort = pd.read_csv(files / "cohort.csv")
    genes = [c for c in cohort if c.endswith("_mean")]
    cohort[genes] = np.expm1(cohort[genes] - cohort[genes].min().min())
    doubled = pd.concat([cohort, cohort.iloc[:10]])
    doubled.to_csv(tmp_path / "slides.csv", index=False)
    logs = cohort.assign(**{g: np.log1p(cohort[g]) for g in genes})
    logs.to_csv(tmp_path / "logs.csv", index=False)
    a = survival.run(settings(tmp_path, "slides.csv", output=tmp_path / "a", transform="log1p", permutations=0))
    b = survival.run(settings(tmp_path, "logs.csv", output=tmp_path / "b", permutations=0))
    assert a["models"]["expression"]["c"]["value"] == pytest.approx(b["models"]["expression"]["c"]["value"], abs=1e-9)
    assert "160 rows became 150 patients: 10 patients had several rows" in a["warnings"][0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"time": "age", "event": "age"}, "expected each column in one role, found age in several"),
        ({"covariates": ("nosuch",)}, "expected column nosuch, found patient"),
        ({"features": ("X*",)}, r"expected columns that match X\*, found none"),
        ({"event": "stage"}, "expected 1 .event observed. or 0 .censored. in column stage"),
        ({"horizons": (-1.0,)}, "expected horizons above 0"),
        ({"folds": 1}, "expected folds of at least 2"),
        ({"permutations": 5}, "expected permutations of at least 19"),
        ({"model": "forest", "penalty": "elastic-net"}, "expected --model cox with --external or --penalty"),
        ({"site": "died2"}, "expected column died2"),
        ({"transform": "log1p"}, "expected features of 0 or more for --transform log1p"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_left(files, tmp_path, more, said):
    with pytest.raises(UsageError, match=said):
        survival.run(settings(files, output=tmp_path / "o", **more))
    assert not list(tmp_path.iterdir())


def test_tables_that_contradict_are_refused(files, tmp_path):
    cohort = pd.read_csv(files / "cohort.csv")
    cohort.iloc[:20].to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(UsageError, match=r"expected other patients in .*own\.csv, found p000"):
        survival.run(settings(files, output=tmp_path / "o", external=tmp_path / "own.csv"))
    pd.DataFrame({"patient": ["z"], "G1": [1.0]}).to_csv(tmp_path / "far.csv", index=False)
    with pytest.raises(UsageError, match="found 1 genes and 0 patients"):
        survival.run(settings(files, output=tmp_path / "o", compare=tmp_path / "far.csv"))
    pd.concat([cohort, cohort.iloc[:1].assign(died=1 - cohort.loc[0, "died"])]).to_csv(
        tmp_path / "two.csv", index=False
    )
    with pytest.raises(UsageError, match="expected one value of died a patient, found several for p000"):
        survival.run(settings(tmp_path, "two.csv", output=tmp_path / "o"))
    cohort.assign(**{c: 1.0 for c in cohort if c.endswith("_mean")}).to_csv(tmp_path / "same.csv", index=False)
    with pytest.raises(UsageError, match="expected features that differ between patients, found none"):
        survival.run(settings(tmp_path, "same.csv", output=tmp_path / "o"))
    cohort.assign(site=np.where(cohort.index == 3, None, cohort["site"])).to_csv(tmp_path / "site.csv", index=False)
    with pytest.raises(UsageError, match="expected a site for each patient"):
        survival.run(settings(tmp_path, "site.csv", output=tmp_path / "o", site="site"))


def test_a_cancelled_run_leaves_nothing_and_a_missing_package_is_said_first(files, tmp_path, monkeypatch):
    calls = iter([False] * 4 + [True] * 100)
    with pytest.raises(CancelledError):
        survival.run(settings(files, output=tmp_path / "o"), cancelled=lambda: next(calls))
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "lifelines", None)
    with pytest.raises(MissingPartError, match=r"found none; run: pip install 'stimage-qupath\[clinical\]'"):
        survival.run(settings(files, output=tmp_path / "o"))


def test_words_of_the_verdict():
    c = {"value": 0.53, "ci": [0.45, 0.61]}
    assert verdict.of_expression("e", {"c": c, "p": {"c": 0.21}}).startswith("No signal found: e orders")
    assert verdict.of_expression("e", {"c": c, "p": {"c": 0.01}}).startswith("Signal in this cohort")
    gain = {"delta_c": {"value": 0.005, "ci": [-0.01, 0.02]}, "p": {"delta_c": 0.01}}
    assert (
        verdict.of_gain("e", gain)
        == "No clear gain of e over the covariates alone (C +0.005 [-0.010, +0.020], p 0.01)."
    )
    gain["delta_c"]["ci"] = [0.001, 0.02]
    assert verdict.of_gain("e", gain).startswith("Gain of e over")
    assert verdict.of_gain("e", {**gain, "p": {"delta_c": 0.2}}).startswith("No clear gain")
    assert verdict.figure({"value": None, "ci": None}) == "–"
