"""Reads what a survival analysis needs: the cohort, measured expression of the same patients, another cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.clinical.design_matrix import encode_covariates
from stimage_qupath.clinical.gene_filter import FeatureTable
from stimage_qupath.clinical.outcome import Outcome, read_outcome
from stimage_qupath.clinical.table import (
    MEAN_SUFFIX,
    Features,
    PatientTable,
    choose_features,
    feature_matrix,
    listed,
    one_row_a_patient,
    read_table,
    require_columns,
)
from stimage_qupath.config.survival import SurvivalSettings
from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class SurvivalCohort:
    """Patients with an outcome, ready for models.

    Attributes
    ----------
    patients
        (patient,) identifiers.
    outcome
        Their follow-up.
    strata_names
        Name of each stratum; empty without strata.
    features
        Expression, transformed.
    measured
        The same genes as measured, or None.
    covariates
        (patient, column) numbers, NaN where missing; no columns without covariates.
    site
        (patient,) tissue source site, or None.
    notes
        What was left out, combined or constant, as sentences.
    """

    patients: NDArray[np.object_]
    outcome: Outcome
    strata_names: tuple[str, ...]
    features: Features
    measured: Features | None
    covariates: Float
    site: NDArray[np.object_] | None
    notes: tuple[str, ...]

    @property
    def groups(self) -> NDArray[Any]:
        """What stays on one side of a fold: the site, else the patient."""
        return self.patients if self.site is None else self.site


def read_cohorts(settings: SurvivalSettings) -> tuple[SurvivalCohort, SurvivalCohort | None]:
    """Read the cohort and, if there is one, the external cohort, with covariates and strata coded alike.

    Raises
    ------
    UsageError
        A table or a column cannot be used, or the two cohorts share patients.
    """
    table = _patients(settings, settings.cohort)
    outside = None if settings.external is None else _patients(settings, settings.external)
    covariates, strata = _coded_together(settings, [table] if outside is None else [table, outside])
    names = choose_features(table.frame, settings.features, exclude=_named(settings))
    measured = None if settings.compare is None else _measured(settings, table, names)
    cohort = _cohort(settings, table, covariates[0], strata[0], names, measured)
    if outside is None:
        return cohort, None
    shared = sorted(set(table.patients) & set(outside.patients))
    if shared:
        msg = f"expected other patients in {settings.external}, found {listed(shared)} of the cohort; remove them"
        raise UsageError(msg)
    chosen = names if measured is None else cohort.features.names
    other = _cohort(settings, outside, covariates[1], strata[1], chosen, None)
    if not set(other.outcome.strata.tolist()) <= set(cohort.outcome.strata.tolist()):
        msg = f"expected strata of the cohort in {settings.external}, found others in column {settings.strata}"
        raise UsageError(msg)
    return cohort, other


def _named(settings: SurvivalSettings) -> set[str]:
    more = (name for name in (settings.strata, settings.site) if name is not None)
    return {settings.patient, settings.time, settings.event, *settings.covariates, *more}


def _patients(settings: SurvivalSettings, path: Path) -> PatientTable:
    frame = read_table(path, text=(settings.patient,))
    same = [*settings.covariates, *filter(None, (settings.strata, settings.site))]
    if settings.site is not None and path == settings.external and settings.site not in frame:
        same.remove(settings.site)  # folds are of the cohort alone
    return one_row_a_patient(frame, patient=settings.patient, outcome=(settings.time, settings.event), same=same)


def _coded_together(
    settings: SurvivalSettings, tables: Sequence[PatientTable]
) -> tuple[list[Float], list[tuple[Index, tuple[str, ...]]]]:
    """Return covariates as numbers and strata as integers, for each table, by one code. No outcome is looked at."""
    stops = np.cumsum([len(t) for t in tables])[:-1]
    covariates = np.zeros((sum(map(len, tables)), 0))
    if settings.covariates:
        covariates = encode_covariates(pd.concat([t.frame[list(settings.covariates)] for t in tables])).values
    strata = np.zeros(len(covariates), dtype=np.intp)
    labels: tuple[str, ...] = ()
    if settings.strata is not None:
        column = pd.concat([t.frame[settings.strata] for t in tables]).astype(object)
        found, code = np.unique(column.where(column.notna(), "missing").astype(str).to_numpy(), return_inverse=True)
        labels, strata = tuple(found.tolist()), code.astype(np.intp)
    return np.split(covariates, stops), [(part, labels) for part in np.split(strata, stops)]


def _cohort(
    settings: SurvivalSettings,
    table: PatientTable,
    covariates: Float,
    strata: tuple[Index, tuple[str, ...]],
    names: Sequence[str],
    measured: _Measured | None,
) -> SurvivalCohort:
    frame = table.frame
    rows = np.arange(len(table)) if measured is None else measured.rows
    read = read_outcome(
        frame.iloc[rows].reset_index(drop=True), time=settings.time, event=settings.event, patient=settings.patient
    )
    kept = rows[read.rows]
    outcome = Outcome(read.outcome.time, read.outcome.event, strata[0][kept])
    notes = [*table.notes(), *read.notes]
    if measured is not None:
        notes += measured.notes
        names = measured.predicted
    features = transformed(feature_matrix(frame, names), settings.transform).take(kept)
    notes += _feature_notes(features)
    of_measured = None
    if measured is not None:
        of_measured = transformed(measured.features, settings.transform).take(read.rows)
    site = None
    if settings.site is not None and settings.site in frame:
        site = frame[settings.site].iloc[kept].astype(object).to_numpy()
        if pd.isna(site).any():
            msg = f"expected a site for each patient in column {settings.site}, found patients without; fill them in"
            raise UsageError(msg)
    return SurvivalCohort(
        table.patients[kept], outcome, strata[1], features, of_measured, covariates[kept], site, tuple(notes)
    )


def transformed(features: Features, transform: str) -> Features:
    """Return features on the scale of the models; SDs follow by the derivative.

    Raises
    ------
    UsageError
        ``log1p`` of a negative value.
    """
    if transform == "none":
        return features
    if (features.mean < 0).any():
        bad = [features.names[j] for j in np.flatnonzero((features.mean < 0).any(axis=0)).tolist()]
        msg = f"expected features of 0 or more for --transform log1p, found negative ones in {listed(bad)}; use none"
        raise UsageError(msg)
    sd = None if features.sd is None else features.sd / (1 + features.mean)
    return Features(features.names, np.log1p(features.mean), sd)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Measured expression of the patients at ``rows`` of the cohort; ``predicted`` are the columns there."""

    features: Features
    rows: Index
    predicted: tuple[str, ...]
    notes: tuple[str, ...]


def _measured(settings: SurvivalSettings, table: PatientTable, names: Sequence[str]) -> _Measured:
    path = settings.compare
    if path is None:  # pragma: no cover  # the caller asks only with a table
        msg = "expected a table of measured expression, found none"
        raise ValueError(msg)
    frame = read_table(path, text=(settings.patient,))
    require_columns(frame, [settings.patient])
    other = one_row_a_patient(frame, patient=settings.patient, outcome=())
    genes = {str(c).removesuffix(MEAN_SUFFIX): str(c) for c in other.frame.columns if c != settings.patient}
    common = {name: genes[gene] for name in names if (gene := name.removesuffix(MEAN_SUFFIX)) in genes}
    rows = np.flatnonzero(np.isin(table.patients.astype(str), other.patients.astype(str)))
    if not common or not len(rows):
        msg = (
            f"expected genes and patients of the cohort in {path}, found {len(common)} genes and {len(rows)} patients "
            "in common; name columns and patients alike"
        )
        raise UsageError(msg)
    place = np.searchsorted(other.patients.astype(str), table.patients[rows].astype(str))
    features = feature_matrix(other.frame, list(common.values())).take(place)
    notes = (
        f"Measured and predicted expression are compared on {len(rows)} of {len(table)} patients and {len(common)} of "
        f"{len(names)} features that both tables have.",
    )
    return _Measured(features, rows, tuple(common), notes)


def _feature_notes(features: Features) -> list[str]:
    missing = int(np.isnan(features.mean).any(axis=0).sum())
    notes = []
    if missing:
        notes.append(
            f"{missing} features lack values of some patients; a missing value counts as the training patients' mean."
        )
    constant = FeatureTable.of(features.mean).constant
    if constant.all():
        msg = "expected features that differ between patients, found none; look at the columns chosen (--features)"
        raise UsageError(msg)
    if constant.any():
        notes.append(f"{int(constant.sum())} features are the same in all patients and so never count.")
    return notes
