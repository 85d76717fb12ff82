"""The evaluation as one page: no network, no script, light and dark, readable by keyboard and screen reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from stimage_qupath.report.text import interval

LIMITS = (
    "Correlations are over the spots of a section, mean over genes. Only the first two columns speak of gene signal: "
    "the others can be had from sequencing depth alone, as the row observed_depth shows.",
    "Intervals are over spatial blocks within the sections that were measured. They say nothing of how other patients, "
    "scanners or laboratories differ.",
    "Sections of a patient who is also in training are easier than those of a new patient; each is marked.",
    "Epistemic uncertainty is disagreement between models trained on the same few patients. An image that is unlike "
    "training can be wrong and certain: look at the share outside training.",
    "A prediction is of a spot's neighbourhood at reference depth. It is not a measurement of single cells.",
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the page.

    Attributes
    ----------
    uri
        ``data:`` address.
    caption
        Sentence under it.
    description
        What it shows, for who cannot see it.
    """

    uri: str
    caption: str
    description: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page.

    Attributes
    ----------
    caption
        Sentence above it.
    columns
        Heads; the first is that of the rows.
    rows
        Cells as text.
    leads
        Whether the first row is what the table is about.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    leads: bool = True


def evaluation_page(
    evaluation: Mapping[str, Any], *, pictures: Sequence[Picture], maps: Mapping[str, Sequence[Picture]]
) -> str:
    """Return the page.

    Parameters
    ----------
    evaluation
        What ``evaluation.json`` holds.
    pictures
        Of all sections together.
    maps
        Section to the pictures of its genes.
    """
    return render(
        title="Evaluation of predicted expression",
        evaluation=evaluation,
        facts=_facts(evaluation),
        tables=[table for table in _tables(evaluation) if table.rows],
        pictures=pictures,
        maps=maps,
        limits=LIMITS,
    )


def render(**content: Any) -> str:
    """Return the page of figures with its ``content`` filled in; whatever comes from files is escaped."""
    environment = Environment(
        loader=PackageLoader("stimage_qupath.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("evaluation.html.j2").render(content)


def _facts(evaluation: Mapping[str, Any]) -> dict[str, str]:
    genes = evaluation["gene_set"]
    chosen = (
        "" if genes["chosen_without_test_sections"] else " (a given list: it may have been chosen with these sections)"
    )
    return {
        "Split": str(evaluation["split"]),
        "Patients": str(evaluation["patients"]),
        "Genes": f"{genes['size']}, {genes['name']}{chosen}",
        "Spots left out": f"under {evaluation['protocol']['min_total']} counts",
        "Intervals": f"95 %, {evaluation['protocol']['replicates']} resamples of blocks of "
        f"{evaluation['protocol']['block_um']:g} µm",
    }


POINT = {
    "pcc_residual_mean": "residual",
    "pcc_partial_depth_mean": "partial, given depth",
    "pcc_normalised_mean": "normalised",
    "pcc_log1p_raw_mean": "raw",
    "pcc_log1p_raw_median_above_0.1": "raw, median above 0.1",
    "spearman_mean": "Spearman",
    "rmse_normalised_mean": "RMSE",
    "nb_deviance_mean": "NB deviance",
    "crps_mean": "CRPS",
}


def _tables(evaluation: Mapping[str, Any]) -> list[Table]:
    sections = evaluation["sections"]
    found = []
    for name, figures in sections.items():
        rows = [["model", *(interval(figures[metric]) for metric in POINT)]]
        for baseline, of in evaluation["baselines"].items():
            if name in of["sections"]:
                said = f"{baseline} (knows the measured depth)" if of["oracle"] else baseline
                rows.append([said, *(interval(of["sections"][name][metric]) for metric in POINT)])
        caption = f"{name}, patient {figures['patient']}: {figures['note']}, {figures['spots']} spots"
        found.append(Table(caption, ["", *POINT.values()], rows))
    return [
        *found,
        *_leads(evaluation),
        _high(sections),
        _coverage(sections),
        _uncertainty(sections),
        _spatial(sections),
        *_perturbed(evaluation),
    ]


def _leads(evaluation: Mapping[str, Any]) -> list[Table]:
    summary = evaluation["summary"]
    if "model_lead" not in summary:
        return []
    shown = list(POINT)[:4]
    rows = [["mean of the model", *(interval(summary["model"][m]) for m in shown)]]
    rows += [[f"ahead of {name}", *(interval(of[m]) for m in shown)] for name, of in summary["model_lead"].items()]
    over = summary["over"]
    caption = (
        f"Mean over {over['sections']} sections of {over['patients']} "
        f"{'patient' if over['patients'] == 1 else 'patients'}, and the model's lead, paired"
    )
    return [Table(caption, ["", *(POINT[m] for m in shown)], rows)]


HIGH = {
    "elastic_net": "elastic-net logistic regression, same features",
    "observed_depth": "measured depth, no image",
}


HIGH_FIGURES = {
    "auroc_given_depth": "AUROC within tenths of depth",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "ece": "ECE",
}


def _high(sections: Mapping[str, Any]) -> Table:
    rows = []
    for name, of in sections.items():
        high = of["high"]
        methods = {"model": high} if high else {}
        methods |= {said: high[word] for word, said in HIGH.items() if word in high}
        for said, figures in methods.items():
            rows.append([f"{name}, {said}", *(interval(figures[m]) for m in HIGH_FIGURES)])
        if "at_depth" in high:
            told = high["at_depth"]
            rows.append(
                [f"{name}, model told the depth", "–", "–", "–", interval(told["brier"]), interval(told["ece"])]
            )
    return Table(
        "High or low: spots above the training median of a gene at reference depth, mean over genes. "
        "Only the first column speaks of gene signal: the others can be had from depth",
        ["", *HIGH_FIGURES.values()],
        rows,
    )


def _coverage(sections: Mapping[str, Any]) -> Table:
    rows = []
    for name, of in sections.items():
        for stratum, figures in {"all genes": of["coverage"], **of["coverage_by_training_mean"]}.items():
            genes = figures.get("genes", of["genes"])
            rows.append([f"{name}, {stratum}", str(genes), *(f"{figures[level]:.3f}" for level in of["coverage"])])
        plain = of["plain_coverage"].values()
        rows.append([f"{name}, plain (expected by the model)", str(of["genes"]), *map(_found_expected, plain)])
        if "marginal_over_depth" in of:
            figures = of["marginal_over_depth"]["coverage"]
            rows.append([f"{name}, depth not known", str(of["genes"]), *(f"{v:.3f}" for v in figures.values())])
        if "nb_on_log1p_coverage" in of:
            logs = of["nb_on_log1p_coverage"].values()
            rows.append([f"{name}, NB fitted to log values (expected)", str(of["genes"]), *map(_found_expected, logs)])
    levels = [f"{float(level):.0%}" for level in next(iter(sections.values()))["coverage"]]
    return Table(
        "Counts inside central intervals; rows by mean training count of the gene. Randomised unless said otherwise",
        ["", "genes", *levels],
        rows,
    )


def _found_expected(figure: Mapping[str, float]) -> str:
    return f"{figure['found']:.3f} ({figure['expected']:.3f})"


def _uncertainty(sections: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            interval(of["ause"]),
            interval(of["ause"]["predicted_mean"]),
            interval(of["ause"]["lead_over_predicted_mean"]),
            interval(of["spearman_with_error"]["ood_score"]),
            interval(of["spearman_with_error"]["epistemic_log_sd"]),
            f"{of['outside_training']:.1%}",
        ]
        for name, of in sections.items()
    ]
    columns = ["", "AUSE, total SD", "AUSE, predicted mean", "lead of total SD", "error and OOD score",
               "error and epistemic", "outside training"]  # fmt: skip
    return Table(
        "Does the uncertainty know where the error is? AUSE: 0 perfect, 1 random. Rank correlations", columns, rows
    )


def _spatial(sections: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            f"{of['moran_measured_mean']:.3f}",
            f"{of['moran_predicted_mean']:.3f}",
            f"{of['bivariate_moran_mean']:.3f}",
            f"{of['measured_patterned']:.0%}",
            "–" if of["agreement"] is None else f"{of['agreement']:.3f}",
        ]
        for name, of in ((name, figures["spatial"]) for name, figures in sections.items() if "spatial" in figures)
    ]
    columns = ["", "measured", "predicted", "predicted and measured", "genes patterned", "rank correlation over genes"]
    caption = (
        "Patterns in space: Moran's I over neighbouring spots, mean over genes. Predictions are smooth by "
        "construction; that genes patterned in the measurement are so in the prediction is in the last column"
    )
    return Table(caption, columns, rows, leads=False)


def _perturbed(evaluation: Mapping[str, Any]) -> list[Table]:
    tables = []
    for name, changes in evaluation.get("perturbation", {}).items():
        rows = []
        for change, of in changes.items():
            point = interval(of["pcc_residual_mean"]) if "pcc_residual_mean" in of else "–"
            cover = f"{of['coverage']['0.9']:.3f}" if "coverage" in of else "–"
            share = of.get("flagged", of.get("outside_training"))
            auroc = [f"{of[k]:.3f}" if k in of else "–" for k in ("auroc_ood_score", "auroc_epistemic_log_sd")]
            rows.append([change, point, cover, f"{share:.1%}", *auroc])
        columns = ["", "residual", "coverage of 90 %", "outside training", "AUROC, OOD score", "AUROC, epistemic"]
        tables.append(Table(f"{name} under changed images", columns, rows))
    return tables
