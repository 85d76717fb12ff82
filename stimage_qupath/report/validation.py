"""A validation against annotations as one page, and in a few lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stimage_qupath.report import plots
from stimage_qupath.report.enrichment import enrichment_pictures, enrichment_tables
from stimage_qupath.report.html import Picture, Table, render

LIMITS = (
    "Every figure is of agreement with the annotations that were given. They are one person's, or one algorithm's, "
    "view of this slide; labels made from expression clusters are not pathology, and share their counts with the "
    "model's training where it saw this section.",
    "A gene that tells a class apart no better than nuclear density or stain does adds nothing to what is seen at a "
    "glance: look at the lead over both, in the same resamples.",
    "Nuclei of one place share their input. Intervals come from drawing annotations, or spatial blocks, and never "
    "single nuclei. They say nothing of other slides, patients or scanners.",
    "The permutation treats blocks as exchangeable. Annotations larger than a block make p too small.",
    "High is relative: to the training spots, or to this run alone. It is not a clinical cut-off.",
)
DASH = "–"


def validation_page(validation: Mapping[str, Any]) -> str:
    """Return the page.

    Parameters
    ----------
    validation
        What ``validation.json`` holds.
    """
    tables = [table for table in _tables(validation) if table.rows]
    return render(
        title="Predictions against annotations",
        evaluation={**validation, "research_use": f"{validation['research_use']} {validation['note']}"},
        facts=_facts(validation),
        tables=tables,
        pictures=validation_pictures(validation),
        maps={},
        limits=LIMITS,
    )


def validation_lines(validation: Mapping[str, Any]) -> list[str]:
    """Return the lines that ``validate`` prints."""
    lines = []
    for name, of in validation["classes"].items():
        lines.append(f"{name}: {of['nuclei']} nuclei in {_annotations(of)}, {of['rest_nuclei']} in the rest")
        for what, figure in _aurocs(of).items():
            lines.append(f"  {what}: AUROC {figure_text(figure)}")
    if validation["labels"]:
        lines.append(f"labels of nuclei and predicted types: kappa {number(validation['labels']['kappa'])}")
    second = validation["second"]
    if second and second["human_human"]:
        lines.append(f"the two annotators: kappa {number(second['human_human']['kappa'])}")
    return [*lines, validation["note"], validation["research_use"]]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number, or a dash where there is none."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def figure_text(figure: Mapping[str, Any]) -> str:
    """Return a figure as ``0.123 [0.100, 0.146]``, or without its interval where it has none."""
    if figure["ci"] is None:
        return number(figure["value"])
    low, high = figure["ci"]
    return f"{number(figure['value'])} [{number(low)}, {number(high)}]"


def _annotations(of: Mapping[str, Any]) -> str:
    count = of["annotations"]
    return f"{count} annotation{'' if count == 1 else 's'}" if count else "labels of their own"


def _aurocs(of: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return genes, the best first, and then the baselines."""
    genes = {gene: found["auroc"] for gene, found in of["genes"].items() if "auroc" in found}
    ranked = sorted(genes, key=lambda gene: -genes[gene]["value"])
    return {gene: genes[gene] for gene in ranked} | dict(of["baselines"])


def _facts(validation: Mapping[str, Any]) -> dict[str, str]:
    about, blocks = validation["annotations"], validation["blocks"]
    rest = "nuclei in annotations of other classes" if validation["rest"] == "annotated" else "all other nuclei"
    return {
        "Run": f"{validation['run']['name']}, {validation['run']['nuclei']} nuclei of {validation['run']['image']}",
        "Annotations": f"{about['file']} ({about['kind']}, by {about['by']}), {about['nuclei']} nuclei in them",
        "Compared with": rest,
        "High": validation["high_rule"],
        "Spatial blocks": f"{blocks['side_um']:g} µm, {blocks['occupied']} hold nuclei",
        "Intervals": f"95 %, {validation['settings']['replicates']} resamples; none under five units a side",
    }


def _tables(validation: Mapping[str, Any]) -> list[Table]:
    tables = []
    for name, of in validation["classes"].items():
        tables += [_separation(name, of), _uncertainty(name, of)]
    if validation["labels"]:
        tables.append(_confusion("Labels of nuclei (rows) and predicted types (columns)", validation["labels"]))
    return tables + enrichment_tables(validation.get("attribution")) + _second(validation["second"])


def _separation(name: str, of: Mapping[str, Any]) -> Table:
    baselines = list(of["baselines"])
    columns = ["", "mean", "median [quartiles]", "AUROC", *(f"lead over {b}" for b in baselines), "U", "p", "q (FDR)"]
    columns += ["IoU of high", "Dice of high", "Dice by nuclear area", "kappa of high"]
    rows = [[gene, *_gene_cells(found, baselines)] for gene, found in of["genes"].items()]
    blank = [DASH] * (len(columns) - 4)
    rows += [[f"{baseline} (no model)", DASH, DASH, figure_text(f), *blank] for baseline, f in of["baselines"].items()]
    units = of["units"]
    caption = (
        f"{name}: {of['nuclei']} nuclei in {_annotations(of)}; drawn: {units['number']} {units['kind']}, "
        f"{units['rest']} units of the rest"
    )
    return Table(caption, columns, rows, leads=False)


def _gene_cells(found: Mapping[str, Any], baselines: Sequence[str]) -> list[str]:
    values = found["predicted_mean"]
    spread = f"{number(values['median'])} [{number(values['q1'])}, {number(values['q3'])}]"
    cells = [number(values["mean"]), spread]
    if "auroc" not in found:
        return [*cells, *[DASH] * (len(baselines) + 8)]
    test, high = found["mann_whitney"], found["high"]
    leads = [figure_text(found["auroc_less_baseline"][b]) for b in baselines]
    p = [number(test["p"]), number(test["q"])] if test["reason"] is None else [test["reason"], DASH]
    overlap = [high["iou"], high["dice"], high["by_nuclear_area"]["dice"], high["kappa"]]
    return [*cells, figure_text(found["auroc"]), *leads, f"{test['u']:.1f}", *p, *map(number, overlap)]


def _uncertainty(name: str, of: Mapping[str, Any]) -> Table:
    inside, outside = of["uncertainty"]["inside"], of["uncertainty"]["outside"]
    if not inside["nuclei"]:
        return Table("", [], [])
    sides = [side if side["nuclei"] else None for side in (inside, outside)]

    def row(what: str, *keys: str) -> list[str]:
        cells = []
        for side in sides:
            value: Any = side
            for key in keys:
                value = None if value is None else value[key]
            cells.append(number(value))
        return [what, *cells]

    rows = [row("OOD score, median", "ood_score_median"), row("share outside training", "outside_training")]
    for gene in inside["genes"]:
        rows.append(row(f"{gene}, aleatoric SD, median", "genes", gene, "aleatoric_sd_median"))
        rows.append(row(f"{gene}, epistemic SD, median", "genes", gene, "epistemic_sd_median"))
    return Table(f"{name}: uncertainty inside, and in the rest", ["", "inside", "rest"], rows, leads=False)


def _confusion(caption: str, found: Mapping[str, Any]) -> Table:
    said = f"{caption}: {found['nuclei']} nuclei, kappa {number(found['kappa'])}, equal {number(found['agreement'])}"
    rows = [
        [name, *(str(count) for count in counts)]
        for name, counts in zip(found["classes"], found["confusion"], strict=True)
    ]
    return Table(said, ["", *found["classes"]], rows, leads=False)


def _second(second: Mapping[str, Any] | None) -> list[Table]:
    if second is None:
        return []
    tables = []
    pairs = {
        "First annotator (rows) and second (columns), annotations": second["human_human"],
        "First annotator (rows) and second (columns), labels of nuclei": second["labels"]["human_human"],
        "Second annotator's labels of nuclei (rows) and predicted types (columns)": second["labels"]["model_second"],
    }
    tables += [_confusion(caption, found) for caption, found in pairs.items() if found]
    for name, of in second["classes"].items():
        human = of["human_human"]
        rows = [["first and second annotator", *(number(human[k]) for k in ("iou", "dice", "kappa"))]]
        if human["by_area"]:
            rows.append(["the same, by area", number(human["by_area"]["iou"]), number(human["by_area"]["dice"]), DASH])
        for gene, found in of["genes"].items():
            for who, said in (("model_first", "first"), ("model_second", "second")):
                rows.append([f"{gene} high and {said}", *(number(found[who][k]) for k in ("iou", "dice", "kappa"))])
        caption = f"{name}: both annotators and the model, on the same {second['nuclei']} nuclei"
        tables.append(Table(caption, ["", "IoU", "Dice", "kappa"], rows))
    return tables


def validation_pictures(validation: Mapping[str, Any]) -> list[Picture]:
    """Return the AUROC of each gene and baseline, one picture a class, and where nuclei of high attribution lie."""
    found = []
    for name, of in validation["classes"].items():
        figures = _aurocs(of)
        if not figures:
            continue
        rows = {what: (f["value"], None if f["ci"] is None else tuple(f["ci"])) for what, f in figures.items()}
        said = "; ".join(f"{what} {figure_text(figure)}" for what, figure in figures.items())
        found.append(
            Picture(
                plots.forest(rows, emphasised=list(of["baselines"])),
                f"{name} against the rest: AUROC of each gene, the best first, and in orange what needs no model; "
                "0.5 is no separation.",
                f"AUROC of {name}: {said}.",
            )
        )
    return found + enrichment_pictures(validation.get("attribution"))
