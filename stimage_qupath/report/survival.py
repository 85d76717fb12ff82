"""A survival analysis as one page, and in a few lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stimage_qupath.report.html import Picture, Table, render
from stimage_qupath.report.survival_plots import Drawn

LIMITS = (
    "Every figure is of patients that the model which judged them had not seen: features, penalty and cut-point were "
    "chosen on the other folds alone. Another cohort, scanner or hospital can still give other figures.",
    "C compares patients of one fold (and one stratum) with each other: one half is chance, one is perfect. Intervals "
    "are over resampled patients with the models as they are; they do not hold what other training patients would "
    "change.",
    "p comes from permuting time and event together through the whole pipeline. The p of a gain comes from giving each "
    "patient another's expression, while covariates and outcome stay together.",
    "Many models in one table are many chances: the first of them that was planned is the one to look at.",
    "Dotted lines of a curve are the band over patients drawn from their predictive distribution, each feature by "
    "itself. Predicted expression of a patient shares one model's errors with every other patient's.",
    "A baseline of the site alone that is far from one half says that follow-up or care differ between sites; then "
    "only folds by site are of any worth.",
)
DASH = "–"


def survival_page(survival: Mapping[str, Any], drawn: Sequence[Drawn]) -> str:
    """Return the page.

    Parameters
    ----------
    survival
        What ``survival.json`` holds.
    drawn
        Its pictures.
    """
    return render(
        title="Expression and survival",
        evaluation=survival,
        facts=_facts(survival),
        tables=[table for table in _tables(survival) if table.rows],
        pictures=[Picture(one.uri, one.caption, one.caption) for one in drawn],
        maps={},
        limits=LIMITS,
    )


def survival_lines(survival: Mapping[str, Any]) -> list[str]:
    """Return the lines that ``survival`` prints."""
    about = survival["cohort"]
    lines = [f"{about['patients']} patients, {about['events']} events, {about['features']} features"]
    lines += [f"  {name}: C {interval(model['c'])}{_p(model)}" for name, model in survival["models"].items()]
    lines += [f"  {name}: C {interval(model['c'])}" for name, model in survival["baselines"].items()]
    if survival["external"] is not None:
        of = survival["external"]
        lines.append(f"{of['file']}: {of['patients']} patients, {of['events']} events")
        lines += [f"  {name}: C {interval(model['c'])}" for name, model in of["models"].items()]
    return [*lines, *survival["verdict"], survival["research_use"]]


def interval(figure: Mapping[str, Any] | None) -> str:
    """Return a figure as ``0.123 [0.100, 0.146]``, without its interval or as a dash where there is none."""
    if figure is None or figure["value"] is None:
        return DASH
    if figure["ci"] is None:
        return f"{figure['value']:.3f}"
    low, high = figure["ci"]
    return f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]"


def _p(model: Mapping[str, Any]) -> str:
    return "" if model["p"] is None else f", p {model['p']['c']:.3g}"


def _facts(survival: Mapping[str, Any]) -> dict[str, str]:
    about, protocol = survival["cohort"], survival["protocol"]
    found = {
        "Result": " ".join(survival["verdict"]),
        "Cohort": f"{about['file']}: {about['patients']} patients, {about['events']} events, "
        f"median follow-up {about['median_time']:.4g}",
        "Features": f"{about['features']}, {about['features_with_sd']} of them with an uncertainty",
        "Covariates": ", ".join(about["covariates"]) or "none",
        "Cross-validation": f"{protocol['folds']} outer and {protocol['inner_folds']} inner folds by "
        f"{protocol['folds_by']}",
        "Permutations": f"{protocol['permutations']} of the whole pipeline",
        "Intervals": f"95 %, {protocol['replicates']} resamples of patients within folds",
    }
    if about["sites"] is not None:
        found["Sites"] = str(about["sites"])
    if about["strata"]:
        found["Strata"] = f"{', '.join(about['strata'])}; patients are compared within one alone"
    return found


def _tables(survival: Mapping[str, Any]) -> list[Table]:
    models = survival["models"]
    found = [
        _order(survival),
        _gains(survival),
        _groups("Low and high risk, out of fold", models),
        _calibration(models),
    ]
    found += [_baselines(survival), _measured(survival), *_external(survival)]
    for name, model in models.items():
        if model["choices"]:
            found += [_chosen(name, model["choices"]), _features(name, model["choices"])]
    return found


def _order(survival: Mapping[str, Any]) -> Table:
    horizons = survival["horizons"]
    columns = ["", "C", "p (permuted)", "null C, mean ± SE", "Uno's C", *(f"AUC at {h:.4g}" for h in horizons)]
    columns += ["C, band of uncertain input", "p, hazards not proportional"]
    rows = []
    for name, model in survival["models"].items():
        null = model["null"]
        chance = DASH if null is None else f"{null['c']['mean']:.3f} ± {null['c']['se']:.3f}"
        p = DASH if model["p"] is None else f"{model['p']['c']:.3g}"
        band = DASH if model["band"] is None else "[{0:.3f}, {2:.3f}]".format(*model["band"]["c"])
        hazards = ", ".join(f"{value:.3g}" for value in model["proportional_hazards_p"].values()) or DASH
        cells = [interval(model["c"]), p, chance, interval(model["uno_c"]), *(interval(auc) for auc in model["auc"])]
        rows.append([name, *cells, band, hazards])
    return Table("Does the risk order patients? C within folds, averaged", columns, rows, leads=False)


def _gains(survival: Mapping[str, Any]) -> Table:
    rows = []
    for name, gain in survival["gains"].items():
        p = gain["p"]
        rows.append(
            [
                f"{name}, over {gain['over']}",
                interval(gain["delta_c"]),
                DASH if p is None else f"{p['delta_c']:.3g}",
                f"{gain['lr_chi2']:.2f}",
                DASH if p is None else f"{p['lr_chi2']:.3g}",
            ]
        )
    columns = [
        "",
        "difference of C, paired",
        "p (permuted genes)",
        "likelihood ratio, out of fold",
        "p (permuted genes)",
    ]
    return Table("What expression adds to the covariates", columns, rows, leads=False)


def _groups(caption: str, models: Mapping[str, Any]) -> Table:
    rows = []
    for name, model in models.items():
        of = model["groups"]
        sizes = [f"{of[g]['patients']} ({of[g]['events']})" for g in ("low", "high")]
        p = model.get("log_rank_p") if "p" not in model else (model["p"] or {}).get("log_rank")
        said = DASH if p is None else f"{p:.3g}"
        rows.append([name, *sizes, interval(of["hazard_ratio"]), f"{of['log_rank_chi2']:.2f}", said])
    columns = ["", "low: patients (events)", "high: patients (events)", "hazard ratio", "log-rank chi²", "p"]
    return Table(caption, columns, rows, leads=False)


def _calibration(models: Mapping[str, Any]) -> Table:
    rows = []
    for name, model in models.items():
        of = model["calibration"]
        if of is not None:
            whole = of["overall"]
            cells = [f"{whole['predicted']:.3f}", f"{whole['observed']:.3f}", f"{of['mean_error']:.3f}"]
            rows.append([name, f"{of['horizon']:.4g}", *cells, interval(model["calibration_slope"])])
    columns = ["", "horizon", "predicted survival", "observed", "mean error over quarters", "slope (1 is right)"]
    return Table("Calibration", columns, rows, leads=False)


def _baselines(survival: Mapping[str, Any]) -> Table:
    rows = [[name, interval(of["c"])] for name, of in survival["baselines"].items()]
    return Table("Without expression: folds by patient, patients of all strata compared", ["", "C"], rows, leads=False)


def _measured(survival: Mapping[str, Any]) -> Table:
    found = survival["measured_less_predicted"] or {}
    rows = [[name, interval(of)] for name, of in found.items()]
    return Table("Measured less predicted expression, paired", ["", "difference of C"], rows, leads=False)


def _external(survival: Mapping[str, Any]) -> list[Table]:
    external = survival["external"]
    if external is None:
        return []
    models = external["models"]
    columns = ["", "C", "Uno's C", *(f"AUC at {h:.4g}" for h in survival["horizons"])]
    rows = [
        [name, interval(model["c"]), interval(model["uno_c"]), *(interval(auc) for auc in model["auc"])]
        for name, model in models.items()
    ]
    caption = f"{external['file']}: {external['patients']} patients, {external['events']} events, models fixed before"
    groups = _groups("The same: low and high risk by the cut-point fixed before; p by chi-squared", models)
    return [Table(caption, columns, rows, leads=False), groups, _calibration(models)]


def _chosen(name: str, choices: Mapping[str, Any]) -> Table:
    rows = [
        [
            str(number),
            str(of["kept"]),
            DASH if of["tuning"] is None else f"{of['tuning']:g}",
            f"{of['cut_quantile']:.2f}",
        ]
        for number, of in enumerate(choices["folds"], start=1)
    ]
    columns = ["fold", "features kept", "spread or fraction", "quantile of the cut-point"]
    return Table(f"{name}: chosen inside each fold", columns, rows, leads=False)


def _features(name: str, choices: Mapping[str, Any]) -> Table:
    rows = [
        [of["name"], str(of["folds"]), f"{of['mean_coef']:+.4f}", "yes" if of["same_sign"] else "no"]
        for of in choices["features"]
    ]
    columns = ["feature", "folds that kept it", "mean log hazard ratio of one SD", "same sign in all"]
    return Table(f"{name}: features that most folds kept", columns, rows, leads=False)
