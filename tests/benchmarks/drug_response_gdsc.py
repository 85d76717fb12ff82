"""Nested elastic nets on the 266 GDSC drugs of 525 CCLE cell lines, beside a ridge and the tissue of origin.

Run it as ``python tests/benchmarks/drug_response_gdsc.py FOLDER --output drugs.csv``; the folder holds the expression
table, ``GDSC_IC50.csv.gz``, the annotation of the cell lines and the list of drugs. GDSC is free for
non-commercial use: nothing that is fitted here is kept.

Everything is by cell line and out of fold: Spearman within each of five outer folds, averaged. The ridge chooses its
penalty on the same inner folds, so that the difference of the two is what the choice of a mix adds or costs; its
interval comes from drawing drugs. The breast models are fitted to the breast lines alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.clinical.coefficient_stability import Stability
from stimage_qupath.clinical.design_matrix import Design, encode_covariates
from stimage_qupath.clinical.drug_nested import Plan, cross_validate, statistic
from stimage_qupath.clinical.elastic_net import RIDGE, ElasticNet
from stimage_qupath.clinical.response import continuous_response

Float = NDArray[np.float64]

BREAST_DRUGS = ("Afatinib", "Lapatinib")
MEK = "MEK1"
SHOWN = ("drug", "elastic_net", "ridge", "tissue")


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, pd.DataFrame]:
    """Return expression (line, gene), ln IC50 (line, drug), the tissue of each line, and the drugs by identifier."""
    expression = pd.read_csv(folder / "ccle_expression_525x697.csv.gz", index_col=0)
    response = pd.read_csv(folder / "GDSC_IC50.csv.gz", index_col=0).T.reindex(expression.index)
    lines = pd.read_csv(folder / "Cell_lines_annotations_20181226.txt", sep="\t")
    lines = lines.dropna(subset="depMapID").drop_duplicates("depMapID").set_index("depMapID")
    tissue = lines["CCLE_ID"].str.partition("_")[2].reindex(expression.index).rename("tissue")
    drugs = pd.read_csv(folder / "gdsc_drug_list_2019-06-24.csv", dtype={"drug_id": str}).set_index("drug_id")
    return expression, response, tissue, drugs


def of_drug(expression: pd.DataFrame, ic50: pd.Series, tissue: pd.Series, *, folds: int, seed: int) -> dict[str, Any]:
    """Return the out-of-fold figures of one drug."""
    known = ic50.dropna()
    response = continuous_response(known.to_numpy(np.float64), name=str(ic50.name))
    genes = Design.of_genes(expression.loc[known.index].to_numpy(), expression.columns)
    origin = encode_covariates(tissue.loc[known.index].to_frame())
    plan = Plan.make(known.index.to_numpy(str), response.strata, folds=folds, seed=seed, classes=False)
    net, ridge = ElasticNet(kind="continuous"), ElasticNet(kind="continuous", mixes=(RIDGE,))
    start = time.perf_counter()
    found = cross_validate(net, genes, response.values, plan)
    seconds = time.perf_counter() - start
    predictions = {
        "elastic_net": found.prediction,
        "ridge": cross_validate(ridge, genes, response.values, plan).prediction,
        "tissue": cross_validate(ridge, origin, response.values, plan).prediction,
    }
    figures = {of: statistic("continuous", response.values, p, plan) for of, p in predictions.items()}
    sparse = sum(model.chosen["mix"] > 0 for model in found.models)
    return {"lines": len(known), **figures, "folds_with_a_sparse_mix": sparse, "seconds": seconds}


def of_breast(expression: pd.DataFrame, ic50: pd.Series, *, folds: int, seed: int) -> dict[str, Any]:
    """Return where ERBB2 stands among the negative coefficients of a model of some lines."""
    y = ic50.dropna()
    response = continuous_response(y.to_numpy(np.float64), name=str(ic50.name))
    genes = Design.of_genes(expression.loc[y.index].to_numpy(), expression.columns)
    plan = Plan.make(y.index.to_numpy(str), response.strata, folds=folds, seed=seed, classes=False)
    ridge, net = ElasticNet(kind="continuous", mixes=(RIDGE,)), ElasticNet(kind="continuous")
    place = genes.names.index("ERBB2")
    record: dict[str, Any] = {"lines": len(y)}
    for name, learner in (("ridge", ridge), ("elastic_net", net)):
        nested = cross_validate(learner, genes, response.values, plan)
        whole: Any = learner.fit(genes, response.values, plan.whole)
        each: list[Any] = list(nested.models)
        stable = Stability.of(genes.names, whole.coefficients, [model.coefficients for model in each])
        record |= {
            f"{name} rank among negative, all lines": 1 + int((whole.coefficients < whole.coefficients[place]).sum()),
            f"{name} mix": whole.mix,
            f"{name} median rank over folds": float(
                np.median([1 + int((m.coefficients < m.coefficients[place]).sum()) for m in each])
            ),
            f"{name} same sign": float(stable.same_sign[place]),
            f"{name} Spearman": statistic("continuous", response.values, nested.prediction, plan),
        }
    record["ERBB2 alone, Spearman"] = float(
        pd.Series(expression.loc[y.index, "ERBB2"]).corr(pd.Series(y), method="spearman")
    )
    return record


def interval(values: Float, *, statistic_of: Any, seed: int, replicates: int = 5000) -> tuple[float, float, float]:
    """Return a statistic of drugs and its 95 % interval over drawn drugs."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(replicates, len(values)))
    low, high = np.percentile(statistic_of(values[drawn], axis=1), [2.5, 97.5])
    return float(statistic_of(values)), float(low), float(high)


def summary(table: pd.DataFrame, *, seed: int) -> list[str]:
    """Return the sentences of the whole benchmark."""
    lines = [
        "median Spearman of {}: {:.3f} [{:.3f}, {:.3f}]".format(
            of, *interval(table[of].to_numpy(), statistic_of=np.median, seed=seed)
        )
        for of in ("elastic_net", "ridge", "tissue")
    ]
    for other in ("ridge", "tissue"):
        lead = (table["elastic_net"] - table[other]).to_numpy()
        lines.append("mean lead of the elastic net over {}: {:+.4f} [{:+.4f}, {:+.4f}]".format(
            other, *interval(lead, statistic_of=np.mean, seed=seed)))  # fmt: skip
    lines.append(f"seconds a drug: median {table['seconds'].median():.2f}, in all {table['seconds'].sum():.0f}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Score the drugs and print what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="CSV of all drugs")
    parser.add_argument("--every", type=int, default=1, help="only each so many drugs")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    expression, response, tissue, drugs = read(given.folder)
    rows = []
    for column in list(response)[:: given.every]:
        about = drugs.loc[column.removeprefix("GDSC:")]
        row = {
            "drug_id": column,
            "drug": about["Name"],
            "targets": about["Targets"],
            "pathway": about["Target pathway"],
        }
        rows.append(row | of_drug(expression, response[column], tissue, folds=given.folds, seed=given.seed))
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
        if given.output:
            pd.DataFrame(rows).to_csv(given.output, index=False)
    table = pd.DataFrame(rows)
    print(*summary(table, seed=given.seed), sep="\n")
    named = table["targets"].str.contains(MEK, na=False) | table["drug"].isin(BREAST_DRUGS)
    print(table[named].round(3)[["drug_id", "lines", *SHOWN]].to_string(index=False))
    breast = expression.index[tissue == "BREAST"]
    for column in drugs.index[drugs["Name"].isin(BREAST_DRUGS)]:
        found = of_breast(expression.loc[breast], response.loc[breast, f"GDSC:{column}"], folds=5, seed=given.seed)
        print(drugs.loc[column, "Name"], column, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
