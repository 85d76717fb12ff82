"""What an evaluation leaves for people to read: a table of genes and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stimage_qupath.pipeline.score import ScoredSection
from stimage_qupath.report import plots
from stimage_qupath.report.html import Picture, evaluation_page
from stimage_qupath.validation.expression import depth_normalised

ROLES = ("best", "median", "worst")


def genes_table(scored: Sequence[ScoredSection]) -> pd.DataFrame:
    """Return one row a section and gene: training mean, residual correlation, coverage, CRPS, Moran's I."""
    tables = []
    for one in scored:
        low, high = np.nanpercentile(np.nan_to_num(one.residual_pcc[1:]), [2.5, 97.5], axis=0)
        tables.append(
            pd.DataFrame(
                {
                    "section": one.case.encoded.section.name,
                    "gene": one.case.panel.genes,
                    "training_mean": one.case.rates * one.case.reference_total,
                    "pcc_residual": one.residual_pcc[0],
                    "pcc_residual_low": low,
                    "pcc_residual_high": high,
                    "coverage_0.9": (np.abs(one.pit - 0.5) <= 0.45).mean(axis=0),
                    "crps": one.crps,
                    **_patterns(one),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _patterns(one: ScoredSection) -> dict[str, Any]:
    """Return Moran's I of each gene, measured, predicted and of both together."""
    of = one.patterns
    columns = (None, None, None) if of is None else (of.measured, of.predicted, of.both)
    names = ("moran_measured", "moran_predicted", "bivariate_moran")
    return {name: np.nan if values is None else values for name, values in zip(names, columns, strict=True)}


def write_report(path: Path, evaluation: Mapping[str, Any], scored: Sequence[ScoredSection]) -> None:
    """Write the page.

    Parameters
    ----------
    path
        File to write.
    evaluation
        What ``evaluation.json`` holds.
    scored
        Arrays of each section.
    """
    maps = {one.case.encoded.section.name: _maps(one) for one in scored}
    page = evaluation_page(evaluation, pictures=_pictures(evaluation, scored), maps=maps)
    path.write_text(page, encoding="utf-8")


def _pictures(evaluation: Mapping[str, Any], scored: Sequence[ScoredSection]) -> list[Picture]:
    sections = evaluation["sections"]
    pcc = {one.case.encoded.section.name: one.residual_pcc[0] for one in scored}
    found = [
        Picture(
            plots.pcc_distribution(pcc),
            "Correlation of each gene with its Pearson residuals at the measured depth; 0 is no signal.",
            "Histogram of correlations over genes. " + _means("Mean", sections, "pcc_residual_mean"),
        ),
        Picture(
            plots.coverage_curves({name: of["coverage"] for name, of in sections.items()}),
            "Share of held-out counts inside central intervals, randomised for the steps of counts.",
            "Coverage against level. "
            + " ".join(f"{name}: {of['coverage']['0.9']:.3f} of 90 %." for name, of in sections.items()),
        ),
        Picture(
            plots.pit_histogram({name: of["pit_histogram"] for name, of in sections.items()}),
            "Level at which the measured count lies in its prediction; flat where all is right, U-shaped where "
            "intervals are too narrow.",
            "Histogram of the randomised probability integral transform.",
        ),
    ]
    for one in scored:
        name = one.case.encoded.section.name
        found.append(
            Picture(
                plots.risk_curves(one.risk.kept, one.risk.curves, name),
                f"{name}: error of the spots that are left when the least certain are left out, by three orders.",
                f"Risk and coverage of section {name}; area of the total SD {sections[name]['ause']['value']:.3f}.",
            )
        )
    return found


def _means(word: str, sections: Mapping[str, Any], metric: str) -> str:
    return " ".join(f"{word} of {name}: {of[metric]['value']:.3f}." for name, of in sections.items())


def _maps(one: ScoredSection) -> list[Picture]:
    """Return the maps of the best, the median and the worst gene that varies in the measurement."""
    pcc = one.residual_pcc[0]
    order = np.argsort(np.where(np.isfinite(pcc), -pcc, np.inf), kind="stable")[: int(np.isfinite(pcc).sum())]
    if not len(order):
        return []
    measured, mixture = one.case.measured, one.mixture
    truth = np.log1p(depth_normalised(measured.counts, measured.totals, one.case.reference_total))
    found = []
    for role, g in zip(ROLES, (order[0], order[len(order) // 2], order[-1]), strict=True):
        gene = one.case.panel.genes[g]
        panels = {
            "measured (log1p)": truth[:, g],
            "predicted (log1p)": np.log1p(mixture.expected[:, g]),
            "aleatoric SD": np.sqrt(mixture.aleatoric[:, g]),
            "epistemic SD": np.sqrt(mixture.epistemic[:, g]),
        }
        maps = plots.Maps(gene, role, float(pcc[g]), measured.positions_um, panels)
        found.append(
            Picture(
                plots.gene_maps(maps),
                f"{gene}, {role} of the section (residual correlation {pcc[g]:.3f}); measured counts at reference "
                "depth, the prediction and both parts of its uncertainty, each in its own colours.",
                f"Four maps of gene {gene}, the {role} of the section.",
            )
        )
    return found
