"""Drug response from the command line: a cohort table in, figures, tables, pictures and a saved model out."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from stimage_qupath.cli import run as run_command
from stimage_qupath.config.drug_response import DrugResponseSettings
from stimage_qupath.errors import OutputExistsError, UsageError
from stimage_qupath.pipeline import drug_response as flow

SCRIPT = "<script>alert(1)</script>"
GENES = tuple(f"G{k}" for k in range(12))
QUICK = ("--permutations", "19", "--replicates", "100", "--draws", "20", "--model", "elastic-net")


def cohort_table(seed=0, patients=80, signal=2.0):
    """Return patients whose response follows G0 and age, with predictive SDs and a site."""
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 1, size=(patients, len(GENES)))
    age = rng.normal(60, 10, size=patients)
    logit = signal * (x[:, 0] - 3) + 0.05 * (age - 60) + rng.logistic(size=patients)
    table = pd.DataFrame(x, columns=[f"{g}_mean" for g in GENES])
    table.insert(0, "patient", [f"{k:03d}" for k in range(patients)])
    for gene in GENES:
        table[f"{gene}_sd"] = 0.2
    table["age"], table["site"] = age, rng.choice(["A", "B", "C"], size=patients)
    table["recist"] = np.where(logit > 0, rng.choice(["CR", "PR"], patients), rng.choice(["SD", "PD"], patients))
    table["ln_ic50"] = -logit
    return table


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cohort") / "cohort.csv", cohort_table())


def write(path, table):
    table.to_csv(path, index=False)
    return path


def record_of(folder):
    return json.loads((folder / "drug_response.json").read_text(encoding="utf-8"))


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.flow
def test_a_binary_response_with_covariates(cohort, tmp_path, capsys):
    output = tmp_path / "out"
    words = ["--response", "recist", "--type", "binary", "--covariates", "age,site", "--output", str(output)]
    assert run_command(["drug-response", str(cohort), *words, *QUICK]) == 0
    said = capsys.readouterr()
    assert re.search(r"elastic-net, expression: auroc 0\.\d+ \[.*\], signal \(permutation p = 0\.05\)", said.out)
    assert "over the covariates alone" in said.out
    assert "Clinical use of predicted expression is untested" in said.out
    assert "80 patients are few" in said.err
    record = record_of(output)
    assert record["response"]["rule"] == "responded: CR, PR; did not: PD, SD"
    table = cohort_table()
    assert record["response"]["responders"] == table["recist"].isin(["CR", "PR"]).sum()
    predictions = pd.read_csv(output / "predictions.csv", dtype={"patient": str})
    assert predictions["patient"].tolist() == table["patient"].tolist()
    label = "elastic-net, expression"
    within = [(roc_auc_score(part["response"], part[label]), len(part)) for _, part in predictions.groupby("fold")]
    expected = sum(value * count for value, count in within) / len(predictions)
    figures = record["models"][label]["figures"]
    assert figures["auroc"]["value"] == pytest.approx(expected, abs=1e-12)
    pooled = roc_auc_score(predictions["response"], predictions[label])
    assert figures["auroc_all_patients"]["value"] == pytest.approx(pooled, abs=1e-12)
    assert figures["auroc"]["ci"][0] < expected < figures["auroc"]["ci"][1]
    lead = record["models"]["elastic-net, expression and covariates"]["lead"]["covariates"]
    both, alone = (
        record["models"][name]["figures"]["auroc"]["value"]
        for name in ("elastic-net, expression and covariates", "covariates")
    )
    assert lead["value"] == pytest.approx(both - alone, abs=1e-12)
    low, high = record["models"][label]["band"]["band"]
    assert low < high
    assert (predictions[f"{label}, SD"] > 0).all()
    coefficients = pd.read_csv(output / "coefficients.csv")
    first = coefficients[coefficients["model"] == label].iloc[0]
    assert (first["name"], first["selected_share"], first["same_sign_share"]) == ("G0", 1.0, 1.0)
    assert first["mean_over_folds"] > 0
    wanted = {"drug_response.json", "drug_response.html", "predictions.csv", "coefficients.csv"}
    wanted |= {f"{name}.{kind}" for name in ("figures", "roc", "null", "coefficients") for kind in ("svg", "png")}
    assert set(files_of(output)) == wanted


@pytest.mark.flow
def test_a_continuous_response_beside_measured_expression(tmp_path):
    table = cohort_table().rename(columns={"G11_mean": f"{SCRIPT}_mean", "G11_sd": f"{SCRIPT}_sd"})
    measured = table[["patient", *(f"{g}_mean" for g in GENES[:8])]].rename(columns=lambda c: c.removesuffix("_mean"))
    measured = measured.iloc[10:].sample(frac=1, random_state=0)
    rng = np.random.default_rng(1)
    table["G0_mean"] += rng.normal(0, 2, len(table))
    settings = DrugResponseSettings(
        cohort=write(tmp_path / "co&hort.csv", table),
        compare=write(tmp_path / "measured.csv", measured),
        output=tmp_path / "out",
        response="ln_ic50",
        type="continuous",
        permutations=0,
        replicates=100,
        draws=0,
        model="both",
    )
    record = flow.run(settings)
    assert record["response"]["patients"] == 70
    assert record["genes"] == {"predicted": 8, "measured": 8}
    assert set(record["models"]) == {
        f"{m}, {s}" for m in ("elastic-net", "boosting") for s in ("predicted", "measured")
    }
    lead = record["models"]["elastic-net, measured"]["lead"]["elastic-net, predicted"]
    assert lead["value"] > 0.1
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    within = [spearmanr(p["response"], p["boosting, measured"])[0] * len(p) for _, p in predictions.groupby("fold")]
    spearman = record["models"]["boosting, measured"]["figures"]["spearman"]["value"]
    assert spearman == pytest.approx(sum(within) / len(predictions), abs=1e-12)
    page = (tmp_path / "out" / "drug_response.html").read_text(encoding="utf-8")
    assert SCRIPT not in page
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "No permutations were asked for" in page


@pytest.mark.flow
def test_equal_seeds_give_equal_files_whatever_the_processes(cohort, tmp_path):
    found = []
    for number, workers in enumerate((1, 2)):
        settings = DrugResponseSettings(
            cohort=cohort, output=tmp_path / f"out{number}", response="ln_ic50", type="continuous", permutations=19,
            replicates=100, draws=5, model="elastic-net", workers=workers,
        )  # fmt: skip
        record = flow.run(settings)
        found.append({k: record[k] for k in ("models", "verdict", "warnings")})
    assert found[0] == found[1]
    one, two = (tmp_path / f"out{k}" for k in (0, 1))
    for name in files_of(one):
        if name not in ("drug_response.json", "drug_response.html"):
            assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.fixture(scope="module")
def saved(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    settings = DrugResponseSettings(
        cohort=cohort, output=folder.with_name("training"), response="ln_ic50", type="continuous", permutations=0,
        replicates=100, draws=0, model="elastic-net", save_model=folder,
    )  # fmt: skip
    flow.run(settings)
    return folder


def transferred(saved, tmp_path, table, name, **more):
    settings = DrugResponseSettings(
        cohort=write(tmp_path / f"{name}.csv", table), output=tmp_path / name, transfer=saved, replicates=100, **more
    )
    return flow.run(settings), pd.read_csv(tmp_path / name / "predictions.csv", dtype={"patient": str})


def test_a_saved_model_predicts_a_cohort_on_another_scale(saved, tmp_path):
    other = cohort_table(seed=5)
    for gene in GENES:  # another unit, monotone in the first
        other[f"{gene}_mean"] = np.exp(other[f"{gene}_mean"]) * 7
        other[f"{gene}_sd"] *= other[f"{gene}_mean"]
    other = other.drop(columns=["G11_mean", "G11_sd"])
    other["patient"] = ["000", *(f"other {k}" for k in range(79))]
    record, predictions = transferred(saved, tmp_path, other, "binary", response="recist", type="binary")
    assert record["genes"]["in_common"] == 11
    assert any("1 of 12 genes of the model are not in the cohort" in warning for warning in record["warnings"])
    assert any("1 patients bear identifiers of training patients" in warning for warning in record["warnings"])
    auroc = record["figures"]["auroc"]
    other = other.sort_values("patient", ignore_index=True)
    responded = other["recist"].isin(["CR", "PR"])
    # a high ln IC50 is resistance, so that responders have low predictions
    assert auroc["value"] == pytest.approx(roc_auc_score(responded, -predictions["prediction"]), abs=1e-12)
    assert auroc["value"] > 0.75
    assert auroc["p"] <= 0.01
    assert auroc["band"][0] < auroc["band"][1]
    assert files_of(saved) == ["model.json", "weights.safetensors"]


def test_no_outcome_enters_a_transfer(saved, tmp_path):
    other = cohort_table(seed=5)
    rng = np.random.default_rng(0)
    shuffled = other.assign(recist=rng.permutation(other["recist"]))
    unknown = other.assign(recist=np.where(np.arange(len(other)) % 2, "NE", other["recist"]))
    features = {"features": tuple(f"{g}_mean" for g in GENES)}
    found = [
        transferred(saved, tmp_path, table, f"t{k}", **(features | response))[1][["patient", "prediction"]]
        for k, (table, response) in enumerate(
            [
                (other.drop(columns=["recist", "ln_ic50"]), {}),
                (other, {"response": "recist", "type": "binary"}),
                (shuffled, {"response": "recist", "type": "binary"}),
                (unknown, {"response": "recist", "type": "binary"}),
            ]
        )
    ]
    for other_prediction in found[1:]:
        pd.testing.assert_frame_equal(found[0], other_prediction, check_exact=True)


def test_genes_of_another_table_are_trained_on(cohort, tmp_path):
    other = write(tmp_path / "panel.csv", cohort_table(seed=2)[["patient", "G0_mean", "G3_mean"]])
    settings = DrugResponseSettings(
        cohort=cohort, output=tmp_path / "out", response="ln_ic50", type="continuous", permutations=0,
        replicates=100, draws=0, model="elastic-net", genes_of=other,
    )  # fmt: skip
    assert flow.run(settings)["genes"] == {"expression": 2}


def test_sites_stay_together(cohort, tmp_path):
    table = cohort_table().assign(site=np.arange(80) // 4)
    settings = DrugResponseSettings(
        cohort=write(tmp_path / "sites.csv", table), output=tmp_path / "out", response="recist", type="binary",
        permutations=0, replicates=100, draws=0, model="elastic-net", group="site",
    )  # fmt: skip
    record = flow.run(settings)
    assert record["groups"] == {"column": "site", "number": 20}
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert (predictions.groupby("group")["fold"].nunique() == 1).all()


def nan_gene(table):
    table.loc[3, "G2_mean"] = np.nan
    return table


def negative_sd(table):
    return table.assign(G1_sd=-0.1)


def by_response(table):
    """Return two sites for each kind of response, none with both."""
    place = pd.Series(np.arange(len(table)) % 2).astype(str)
    return table.assign(site=table["recist"].isin(["CR", "PR"]).map({True: "A", False: "B"}) + place)


def two_rows(table):
    return pd.concat([table, table.iloc[:1].assign(recist="SD" if table["recist"].iloc[0] != "SD" else "PR")])


BINARY = ("--response", "recist", "--type", "binary")
CONTINUOUS = ("--response", "ln_ic50", "--type", "continuous")


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (lambda t: t, ("--response", "nothing", "--type", "binary"), "expected column nothing, found"),
        (lambda t: t, ("--response", "recist"), "expected a response together with its type"),
        (lambda t: t, (), "expected a column to predict"),
        (lambda t: t, ("--response", "recist", "--type", "ordinal"), "expected type out of binary, continuous"),
        (lambda t: t, ("--response", "recist", "--type", "continuous"), "expected numbers in column recist"),
        (lambda t: t, ("--response", "age", "--type", "binary"), "expected words such as CR, PR, SD, PD"),
        (lambda t: t.assign(recist="CR"), BINARY, "expected at least 10 responders and 10 others .* 80 and 0"),
        (lambda t: t.assign(recist=["CR"] * 4 + ["PD"] * 76), BINARY, "found 4 and 76"),
        (lambda t: t.assign(ln_ic50=1.0), CONTINUOUS, "expected a continuous response, found 1 different"),
        (lambda t: t.head(12), CONTINUOUS, "expected at least 20 patients with a response for 5 folds, found 12"),
        (lambda t: t, (*CONTINUOUS, "--log-response"), "expected positive values of ln_ic50"),
        (nan_gene, BINARY, "expected the expression of every patient, found missing values of G2"),
        (negative_sd, BINARY, "expected uncertainties of 0 or more, found negative ones in G1_sd"),
        (two_rows, BINARY, "expected one value of recist a patient, found several for 000"),
        (lambda t: t.assign(**{f"{g}_mean": 1.0 for g in GENES}), BINARY, "expected genes that differ .* 12 constant"),
        (lambda t: t, (*BINARY, "--features", "XYZ*"), r"expected columns that match XYZ\*, found none"),
        (lambda t: t.assign(G4_mean=-1.0), (*BINARY, "--transform", "log1p"), "found negative .*G4"),
        (lambda t: t, (*BINARY, "--responders", "XX"), "found none of xx"),
        (lambda t: t, (*BINARY, "--folds", "1"), "expected folds of at least 2"),
        (lambda t: t, (*BINARY, "--permutations", "5"), "expected 0 or at least 19 permutations"),
        (lambda t: t, (*BINARY, "--covariates", "recist"), "expected a column in one role"),
        (by_response, (*BINARY, "--group", "site", "--folds", "2"), "found a fold that lacks one"),
        (lambda t: t, (*BINARY, "--transfer", "m", "--covariates", "age"), "expected --transfer without --covariates"),
        (lambda t: t, (*BINARY, "--model", "boosting", "--save-model", "m"), "expected an elastic net to save"),
        (lambda t: t, ("--transfer", "nowhere"), "expected a drug-response model in nowhere"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(tmp_path, capsys, change, words, message):
    table = write(tmp_path / "table.csv", change(cohort_table()))
    output = tmp_path / "out"
    assert run_command(["drug-response", str(table), "--output", str(output), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_gene_words_of_responders_and_missing_responses(tmp_path):
    table = cohort_table()
    table.loc[:4, "recist"] = ["NE", None, "", "not evaluable", "NA"]
    settings = DrugResponseSettings(
        cohort=write(tmp_path / "t.csv", table), output=tmp_path / "out", response="recist", type="binary",
        responders=("CR", "PR", "SD"), permutations=0, replicates=100, draws=0, model="elastic-net",
    )  # fmt: skip
    record = flow.run(settings)
    assert record["response"]["rule"] == "responded: CR, PR, SD; did not: PD"
    assert record["response"]["patients"] == 75
    assert "5 patients without a known response are left out." in record["warnings"]


def test_what_is_there_is_kept(cohort, tmp_path, saved):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine.txt").write_text("x", encoding="utf-8")
    more = {"response": "ln_ic50", "type": "continuous", "permutations": 0, "draws": 0, "model": "elastic-net"}
    with pytest.raises(OutputExistsError, match=r"expected no .*kept yet"):
        flow.run(DrugResponseSettings(cohort=cohort, output=kept, **more))
    with pytest.raises(OutputExistsError, match=r"found no drug_response\.json in it"):
        flow.run(DrugResponseSettings(cohort=cohort, output=kept, force=True, **more))
    with pytest.raises(OutputExistsError, match=r"expected no .*model yet"):
        flow.run(DrugResponseSettings(cohort=cohort, output=tmp_path / "new", save_model=saved, **more))
    assert not (tmp_path / "new").exists()


def test_a_broken_model_is_refused(saved, cohort, tmp_path):
    saved = shutil.copytree(saved, tmp_path / "copy")

    def apply():
        return flow.run(DrugResponseSettings(cohort=cohort, output=tmp_path / "o", transfer=saved, draws=0))

    weights = saved / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(UsageError, match=r"expected the weights that model\.json of .* names, found others"):
        apply()
    weights.unlink()
    with pytest.raises(UsageError, match="expected a whole drug-response model"):
        apply()
    (saved / "model.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(UsageError, match=r"found another model\.json"):
        apply()
    shutil.rmtree(saved)
    with pytest.raises(UsageError, match=r"found no readable model\.json"):
        apply()


def test_settings_survive_json():
    settings = DrugResponseSettings.from_dict(
        {"cohort": "a.csv", "output": "o", "response": "r", "type": "binary", "covariates": ["age"], "workers": 2}
    )
    assert DrugResponseSettings.from_json(settings.to_json()) == settings
    assert settings.direction == "response"
