"""The cohort table: one row a patient, clinical columns as given, expression as ``<GENE>_mean`` and ``<GENE>_sd``.

Here tables are read from disk and checked; what is computed from them works on the arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]

PATIENT: Final = "patient"
MEAN_SUFFIX: Final = "_mean"
SD_SUFFIX: Final = "_sd"
CSV_SUFFIXES: Final = (".csv", ".csv.gz", ".csv.zip", ".tsv", ".tsv.gz")
PARQUET_SUFFIXES: Final = (".parquet", ".pq")
NAMED: Final = 5
"""Names listed in a message before it goes on with their number."""


@dataclass(frozen=True, slots=True)
class PatientTable:
    """A table of one row a patient, and how it became one.

    Attributes
    ----------
    frame
        Rows sorted by patient, ``RangeIndex``.
    patients
        (patient,) identifiers as text, in the order of the rows.
    rows
        Rows that were given.
    combined
        Patients that had several rows.
    """

    frame: pd.DataFrame
    patients: NDArray[np.object_]
    rows: int
    combined: int

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self.patients)

    def notes(self) -> list[str]:
        """Return what was combined, as sentences for a report."""
        if not self.combined:
            return []
        return [
            f"{self.rows} rows became {len(self)} patients: {self.combined} patients had several rows with the same "
            "outcome; their numbers (SDs too, because slides of a patient share the model's error) were averaged."
        ]


@dataclass(frozen=True, slots=True)
class Features:
    """Features of patients.

    Attributes
    ----------
    names
        Columns of the table.
    mean
        (patient, feature); NaN where a value is missing.
    sd
        (patient, feature) uncertainty of ``mean``, 0 where none is given; None where no feature has one.
    """

    names: tuple[str, ...]
    mean: Float
    sd: Float | None = None

    def take(self, index: NDArray[np.intp]) -> Features:
        """Return the features of the patients at ``index``, in that order."""
        return Features(self.names, self.mean[index], None if self.sd is None else self.sd[index])


def read_table(path: Path, *, text: Sequence[str] = (PATIENT,)) -> pd.DataFrame:
    """Read a CSV (also gzipped), TSV or Parquet table.

    Parameters
    ----------
    path
        Table with one head line.
    text
        Columns that are text whatever they look like, so that patient ``007`` keeps its zeros.

    Raises
    ------
    UsageError
        No such file, another kind of file, not readable as what its name says, no rows, or a column twice.
    """
    kind = path.name.lower()
    if not path.is_file():
        msg = f"expected a cohort table at {path}, found no file there; give a CSV or Parquet file"
        raise UsageError(msg)
    try:
        if kind.endswith(PARQUET_SUFFIXES):
            frame = pd.read_parquet(path)
        elif kind.endswith(CSV_SUFFIXES):
            separator = "\t" if ".tsv" in kind else ","
            frame = pd.read_csv(path, sep=separator, dtype=dict.fromkeys(text, str), low_memory=False)
        else:
            msg = f"expected a table named *.csv, *.tsv or *.parquet, found {path.name}; rename or convert it"
            raise UsageError(msg)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own errors are kinds of these
        msg = f"expected a readable table in {path}, found one that is not ({error}); write it again"
        raise UsageError(msg) from error
    _refuse_doubled_columns(path, frame, kind)
    if frame.empty:
        msg = f"expected patients in {path}, found a table without rows; give one with a row a patient"
        raise UsageError(msg)
    return frame


def one_row_a_patient(
    frame: pd.DataFrame, *, patient: str = PATIENT, outcome: Sequence[str], same: Sequence[str] = ()
) -> PatientTable:
    """Combine rows of one patient: the mean of numbers, and one outcome or an error.

    Parameters
    ----------
    frame
        Table of one or several rows a patient.
    patient
        Column with the patient's identifier.
    outcome
        Columns that must be equal in all rows of a patient; missing values do not contradict.
    same
        More such columns: covariates, stratum, site. Any other text column keeps its first value.

    Raises
    ------
    UsageError
        A column is missing, a row has no patient, or rows of a patient contradict each other.
    """
    require_columns(frame, [patient, *outcome, *same])
    nobody = int(frame[patient].isna().sum())
    if nobody:
        msg = (
            f"expected a patient in each row of column {patient}, found {nobody} rows without one; fill them in or "
            "remove the rows"
        )
        raise UsageError(msg)
    frame = frame.assign(**{patient: frame[patient].astype(str)})
    for column in dict.fromkeys([*outcome, *same]):
        _refuse_contradiction(frame, patient, column)
    rows = frame.groupby(patient, sort=True)
    fixed = {*outcome, *same}
    rule = {
        c: "mean" if c not in fixed and pd.api.types.is_numeric_dtype(frame[c]) else "first"
        for c in frame.columns
        if c != patient
    }
    combined = rows.agg(rule).reset_index()
    return PatientTable(
        frame=combined[list(frame.columns)],
        patients=combined[patient].to_numpy(object),
        rows=len(frame),
        combined=int((rows.size() > 1).sum()),
    )


def choose_features(frame: pd.DataFrame, patterns: Sequence[str] = (), *, exclude: Collection[str]) -> tuple[str, ...]:
    """Return the columns that are features, in the order of the table.

    Parameters
    ----------
    frame
        Cohort table.
    patterns
        Shell patterns such as ``*_mean`` or ``ERBB2*``, upper and lower case matter. Empty: ``*_mean`` where such
        columns are, else every numeric column.
    exclude
        Columns named otherwise (patient, outcome, covariates, ...); SDs of other columns are never features.

    Raises
    ------
    UsageError
        A pattern matches nothing, a matched column is not numeric, or nothing is left.
    """
    left = [str(c) for c in frame.columns if c not in exclude and not _is_sd(frame, str(c))]
    numeric = {c for c in left if pd.api.types.is_numeric_dtype(frame[c])}
    if not patterns:
        means = tuple(c for c in left if c in numeric and c.endswith(MEAN_SUFFIX))
        return means or _some(tuple(c for c in left if c in numeric))
    for pattern in patterns:
        if not any(fnmatchcase(c, pattern) for c in left):
            msg = f"expected columns that match {pattern}, found none; look at the names in the table's first line"
            raise UsageError(msg)
    matched = tuple(c for c in left if any(fnmatchcase(c, pattern) for pattern in patterns))
    text = [c for c in matched if c not in numeric]
    if text:
        msg = f"expected numbers in every feature, found text in {listed(text)}; choose other columns (--features)"
        raise UsageError(msg)
    return _some(matched)


def feature_matrix(frame: pd.DataFrame, names: Sequence[str]) -> Features:
    """Return features with the SDs that the table holds for them.

    Raises
    ------
    UsageError
        A column is missing, infinite, or an SD is negative.
    """
    require_columns(frame, names)
    mean = frame[list(names)].to_numpy(np.float64, na_value=np.nan)
    _refuse_infinite(mean, names)
    sds = [sd_column(name) for name in names]
    there = [sd in frame.columns for sd in sds]
    if not any(there):
        return Features(tuple(names), mean)
    sd = np.zeros_like(mean)
    for place, (column, found) in enumerate(zip(sds, there, strict=True)):
        if found:
            given = frame[column].to_numpy(np.float64, na_value=np.nan)
            sd[:, place] = np.where(np.isnan(given), 0.0, given)
    _refuse_infinite(sd, sds)
    if (sd < 0).any():
        bad = [sds[place] for place in np.flatnonzero((sd < 0).any(axis=0)).tolist()]
        msg = f"expected uncertainties of 0 or more, found negative ones in {listed(bad)}; correct the table"
        raise UsageError(msg)
    return Features(tuple(names), mean, sd)


def numbers(frame: pd.DataFrame, column: str) -> Float:
    """Return one column as float64, (patient,), NaN where missing; UsageError where it is missing or not numeric."""
    require_columns(frame, [column])
    values = frame[column]
    if not pd.api.types.is_numeric_dtype(values):
        msg = f"expected numbers in column {column}, found text such as '{values.dropna().iloc[0]}'; correct the table"
        raise UsageError(msg)
    found = values.to_numpy(np.float64, na_value=np.nan)
    _refuse_infinite(found[:, None], [column])
    return np.asarray(found)


def require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise :class:`UsageError` where a column is missing."""
    missing = [c for c in dict.fromkeys(columns) if c not in frame.columns]
    if missing:
        there = listed([str(c) for c in frame.columns])
        msg = f"expected column {listed(missing)}, found {there}; name the right column or add it to the table"
        raise UsageError(msg)


def sd_column(feature: str) -> str:
    """Return the column with the uncertainty of a feature: ``ERBB2_mean`` has ``ERBB2_sd``, ``score`` ``score_sd``."""
    return f"{feature.removesuffix(MEAN_SUFFIX)}{SD_SUFFIX}"


def listed(names: Sequence[str]) -> str:
    """Return names for a message, the first few of many."""
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def _is_sd(frame: pd.DataFrame, column: str) -> bool:
    stem = column.removesuffix(SD_SUFFIX)
    return stem != column and (stem in frame.columns or f"{stem}{MEAN_SUFFIX}" in frame.columns)


def _some(columns: tuple[str, ...]) -> tuple[str, ...]:
    if not columns:
        msg = "expected numeric columns to use as features, found none; choose them with --features"
        raise UsageError(msg)
    return columns


def _refuse_infinite(values: Float, names: Sequence[str]) -> None:
    bad = [names[place] for place in np.flatnonzero(np.isinf(values).any(axis=0)).tolist()]
    if bad:
        msg = f"expected finite numbers, found infinite ones in {listed(bad)}; correct the table or leave them empty"
        raise UsageError(msg)


def _refuse_doubled_columns(path: Path, frame: pd.DataFrame, kind: str) -> None:
    doubled = [str(c) for c in frame.columns[frame.columns.duplicated()]]
    if kind.endswith(CSV_SUFFIXES):  # pandas renames the second ``age`` to ``age.1``
        there = set(map(str, frame.columns))
        doubled = [c for c in there if c.removesuffix(".1") != c and c.removesuffix(".1") in there]
    if doubled:
        msg = f"expected each column once in {path}, found {listed(sorted(doubled))} more than once; rename one"
        raise UsageError(msg)


def _refuse_contradiction(frame: pd.DataFrame, patient: str, column: str) -> None:
    different = frame.groupby(patient, sort=True)[column].nunique(dropna=True)
    bad = [str(p) for p in different.index[different > 1]]
    if bad:
        msg = (
            f"expected one value of {column} a patient, found several for {listed(bad)}; correct the table so that all "
            "rows of a patient agree"
        )
        raise UsageError(msg)
