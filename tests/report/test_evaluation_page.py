"""The page of an evaluation: whole, safe, and readable without eyes or mouse."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from stimage_qupath.report import plots
from stimage_qupath.report.html import LIMITS, Picture, evaluation_page
from stimage_qupath.report.text import evaluation_lines

EVIL = "<script>alert('S')</script>"


def figure(value):
    return {"value": value, "ci": [value - 0.01, value + 0.02]}


def evaluation():
    metrics = (
        "pcc_residual_mean", "pcc_partial_depth_mean", "pcc_normalised_mean", "pcc_log1p_raw_mean",
        "pcc_log1p_raw_median_above_0.1", "spearman_mean", "rmse_normalised_mean", "nb_deviance_mean", "crps_mean",
    )  # fmt: skip
    point = {metric: figure(0.1 + 0.01 * i) for i, metric in enumerate(metrics)}
    cover = {"0.5": 0.51, "0.8": 0.79, "0.9": 0.905, "0.95": 0.94}
    plain = {level: {"found": v + 0.05, "expected": v + 0.06} for level, v in cover.items()}
    section = point | {
        "patient": "P", "note": "same patient in training", "spots": 170, "genes": 3, "coverage": cover,
        "coverage_by_training_mean": {"0.1-1": {"genes": 3, **cover}}, "plain_coverage": plain,
        "high": {
            "genes": 2, "auroc_given_depth": figure(0.55),
            "auroc": figure(0.61), "auprc": figure(0.5), "brier": figure(0.24), "ece": figure(0.05),
            "at_depth": {"brier": figure(0.2), "ece": figure(0.03)},
            "elastic_net": {
                m: figure(0.587) for m in ("auroc_given_depth", "auroc", "auprc", "brier", "ece")
            },
        },
        "pit_histogram": [0.05] * 20, "outside_training": 0.02, "nb_on_log1p_coverage": plain,
        "marginal_over_depth": {"coverage": cover},
        "ause": figure(0.8) | {"predicted_mean": figure(0.81), "lead_over_predicted_mean": figure(0.01)},
        "spearman_with_error": {"ood_score": figure(0.2), "epistemic_log_sd": figure(0.3)},
    }  # fmt: skip
    changed = {
        "pcc_residual_mean": figure(0.03), "coverage": cover, "flagged": 0.97, "auroc_ood_score": 0.99,
        "auroc_epistemic_log_sd": 0.71,
    }  # fmt: skip
    return {
        "split": "leave one section out", "patients": 1, "warnings": [EVIL], "research_use": "Research use only.",
        "protocol": {"name": "stimage", "min_total": 200, "replicates": 100, "block_um": 600.0},
        "gene_set": {"name": EVIL, "size": 3, "chosen_without_test_sections": False},
        "sections": {EVIL: section},
        "baselines": {"observed_depth": {"oracle": True, "sections": {EVIL: point}}},
        "summary": {
            "model": point, "model_lead": {"ridge": point}, "over": {"sections": 3, "patients": 1},
        },
        "perturbation": {EVIL: {"blur 4 um": changed}},
        "versions": {"stimage-qupath": "1"},
    }  # fmt: skip


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page():
    drawn = Picture(plots.pit_histogram({"A": [0.05] * 20}), "a caption", f"a description {EVIL}")
    return evaluation_page(evaluation(), pictures=[drawn], maps={EVIL: [drawn]})


def test_nothing_is_loaded_and_nothing_runs(page):
    found = Page(page)
    assert found.open == []
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object"}
    addresses = [a[key] for _, a in found.tags for key in ("src", "href") if key in a]
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in addresses)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert EVIL in found.text


def test_eyes_and_mouse_are_not_needed(page):
    found = Page(page)
    assert all(a.get("alt") for tag, a in found.tags if tag == "img")
    assert ("html", {"lang": "en"}) in found.tags
    scopes = {a.get("scope") for tag, a in found.tags if tag == "th"}
    assert scopes == {"col", "row"}
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for _, a in found.tags if a.get("role") == "region")
    assert "prefers-color-scheme: dark" in page
    assert any(tag == "a" and a["href"] == "#figures" for tag, a in found.tags)


def test_it_says_the_figures_and_their_limits(page):
    text = Page(page).text
    for needed in (*LIMITS, "Research use only.", "0.100 [0.090, 0.120]", "observed_depth (knows the measured depth)",
                   "0.905", "0.955 (0.965)", "it may have been chosen with these sections",
                   "blur 4 um", "97.0%", "0.610 [0.600, 0.630]", "model told the depth"):  # fmt: skip
        assert needed in text, needed


def test_lines_for_a_terminal():
    lines = "\n".join(evaluation_lines(evaluation()))
    assert "pcc_residual_mean 0.100 [0.090, 0.120] (same patient in training)" in lines
    assert "high or low, 2 genes: AUROC within tenths of depth 0.550 [0.540, 0.570], elastic net 0.587" in lines
    assert "ahead of ridge: pcc_residual_mean 0.100" in lines
    assert "blur 4 um: outside training 97%, pcc_residual_mean 0.030, coverage of 90 % 0.905, AUROC 0.990" in lines


def test_pictures_follow_light_and_dark_and_are_equal_for_equal_data():
    rng = np.random.default_rng(0)
    maps = plots.Maps(
        "A&B", "best", 0.5, rng.uniform(0, 4000, (150, 2)), {"mean": rng.normal(size=150), "flat": np.ones(150)}
    )
    drawn = [
        plots.gene_maps(maps),
        plots.pcc_distribution({"A": np.array([0.1, np.nan, 0.3])}),
        plots.coverage_curves({"A": {"0.5": 0.4, "0.9": 0.8}}),
        plots.risk_curves(np.linspace(0.1, 1, 5), {"oracle": np.arange(5.0), "total_sd": np.ones(5)}, "A"),
    ]
    for uri in drawn:
        svg = base64.b64decode(uri.split(",")[1]).decode()
        assert "currentColor" in svg
        assert plots.INK not in svg
        assert "prefers-color-scheme:dark" in svg
    assert plots.gene_maps(maps) == drawn[0]
    assert len(drawn[0]) < 150_000
