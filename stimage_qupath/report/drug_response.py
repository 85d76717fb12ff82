"""A drug-response analysis as one page, and in a few lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stimage_qupath.report.html import Picture, Table, render
from stimage_qupath.report.response_plots import Drawing

LIMITS = (
    "Every figure is of patients that the model had not seen: genes, penalties and numbers of trees were chosen inside "
    "each training fold. The claim is the figure within folds; over all patients it mixes several models.",
    "The null gives each patient the expression of another and repeats everything. A small p says that expression goes "
    "with the response in this cohort, not that it causes it or that it holds in another.",
    "Expression that adds nothing to tissue, site or clinical data is of no use: look at the lead over the covariates.",
    "Coefficients of correlated genes share their weight at will. A gene that folds disagree on is not a finding.",
    "Bands come from drawing each gene's prediction on its own. Errors that genes or patients share are not in them.",
    "A model of cell lines has seen no stroma, no immune cell and no dose in a body. Aligned expression makes scales "
    "alike, not biology.",
    "Predicted expression has not been tested for choosing a treatment.",
)
DASH = "–"
NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "auroc_all_patients": "AUROC, all patients",
    "auprc_all_patients": "AUPRC, all patients",
    "brier_skill": "Brier skill",
    "spearman": "Spearman",
    "spearman_all_patients": "Spearman, all patients",
    "r2": "R²",
}


def drug_response_page(record: Mapping[str, Any], drawn: Mapping[str, Drawing]) -> str:
    """Return the page.

    Parameters
    ----------
    record
        What ``drug_response.json`` holds.
    drawn
        Pictures by name.
    """
    transferred = record["mode"] == "transfer"
    return render(
        title="Drug response, transferred model" if transferred else "Drug response from expression",
        evaluation=record,
        facts=_transfer_facts(record) if transferred else _facts(record),
        tables=[table for table in (_transfer_tables(record) if transferred else _tables(record)) if table.rows],
        pictures=[Picture(drawing.uri, drawing.caption, drawing.description) for drawing in drawn.values()],
        maps={},
        limits=LIMITS,
    )


def drug_response_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the lines that ``drug-response`` prints."""
    if record["mode"] == "transfer":
        genes = record["genes"]
        lines = [f"{record['patients']} patients predicted from {genes['in_common']} of {genes['model']} genes"]
        lines += [f"{NAMES[name]} {_figure(figure)}" for name, figure in record.get("figures", {}).items()]
        return [*lines, record["alignment"]["note"], record["research_use"]]
    return [*record["verdict"], record["research_use"]]


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    response, settings = record["response"], record["settings"]
    responders = "" if response["responders"] is None else f", {response['responders']} responders"
    permuted = f"{settings['permutations']} of the whole nested pipeline" if settings["permutations"] else "none"
    return {
        "Response": f"{response['column']} ({response['kind']}; {response['rule']})",
        "Patients": f"{response['patients']}{responders}",
        "Together in a fold": f"{record['groups']['number']} groups by {record['groups']['column']}",
        "Genes": ", ".join(f"{number} {name}" for name, number in record["genes"].items()),
        "Folds": f"{settings['folds']} outer, 5 inner",
        "Permutations": permuted,
        "Intervals": f"95 %, {settings['replicates']} resamples of groups within folds",
        "Verdict": " ".join(record["verdict"]),
    }


def _tables(record: Mapping[str, Any]) -> list[Table]:
    models = record["models"]
    metrics = list(next(iter(models.values()))["figures"])
    rows = []
    for label, of in models.items():
        test = of["permutation"]
        p = [DASH, DASH] if test is None else [f"{test['p']:.3g}", f"{test['null_mean']:.3f}"]
        band = DASH if of["band"] is None else f"{of['band']['band'][0]:.3f} to {of['band']['band'][1]:.3f}"
        rows.append([label, *(_figure(of["figures"][name]) for name in metrics), *p, band])
    columns = ["", *(NAMES[name] for name in metrics), "p", "mean of null", "band of the predictions"]
    found = [Table("Out-of-fold figures", columns, rows, leads=False)]
    leads = [[label, other, _figure(lead)] for label, of in models.items() for other, lead in of["lead"].items()]
    found.append(Table(f"Leads in {NAMES[record['primary']]}, paired", ["", "over", "lead"], leads, leads=False))
    chosen = [[label, "; ".join(map(_chosen, of["chosen_a_fold"]))] for label, of in models.items()]
    return [*found, Table("What the inner folds chose, a fold each", ["", "chosen"], chosen, leads=False)]


def _transfer_facts(record: Mapping[str, Any]) -> dict[str, str]:
    model, genes = record["model"], record["genes"]
    response = record["response"]
    return {
        "Model": f"{model['folder']}, trained on {model['card'].get('trained_on', 'an unnamed cohort')}",
        "A high prediction means": model["higher"],
        "Patients": str(record["patients"]),
        "Genes": f"{genes['in_common']} of {genes['model']}, {genes['weight']:.0%} of the model's weight",
        "Alignment": f"{record['alignment']['method']}. {record['alignment']['note']}",
        "Response": "not looked at" if response is None else f"{response['column']} ({response['rule']})",
    }


def _transfer_tables(record: Mapping[str, Any]) -> list[Table]:
    rows = []
    for name, figure in record.get("figures", {}).items():
        band = f"{figure['band'][0]:.3f} to {figure['band'][1]:.3f}" if "band" in figure else DASH
        rows.append([NAMES[name], _figure(figure), f"{figure['p']:.3g}" if "p" in figure else DASH, band])
    return [Table("Figures on this cohort; nothing was fitted to it", ["", "figure", "p", "band"], rows, leads=False)]


def _figure(figure: Mapping[str, Any]) -> str:
    value = figure["value"]
    if value is None or not math.isfinite(value):
        return DASH
    if figure["ci"] is None:
        return f"{value:.3f}"
    return f"{value:.3f} [{figure['ci'][0]:.3f}, {figure['ci'][1]:.3f}]"


def _chosen(chosen: Mapping[str, Any]) -> str:
    if "trees" in chosen:
        return f"{chosen['trees']} trees of {chosen['leaves']} leaves"
    fits = " + ".join(f"{p['weight']:g} x (mix {p['mix']:g}, penalty {p['penalty']:.3g})" for p in chosen["parts"])
    return f"{fits}, {chosen['columns']} columns"
