"""Known pharmacology in real cell lines: MEK inhibitors are predictable, ERBB2 leads for afatinib in breast lines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stimage_qupath.clinical.design_matrix import Design
from stimage_qupath.clinical.drug_nested import Plan, cross_validate, statistic
from stimage_qupath.clinical.elastic_net import RIDGE, ElasticNet
from stimage_qupath.clinical.expression import Expression
from stimage_qupath.clinical.response import continuous_response
from stimage_qupath.clinical.transfer import TransferModel, transfer

pytestmark = pytest.mark.slow
TRAMETINIB, AFATINIB = "GDSC:1372", "GDSC:1377"


@pytest.fixture(scope="module")
def lines(real_data):
    """Return expression (line, gene), ln IC50 (line, drug) and tissue (line,)."""
    folder = real_data / "cohorts" / "drug_response"
    expression = pd.read_csv(folder / "ccle_expression_525x697.csv.gz", index_col=0)
    response = pd.read_csv(folder / "GDSC_IC50.csv.gz", index_col=0).T.reindex(expression.index)
    about = pd.read_csv(folder / "Cell_lines_annotations_20181226.txt", sep="\t").dropna(subset="depMapID")
    names = about.drop_duplicates("depMapID").set_index("depMapID")["CCLE_ID"]
    return expression, response, names.str.partition("_")[2].reindex(expression.index)


def of(lines, drug, keep=slice(None)):
    expression, response, _ = lines
    y = response.loc[keep, drug].dropna()
    found = continuous_response(y.to_numpy(np.float64), name=drug)
    plan = Plan.make(y.index.to_numpy(str), found.strata, folds=5, seed=0, classes=False)
    return Design.of_genes(expression.loc[y.index].to_numpy(), expression.columns), found.values, plan


def test_a_mek_inhibitor_is_predicted_as_well_as_by_a_ridge(lines):
    design, y, plan = of(lines, TRAMETINIB)
    figures = {}
    for name, mixes in (("net", (RIDGE, 0.1, 0.5)), ("ridge", (RIDGE,))):
        learner = ElasticNet(kind="continuous", mixes=mixes)
        figures[name] = statistic("continuous", y, cross_validate(learner, design, y, plan).prediction, plan)
    assert figures["net"] > 0.6
    assert figures["net"] > figures["ridge"] - 0.02


def test_erbb2_is_among_the_leading_negative_coefficients_of_afatinib_in_breast_lines(lines):
    tissue = lines[2]
    design, y, plan = of(lines, AFATINIB, tissue.index[tissue == "BREAST"])
    model = ElasticNet(kind="continuous").fit(design, y, plan.whole)
    order = [design.names[k] for k in np.argsort(model.coefficients)]
    assert order.index("ERBB2") < 5


def test_a_model_of_some_lines_transfers_to_others_in_another_unit(lines):
    design, y, _ = of(lines, TRAMETINIB)
    other = np.arange(len(y)) % 3 == 0
    train = np.flatnonzero(~other)
    plan = Plan.make(train, np.zeros(len(train), dtype=np.intp), folds=5, seed=0, classes=False)
    model = ElasticNet(kind="continuous").fit(design.take(train), y[train], plan.whole)
    kept = TransferModel.of(model, Expression(design.names, design.values[train]), higher="resistance", card={})
    counts = Expression(design.names, 2.0 ** design.values[other] - 1)  # as if never logged
    found = {
        method: pd.Series(transfer(kept, counts, method=method).prediction).corr(pd.Series(y[other]), method="spearman")
        for method in ("quantile", "none")
    }
    assert found["quantile"] > 0.55
    assert found["quantile"] > found["none"] + 0.05
