"""Survival on public breast cancer cohorts: what is known to be there is found, and what is not is called so."""

import h5py
import numpy as np
import pandas as pd
import pyreadr
import pytest

from stimage_qupath.clinical.cross_validation import cross_validate
from stimage_qupath.clinical.gene_filter import FeatureTable
from stimage_qupath.clinical.judgement import Judge
from stimage_qupath.clinical.nested import outer_folds
from stimage_qupath.clinical.outcome import Outcome
from stimage_qupath.clinical.survival_problem import NestedSettings, Problem
from stimage_qupath.config.survival import SurvivalSettings
from stimage_qupath.pipeline import survival

SETTINGS = NestedSettings()
PROLIFERATION = ("BIRC5", "CCNB1", "CDC20", "CEP55", "MKI67", "NDC80", "NUF2", "PTTG1", "RRM2", "TYMS", "UBE2C")
"""The 11 genes of Nielsen et al. 2010 (Clin. Cancer Res. 16)."""


def c_of(problem):
    folds = [fold.test for fold in outer_folds(problem.groups, problem.outcome, SETTINGS)]
    judge = Judge.of(problem.outcome, folds, horizons=(), replicates=1000, seed=0)
    figure = judge.c(cross_validate(problem, SETTINGS).risk)
    return figure.value, figure.ci


@pytest.fixture(scope="module")
def nki(real_data):
    found = pyreadr.read_r(str(real_data / "cohorts/breast_arrays/genefu/data/nkis.rda"))
    clinical, expression = found["demo.nkis"], found["data.nkis"]
    known = (clinical["t.rfs"] > 0).to_numpy() & clinical["e.rfs"].notna().to_numpy()
    outcome = Outcome.of(clinical["t.rfs"].to_numpy(float)[known], clinical["e.rfs"].to_numpy()[known] == 1)
    return outcome, expression.to_numpy(float)[known], found["annot.nkis"].reset_index(drop=True)


@pytest.mark.slow
def test_nki_recurrence_and_proliferation(nki):
    outcome, expression, genes = nki
    columns = genes.index[genes["HUGO.gene.symbol"].isin(PROLIFERATION)]
    score = np.nanmean(expression[:, columns], axis=1, keepdims=True)
    c, ci = c_of(Problem(None, FeatureTable.of(score), np.arange(len(score)), outcome))
    assert c >= 0.66
    assert ci[0] > 0.55


@pytest.mark.slow
def test_nki_recurrence_and_the_genes_of_the_70_gene_signature(nki, real_data):
    outcome, expression, genes = nki
    signature = pyreadr.read_r(str(real_data / "cohorts/breast_arrays/genefu/data/sig.gene70.rda"))["sig.gene70"]
    columns = genes.index[genes["probe"].isin(signature["probe"])]
    assert len(columns) > 40
    # the signature was found on some of these patients, so that this figure is no evidence of it
    c, _ = c_of(Problem(FeatureTable.of(expression[:, columns]), None, np.arange(len(expression)), outcome))
    assert c >= 0.66


@pytest.mark.slow
def test_metabric_with_four_genes_and_clinical_columns(real_data):
    path = real_data / "cohorts/breast_arrays/deepsurv/experiments/data/metabric/metabric_IHC4_clinical_train_test.h5"
    with h5py.File(path) as file:
        x, time, event = (np.concatenate([file[part][key][()] for part in ("train", "test")]) for key in "xte")
    known = time > 0
    outcome = Outcome.of(time[known].astype(float), event[known] == 1)
    c, ci = c_of(Problem(None, FeatureTable.of(x[known].astype(float)), np.arange(known.sum()), outcome))
    assert c >= 0.63
    assert ci[0] > 0.6


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_tcga_says_no_clear_gain_where_there_is_none(real_data, tmp_path):
    source = real_data / "cohorts/tcga/porpoise/datasets_csv_mutsig/tcga_brca_all_clean.csv.zip"
    slides = pd.read_csv(source, low_memory=False).rename(columns={"case_id": "patient"})
    slides["died"], slides["tissue_source_site"] = 1 - slides["censorship"], slides["patient"].str[5:7]
    genes = [name for name in slides if name.endswith("_rnaseq")]
    kept = ["patient", "age", "tissue_source_site", "survival_months", "died", *genes]
    slides[kept].to_parquet(tmp_path / "tcga.parquet")
    found = survival.run(
        SurvivalSettings(
            cohort=tmp_path / "tcga.parquet",
            time="survival_months",
            event="died",
            covariates=("age",),
            site="tissue_source_site",
            features=("*_rnaseq",),
            permutations=0,
            output=tmp_path / "o",
        )
    )
    assert len(slides) == 1022
    assert (found["cohort"]["patients"], found["cohort"]["events"]) == (956, 130)
    assert "1022 rows became 956 patients" in found["warnings"][0]
    assert found["models"]["covariates"]["c"]["value"] > 0.6
    delta = found["gains"]["expression + covariates"]["delta_c"]
    assert delta["ci"][0] < 0 < delta["ci"][1]
    assert "No clear gain of expression + covariates over the covariates alone" in found["verdict"][1]
