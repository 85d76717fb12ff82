"""Signatures on breast arrays with known receptors, grade, published calls and follow-up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index

from stimage_qupath.clinical.signatures.gene70 import Gene70
from stimage_qupath.clinical.signatures.linear import Linear
from stimage_qupath.clinical.signatures.pam50 import Pam50
from stimage_qupath.clinical.signatures.recurrence_21 import RecurrenceScore
from stimage_qupath.signatures.library import genomic_grade, linear_signatures
from stimage_qupath.validation.rank_test import auroc

pyreadr = pytest.importorskip("pyreadr")


def cohort(real_data, name):
    """Return expression by probe, expression by gene (its most variable probe), and clinical columns."""
    read = pyreadr.read_r(real_data / "cohorts" / "breast_arrays" / "genefu" / "data" / f"{name}.rda")
    probes, symbols, clinical = (read[f"{part}.{name}"] for part in ("data", "annot", "demo"))
    probes = probes.fillna(probes.median())
    order = probes.var().sort_values(ascending=False).index
    first = {}
    for probe in order:
        symbol = symbols["HUGO.gene.symbol"].get(probe)
        if isinstance(symbol, str):
            first.setdefault(symbol, probe)
    genes = probes[list(first.values())].set_axis(list(first), axis=1)
    return probes, genes, clinical


@pytest.fixture(scope="module")
def expo(real_data):
    return cohort(real_data, "expos")


@pytest.fixture(scope="module")
def nki(real_data):
    return cohort(real_data, "nkis")


def linear(signature, genes):
    x = genes.to_numpy(float)
    return Linear.of(signature, list(genes.columns), x).scores(x)[:, 0]


def test_pam50_calls_agree_with_receptors(expo):
    _, genes, clinical = expo
    x = genes.to_numpy(float)
    fitted = Pam50.of(list(genes.columns), x)
    subtype = pd.Series(fitted.labels(fitted.scores(x))["pam50_subtype"], index=genes.index)
    assert len(fitted.missing) == 18
    positive = pd.to_numeric(clinical["er"])
    er = positive.groupby(subtype.to_numpy()).mean()
    assert er["Basal"] < 0.3  # of all tumours two thirds are positive
    assert min(er["LumA"], er["LumB"]) > 0.9
    her2 = pd.to_numeric(clinical["her2"]).groupby(subtype.to_numpy()).mean()
    assert her2["Her2"] > 3 * max(her2["Basal"], her2["LumA"], her2["LumB"], her2["Normal"])


def test_proliferation_and_genomic_grade_rise_with_grade(expo):
    _, genes, clinical = expo
    grade = pd.to_numeric(clinical["grade"]).to_numpy(float)
    ends = np.isin(grade, (1, 3))
    for signature in (*linear_signatures(["pam50-proliferation"]), genomic_grade()):
        assert auroc(linear(signature, genes)[ends], grade[ends] == 3) > 0.85


def test_the_recurrence_score_is_higher_without_estrogen_receptor(expo):
    _, genes, clinical = expo
    x = genes.to_numpy(float)
    fitted = RecurrenceScore.of(list(genes.columns), x)
    er = pd.to_numeric(clinical["er"]).to_numpy(float)
    known = np.isfinite(er)
    assert fitted.needs_cohort  # the arrays' subset lacks the reference genes
    assert auroc(fitted.scores(x)[known, 1], er[known] == 0) > 0.8  # PGR is missing too


def test_gene70_gives_the_published_prognosis_groups(nki):
    probes, genes, clinical = nki
    group = clinical["vantveer2002_70_genes"].to_numpy(object)
    known = np.isin(group.astype(str), ("Good", "Poor"))
    for table, least in ((probes, 0.97), (genes, 0.95)):
        x = table.to_numpy(float)
        score = Gene70.of(list(table.columns), x).scores(x)[:, 0]
        assert auroc(score[known], group[known] == "Poor") > least


def test_signatures_order_recurrences_in_nki(nki):
    probes, genes, clinical = nki
    time, event = pd.to_numeric(clinical["t.rfs"]), pd.to_numeric(clinical["e.rfs"])
    x = probes.to_numpy(float)
    risks = {
        "gene70": Gene70.of(list(probes.columns), x).scores(x)[:, 0],
        "proliferation": linear(linear_signatures(["pam50-proliferation"])[0], genes),
        "genomic grade": linear(genomic_grade(), genes),
    }
    known = (time.notna() & event.notna()).to_numpy()
    found = {name: concordance_index(time[known], -risk[known], event[known]) for name, risk in risks.items()}
    assert found["gene70"] >= 0.66
    assert min(found.values()) >= 0.64
