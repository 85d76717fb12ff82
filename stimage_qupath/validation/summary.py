"""Figures of several sections in one number: mean over sections, then over patients, never over fewer than three."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stimage_qupath.validation.bootstrap import Interval

MODEL = "model"
LEAST_FOR_SUMMARY = 3
"""Sections under which no mean is printed."""

Points = Mapping[str, Mapping[str, Interval]]
"""Section to metric to figure."""


def summarise(points: Mapping[str, Points], patient_of: Mapping[str, str]) -> dict[str, Any]:
    """Return means and the model's paired leads.

    The interval is over spatial blocks within the sections; how other patients differ is not in it.

    Parameters
    ----------
    points
        ``model`` and each baseline: section to metric to figure.
    patient_of
        Section to patient.

    Returns
    -------
    dict
        Method to metric to ``{value, ci}``, and under ``model_lead`` baseline to metric to the same; or a ``note``
        where there are too few sections.
    """
    sections = list(points[MODEL])
    if len(sections) < LEAST_FOR_SUMMARY:
        return {"note": f"no mean over {len(sections)} sections"}
    # A baseline that some section lacks (position, without serial sections) has no mean to compare.
    whole = {name: of for name, of in points.items() if len(of) == len(sections)}
    means = {name: _means(of, patient_of) for name, of in whole.items()}
    model = means[MODEL]
    found: dict[str, Any] = {name: _plain(of) for name, of in means.items()}
    found["model_lead"] = {
        name: _plain({metric: model[metric].minus(of[metric]) for metric in model})
        for name, of in means.items()
        if name != MODEL
    }
    patients = {patient_of[section] for section in sections}
    found["over"] = {"sections": len(sections), "patients": len(patients)}
    return found


def _means(of: Points, patient_of: Mapping[str, str]) -> dict[str, Interval]:
    """Return the mean of each metric over the sections of each patient, then over patients."""
    metrics = next(iter(of.values()))
    groups: dict[str, list[str]] = {}
    for section in of:
        groups.setdefault(patient_of[section], []).append(section)
    return {
        metric: Interval.mean_of([Interval.mean_of([of[s][metric] for s in group]) for group in groups.values()])
        for metric in metrics
    }


def _plain(figures: Mapping[str, Interval]) -> dict[str, Any]:
    return {metric: figure.to_dict() for metric, figure in figures.items()}
