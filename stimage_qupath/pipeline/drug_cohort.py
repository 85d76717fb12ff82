"""Reads what a drug-response analysis needs: the cohort, measured expression of the same patients, genes in common."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.clinical.expression import Expression, Transform
from stimage_qupath.clinical.response import Response, binary_response, continuous_response
from stimage_qupath.clinical.table import (
    MEAN_SUFFIX,
    PatientTable,
    choose_features,
    feature_matrix,
    listed,
    numbers,
    one_row_a_patient,
    read_table,
)
from stimage_qupath.config.drug_response import DrugResponseSettings
from stimage_qupath.errors import UsageError

Index = NDArray[np.intp]

MARK = 16
"""Hexadecimal digits of a patient's mark."""
EXPRESSION, PREDICTED, MEASURED = "expression", "predicted", "measured"


@dataclass(frozen=True, slots=True)
class DrugCohort:
    """Patients, ready for models.

    Attributes
    ----------
    patients
        (patient,) identifiers.
    groups
        (patient,) what stays on one side of a fold.
    response
        Known for every patient, or None where there is none to look at.
    covariates
        One row a patient, perhaps without columns.
    sources
        Name to expression of these patients.
    notes
        What was left out or combined, as sentences.
    """

    patients: NDArray[np.object_]
    groups: NDArray[Any]
    response: Response | None
    covariates: pd.DataFrame
    sources: dict[str, Expression]
    notes: tuple[str, ...]


def read_cohort(settings: DrugResponseSettings, *, transform: Transform | None = None) -> DrugCohort:
    """Read the cohort.

    Parameters
    ----------
    settings
        Of the command.
    transform
        Of the expression; None: that of the settings.

    Raises
    ------
    UsageError
        A table or a column cannot be used.
    """
    table = _patients(settings)
    names = choose_features(table.frame, settings.features, exclude=_named(settings))
    expression = Expression.of(feature_matrix(table.frame, names), transform or settings.transform)
    notes = table.notes()
    if settings.genes_of is not None:
        expression = expression.only(_genes_of(settings, settings.genes_of))
        notes.append(f"{len(expression.genes)} of {len(names)} genes are those of {settings.genes_of.name}.")
    rows = np.arange(len(table))
    sources = {EXPRESSION: expression}
    if settings.compare is not None:
        rows, sources = _compared(settings, settings.compare, table, expression)
        notes.append(
            f"Measured and predicted expression are compared on {len(rows)} of {len(table)} patients and "
            f"{len(sources[MEASURED].genes)} of {len(expression.genes)} genes that both tables have."
        )
    response = _response(settings, table.frame)
    if response is not None and settings.transfer is None:
        known = response.known[rows]
        if not known.all():
            notes.append(f"{int((~known).sum())} patients without a known response are left out.")
        sources = {name: source.take(np.flatnonzero(known)) for name, source in sources.items()}
        rows = rows[known]
    if response is not None:
        response = Response(response.kind, response.values[rows], response.rule)
    frame = table.frame.iloc[rows].reset_index(drop=True)
    patients = table.patients[rows]
    notes += _constant_notes(sources)
    covariates = frame[list(settings.covariates)]
    return DrugCohort(patients, _groups(settings, frame, patients), response, covariates, sources, tuple(notes))


def patient_marks(patients: NDArray[np.object_]) -> list[str]:
    """Return a mark of each identifier, by which a model knows its training patients without naming them."""
    return [hashlib.sha256(str(patient).encode("utf-8")).hexdigest()[:MARK] for patient in patients]


def _patients(settings: DrugResponseSettings) -> PatientTable:
    frame = read_table(settings.cohort, text=(settings.patient,))
    outcome = () if settings.response is None else (settings.response,)
    group = () if settings.group in (None, settings.patient) else (str(settings.group),)
    return one_row_a_patient(frame, patient=settings.patient, outcome=outcome, same=(*settings.covariates, *group))


def _named(settings: DrugResponseSettings) -> set[str]:
    named = {settings.patient, settings.response, settings.group, *settings.covariates}
    return {name for name in named if name is not None}


def _response(settings: DrugResponseSettings, frame: pd.DataFrame) -> Response | None:
    if settings.response is None:
        return None
    if settings.type == "binary":
        return binary_response(frame[settings.response], settings.responders)
    values = numbers(frame, settings.response)
    return continuous_response(values, name=settings.response, log=settings.log_response)


def _groups(settings: DrugResponseSettings, frame: pd.DataFrame, patients: NDArray[np.object_]) -> NDArray[Any]:
    if settings.group in (None, settings.patient):
        return patients
    groups = frame[settings.group]
    missing = [str(p) for p, gone in zip(patients, groups.isna(), strict=True) if gone]
    if missing:
        msg = f"expected a {settings.group} for every patient, found none for {listed(missing)}; fill it in"
        raise UsageError(msg)
    return np.asarray(groups.astype(str))


def _genes_of(settings: DrugResponseSettings, path: Path) -> set[str]:
    frame = read_table(path, text=(settings.patient,))
    columns = choose_features(frame, (), exclude=_named(settings))
    return {column.removesuffix(MEAN_SUFFIX) for column in columns}


def _compared(
    settings: DrugResponseSettings, path: Path, table: PatientTable, expression: Expression
) -> tuple[Index, dict[str, Expression]]:
    """Return the rows of patients in both tables, and both expressions of these, of the genes in common."""
    frame = read_table(path, text=(settings.patient,))
    other = one_row_a_patient(frame, patient=settings.patient, outcome=())
    place = {patient: row for row, patient in enumerate(other.patients.tolist())}
    rows = np.flatnonzero([patient in place for patient in table.patients.tolist()])
    wanted = set(expression.genes)
    columns = choose_features(other.frame, (), exclude=_named(settings))
    common = [c for c in columns if c.removesuffix(MEAN_SUFFIX) in wanted]
    if not common or not len(rows):
        msg = (
            f"expected genes and patients of the cohort in {path}, found {len(common)} genes and {len(rows)} patients "
            "in common; name columns and patients alike"
        )
        raise UsageError(msg)
    matched = other.frame.iloc[[place[patient] for patient in table.patients[rows].tolist()]].reset_index(drop=True)
    measured = Expression.of(feature_matrix(matched, common), settings.transform)
    measured = Expression(measured.genes, measured.mean, None, measured.transform)
    return rows, {PREDICTED: expression.take(rows).only(measured.genes), MEASURED: measured}


def _constant_notes(sources: dict[str, Expression]) -> list[str]:
    notes = []
    for name, source in sources.items():
        constant = source.constant
        if len(constant) == len(source.genes):
            msg = f"expected genes that differ between patients, found {len(constant)} constant ones; choose others"
            raise UsageError(msg)
        if constant:
            notes.append(f"{len(constant)} genes of the {name} table are equal in all patients and so never count.")
    return notes
