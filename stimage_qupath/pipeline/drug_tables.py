"""The tables beside ``drug_response.json``, and what its figures amount to in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stimage_qupath.clinical.coefficient_stability import Stability
from stimage_qupath.clinical.drug_response import Answer
from stimage_qupath.pipeline.drug_cohort import DrugCohort

ALPHA = 0.05


def predictions_table(cohort: DrugCohort, found: Answer) -> pd.DataFrame:
    """Return out-of-fold predictions, a row a patient: a column a model, and the SDs of those with a band."""
    question = found.question
    columns: dict[str, Any] = {
        "patient": cohort.patients,
        "group": cohort.groups,
        "fold": question.plan.fold_of,
        "response": question.response.values,
    }
    for label, nested in found.nested.items():
        columns[label] = nested.prediction
        if label in found.bands:
            columns[f"{label}, SD"] = found.bands[label].sd
    return pd.DataFrame(columns)


def coefficients_table(stable: Mapping[str, Stability]) -> pd.DataFrame:
    """Return the elastic nets' coefficients, the largest first, with how far folds agree on them."""
    parts = []
    for label, of in stable.items():
        part = pd.DataFrame(
            {
                "model": label,
                "name": of.names,
                "all_patients": of.whole,
                "mean_over_folds": of.mean,
                "sd_over_folds": of.sd,
                "selected_share": of.selected,
                "same_sign_share": of.same_sign,
                "leading_share": of.leading,
                "median_rank": of.rank,
            }
        )
        parts.append(part.iloc[of.order])
    columns = ["model", "name", "all_patients", "mean_over_folds"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def verdicts(models: Mapping[str, Mapping[str, Any]], metric: str) -> list[str]:
    """Return a sentence a model with expression: better than chance or not, and than covariates alone or not."""
    sentences = []
    for label, of in models.items():
        if of["role"] == "covariates":
            continue
        figure, test = of["figures"][metric], of["permutation"]
        said = f"{label}: {metric} {figure['value']:.3f}"
        if figure["ci"] is not None:
            said += f" [{figure['ci'][0]:.3f}, {figure['ci'][1]:.3f}]"
        if test is not None:
            signal = "signal" if test["p"] <= ALPHA else "no signal"
            said += f", {signal} (permutation p = {test['p']:.3g})"
        sentences.append(said + _gain(of) + ".")
    return sentences


def _gain(of: Mapping[str, Any]) -> str:
    """Return what is said of the lead over the covariates, if there is one."""
    lead = of["lead"].get("covariates")
    if lead is None or lead["ci"] is None:
        return ""
    low, high = lead["ci"]
    what = "clearly better" if low > 0 else "clearly worse" if high < 0 else "no clear gain"
    return f"; over the covariates alone {lead['value']:+.3f} [{low:+.3f}, {high:+.3f}]: {what}"
