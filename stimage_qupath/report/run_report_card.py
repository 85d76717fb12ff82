"""What everyone should read of a model's card: its facts, its limits, and what to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stimage_qupath import __version__
from stimage_qupath.report.run_report import CITATIONS, LIMITS


def card_facts(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts, named."""
    training, encoder = card["training"], card["encoder"]
    facts = {
        "Model": f"{card['name']}, {len(card['panel']):,} genes",
        "Trained on": f"{training['patients']} patients, {len(training['sections'])} sections "
        f"({', '.join(str(section['name']) for section in training['sections'])})",
        "Licence of the training data": str(training.get("licence", "not stated")),
        "Looks at": f"{encoder.get('tile_um', 0):g} µm around each nucleus at {encoder.get('mpp', 0):g} µm per pixel "
        f"({encoder['name']}: {encoder.get('source', 'not stated')})",
        "Counts": str(card.get("likelihood", "not stated")),
        "Reference depth": f"{card['reference_total']:,.0f} counts in all",
    }
    if "ensemble" in card:
        ensemble = card["ensemble"]
        facts["Ensemble"] = f"{ensemble['members']} members, resampled by {ensemble['bootstrap_level']}"
    if "recalibration" in card:
        facts["Intervals"] = str(card["recalibration"].get("sentence", "not recalibrated"))
    for kind in card.get("held_out", {}).values():
        for name, of in kind["sections"].items():
            low, high = of["pcc_residual_mean"]["ci"]
            known = ", the same patient in training" if of.get("same_patient_in_training") else ""
            facts[f"Held-out {name}"] = (
                f"mean r {of['pcc_residual_mean']['value']:.3f} [{low:.3f}, {high:.3f}] ({kind['split']}{known})"
            )
    return facts


def limits_of(card: Mapping[str, Any], genes: Sequence[str]) -> list[str]:
    """Return what the predictions of ``genes`` can and cannot say, in plain words; an empty card is no model."""
    if not card:
        return [LIMITS[-1]]
    patients = int(card["training"]["patients"])
    found = [f"This model was trained on {patients} {'patient' if patients == 1 else 'patients'}."]
    unknown = {"ci": [0, 0]}
    weak = [gene for gene in genes if not card.get("genes", {}).get(gene, unknown)["ci"][0] > 0]
    if weak:
        found.append(f"There is no held-out evidence that this model can predict {', '.join(weak)}.")
    return [*found, *LIMITS]


def citations_of(card: Mapping[str, Any]) -> list[str]:
    """Return what to cite."""
    licence = str(card["training"].get("licence", "not stated")) if card else "none"
    return [CITATIONS[0], CITATIONS[1].format(version=__version__, model=card.get("name", "none"), licence=licence)]
