"""An evaluation in a few lines, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = ("pcc_residual_mean", "pcc_partial_depth_mean", "pcc_normalised_mean", "pcc_log1p_raw_median_above_0.1")
LEADS = ("ridge", "predicted_depth")
"""Baselines over which a lead is the claim."""


def interval(figure: Mapping[str, Any]) -> str:
    """Return a figure as ``0.123 [0.100, 0.146]``."""
    low, high = figure["ci"]
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]"


def evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Return the lines that ``evaluate`` prints.

    Parameters
    ----------
    evaluation
        What ``evaluation.json`` holds.
    """
    metric = "pearson_mean" if evaluation["protocol"]["name"] == "hest" else METRICS[0]
    lines = []
    for name, figures in evaluation["sections"].items():
        lines.append(f"{name}: {metric} {interval(figures[metric])} ({figures['note']})")
        lines += [f"  {line}" for line in _more_of_section(evaluation, name, figures)]
    return lines + _summary_lines(evaluation["summary"])


def _more_of_section(evaluation: Mapping[str, Any], name: str, figures: Mapping[str, Any]) -> list[str]:
    if "coverage" not in figures:
        return []
    plain = figures["plain_coverage"]["0.9"]
    lines = [
        *(f"{metric} {interval(figures[metric])}" for metric in METRICS[1:]),
        f"coverage of 90 %: {figures['coverage']['0.9']:.3f} randomised; {plain['found']:.3f} plain, "
        f"{plain['expected']:.3f} expected by the model",
        f"AUSE {interval(figures['ause'])}; predicted mean less total SD "
        f"{interval(figures['ause']['lead_over_predicted_mean'])}",
    ]
    if figures["high"]:
        high = figures["high"]
        ahead = f", elastic net {interval(high['elastic_net']['auroc_given_depth'])}" if "elastic_net" in high else ""
        model = interval(high["auroc_given_depth"])
        lines.append(f"high or low, {high['genes']} genes: AUROC within tenths of depth {model}{ahead}")
    for change, found in evaluation.get("perturbation", {}).get(name, {}).items():
        parts = [f"{change}: outside training {found.get('flagged', found.get('outside_training', 0)):.0%}"]
        if "pcc_residual_mean" in found:
            parts.append(f"pcc_residual_mean {found['pcc_residual_mean']['value']:.3f}")
            parts.append(f"coverage of 90 % {found['coverage']['0.9']:.3f}")
        if "auroc_ood_score" in found:
            parts.append(f"AUROC {found['auroc_ood_score']:.3f}, epistemic {found['auroc_epistemic_log_sd']:.3f}")
        lines.append(", ".join(parts))
    return lines


def _summary_lines(summary: Mapping[str, Any]) -> list[str]:
    if "pearson_mean" in summary:
        return [f"mean over folds: {summary['pearson_mean']:.4f} (SD {summary['pearson_sd']:.4f})"]
    if "model" not in summary:
        return []
    lines = [f"mean: {metric} {interval(summary['model'][metric])}" for metric in METRICS]
    for baseline in LEADS:
        if baseline in summary["model_lead"]:
            lead = summary["model_lead"][baseline]
            lines += [f"  ahead of {baseline}: {metric} {interval(lead[metric])}" for metric in METRICS[:2]]
    return lines
