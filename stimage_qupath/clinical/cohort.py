"""Slides and the clinical table: which slide is whose, and what contradicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Generic, Protocol, TypeVar

import pandas as pd

from stimage_qupath.clinical.table import listed, require_columns
from stimage_qupath.errors import UsageError


class Named(Protocol):
    """Something of one image: a run, or what was read of it."""

    @property
    def name(self) -> str:
        """Of the image."""
        ...

    @property
    def names(self) -> frozenset[str]:
        """What a clinical table may call the image."""
        ...


NamedT = TypeVar("NamedT", bound=Named)


@dataclass(frozen=True, slots=True)
class Clinical:
    """The clinical table, one row a patient.

    Attributes
    ----------
    frame
        Row a patient, index the patient, columns as given without slide and patient.
    patient_of
        Slide to patient.
    notes
        What was combined or left out.
    """

    frame: pd.DataFrame
    patient_of: Mapping[str, str]
    notes: tuple[str, ...]


def read_clinical(frame: pd.DataFrame, *, patient: str, slide: str) -> Clinical:
    """Return the clinical table by patient; a table without a column of slides names slides as patients.

    Parameters
    ----------
    frame
        A row a slide or a patient.
    patient, slide
        Columns.

    Raises
    ------
    UsageError
        There is no column of patients, rows of a patient contradict each other, or a slide has two patients.
    """
    require_columns(frame, [patient])
    notes = []
    named = frame[frame[patient].notna()]
    if len(named) < len(frame):
        notes.append(f"{len(frame) - len(named)} rows of the clinical table name no patient and are left out")
    named = named.assign(**{patient: named[patient].astype(str)})
    by_slide = slide in frame.columns
    slides = named[slide] if by_slide else named[patient]
    found = {(str(s), p) for s, p in zip(slides, named[patient], strict=True) if pd.notna(s)}
    shared = [s for s, count in Counter(s for s, _ in found).items() if count > 1]
    if shared:
        msg = f"expected one patient for each slide, found several for {listed(sorted(shared))}; correct the table"
        raise UsageError(msg)
    rest = [c for c in named.columns if c not in {patient, slide}]
    refuse_contradictions(named, patient, rest)
    rows = named.groupby(patient, sort=True)
    combined = rows[rest].first() if rest else pd.DataFrame(index=pd.Index(sorted(rows.groups)))
    doubled = int((named[patient].value_counts() > 1).sum())
    if doubled:
        notes.append(f"{doubled} patients had several rows that agree; each is one row of the cohort")
    return Clinical(combined, dict(sorted(found)), tuple(notes))


def refuse_contradictions(frame: pd.DataFrame, patient: str, columns: Sequence[str]) -> None:
    """Raise :class:`UsageError` where rows of a patient hold different values; an empty cell contradicts nothing."""
    different = frame.groupby(patient, sort=True)[list(columns)].nunique(dropna=True) > 1 if columns else pd.DataFrame()
    bad = [(str(row), str(column)) for row, values in different.iterrows() for column in values.index[values]]
    if bad:
        row, column = bad[0]
        values = sorted(map(str, frame.loc[frame[patient] == row, column].dropna().unique()))
        more = f" (and {len(bad) - 1} more contradictions)" if len(bad) > 1 else ""
        msg = (
            f"expected one value of {column} for patient {row}, found {listed(values)}{more}; correct the clinical "
            "table, or leave columns out of it that differ between slides"
        )
        raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Assignment(Generic[NamedT]):
    """Slides by patient, and what has no partner.

    Attributes
    ----------
    slides
        Patient to slides, both sorted.
    without_row
        Slides that the clinical table does not name.
    without_slide
        Patients of whom there is no slide.
    """

    slides: Mapping[str, tuple[NamedT, ...]]
    without_row: tuple[str, ...]
    without_slide: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return a sentence for each kind of missing partner."""
        found = []
        if self.without_row:
            names = listed(self.without_row)
            found.append(f"{len(self.without_row)} slides have no clinical row and are left out: {names}")
        if self.without_slide:
            names = listed(self.without_slide)
            found.append(f"{len(self.without_slide)} patients have no slide and are left out: {names}")
        return found


def assign(slides: Sequence[NamedT], clinical: Clinical) -> Assignment[NamedT]:
    """Find each slide's patient.

    Raises
    ------
    UsageError
        Two runs are of one slide, a slide fits several rows, or no slide fits any.
    """
    twice = sorted(name for name, count in Counter(slide.name for slide in slides).items() if count > 1)
    if twice:
        msg = f"expected one run for each slide, found several of {listed(twice)}; give one of them"
        raise UsageError(msg)
    patients: dict[str, list[NamedT]] = {}
    without_row = []
    for slide in sorted(slides, key=lambda s: s.name):
        rows = sorted(
            {patient for name, patient in clinical.patient_of.items() if {name, PurePath(name).stem} & slide.names}
        )
        if len(rows) > 1:
            msg = f"expected one patient for slide {slide.name}, found it fits {listed(rows)}; write the full file name"
            raise UsageError(msg)
        if rows:
            patients.setdefault(rows[0], []).append(slide)
        else:
            without_row.append(slide.name)
    if not patients:
        first = next(iter(clinical.patient_of), "none")
        msg = (
            f"expected slides that the clinical table names, found none of {len(slides)}: the runs are of "
            f"{listed(without_row)}, the table begins with '{first}'; name the column with the slides (--slide-column)"
        )
        raise UsageError(msg)
    without_slide = tuple(str(p) for p in clinical.frame.index if p not in patients)
    found = {patient: tuple(patients[patient]) for patient in sorted(patients)}
    return Assignment(found, tuple(without_row), without_slide)
