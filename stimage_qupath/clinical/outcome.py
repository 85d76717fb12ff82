"""What happened to each patient: a time, whether the event was observed, and the stratum of comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.clinical.risk_sets import RiskSets, Ties
from stimage_qupath.clinical.table import listed, numbers, require_columns
from stimage_qupath.errors import UsageError

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

LEAST_EVENTS: Final = 10
"""Under so many events no model is fitted."""
FEW_EVENTS: Final = 50
"""Under so many, a warning is given."""
EVENT_WORDS: Final = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Follow-up of patients.

    Attributes
    ----------
    time
        (patient,) finite, above 0; the unit of the table.
    event
        (patient,) True where the event was observed at ``time``, False where follow-up ended then.
    strata
        (patient,) stratum, from 0; patients are compared within one alone.
    """

    time: Float
    event: Bool
    strata: Index

    def __post_init__(self) -> None:
        """Refuse lengths that differ and times that are not times."""
        if not len(self.time) == len(self.event) == len(self.strata):
            msg = f"expected equal lengths in Outcome, found {len(self.time)}, {len(self.event)}, {len(self.strata)}"
            raise ValueError(msg)
        if not (np.isfinite(self.time).all() and (self.time > 0).all()):
            msg = "expected finite times above 0 in Outcome, found others"
            raise ValueError(msg)

    @classmethod
    def of(cls, time: Float, event: Bool) -> Self:
        """Return the outcome of patients in one stratum."""
        return cls(time, event, np.zeros(len(time), dtype=np.intp))

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self.time)

    @property
    def events(self) -> int:
        """Number of observed events."""
        return int(self.event.sum())

    def take(self, rows: Index) -> Outcome:
        """Return the patients at ``rows``, in that order."""
        return Outcome(self.time[rows], self.event[rows], self.strata[rows])

    def unstratified(self) -> Outcome:
        """Return the same with one stratum."""
        return Outcome.of(self.time, self.event)

    def sets(self, rows: Index, ties: Ties) -> RiskSets:
        """Return the risk sets of some patients."""
        return RiskSets.of(self.time[rows], self.event[rows], strata=self.strata[rows], ties=ties)


@dataclass(frozen=True, slots=True)
class ReadOutcome:
    """The outcome of those who have one.

    Attributes
    ----------
    outcome
        Of the patients at ``rows``, in one stratum.
    rows
        Which rows of the table have time and event.
    notes
        What was left out or changed, as sentences with numbers.
    """

    outcome: Outcome
    rows: Index
    notes: tuple[str, ...]


def read_outcome(frame: pd.DataFrame, *, time: str, event: str, patient: str = "patient") -> ReadOutcome:
    """Read time and event of each patient.

    Patients without a time or an event are left out and counted, and so are times of exactly 0, which no risk set
    holds.

    Parameters
    ----------
    frame
        One row a patient.
    time, event
        Columns: a number, and 1/0 (or true/false) for observed and censored.
    patient
        Column that names patients in messages.

    Raises
    ------
    UsageError
        A negative time, an event that is not 0 or 1, or under :data:`LEAST_EVENTS` events.
    """
    times, events = numbers(frame, time), _zero_or_one(frame, event)
    negative = times < 0
    if negative.any():
        who = listed([str(p) for p in frame[patient].to_numpy()[negative]])
        msg = f"expected times of 0 or more in column {time}, found negative ones for {who}; correct the table"
        raise UsageError(msg)
    missing, nothing = np.isnan(times) | np.isnan(events), times == 0
    rows = np.flatnonzero(~(missing | nothing))
    notes = []
    if missing.any():
        notes.append(f"{int(missing.sum())} patients without {time} or {event} are left out.")
    if (nothing & ~missing).any():
        notes.append(f"{int((nothing & ~missing).sum())} patients with a time of 0 are left out.")
    observed = events[rows] == 1
    if observed.sum() < LEAST_EVENTS:
        msg = (
            f"expected at least {LEAST_EVENTS} observed events ({event} = 1), found {int(observed.sum())} among "
            f"{len(rows)} patients; a survival model cannot be judged on so few"
        )
        raise UsageError(msg)
    if observed.sum() < FEW_EVENTS:
        notes.append(f"There are only {int(observed.sum())} events; every figure is coarse.")
    return ReadOutcome(Outcome.of(times[rows], observed), rows, tuple(notes))


def _zero_or_one(frame: pd.DataFrame, column: str) -> Float:
    require_columns(frame, [column])
    values = frame[column]
    if not pd.api.types.is_numeric_dtype(values):
        coded = values.astype(str).str.strip().str.lower().map(EVENT_WORDS)
        wrong = coded.isna() & values.notna()
        if wrong.any():
            _refuse_event(column, values[wrong].iloc[0])
        values = coded
    found = values.to_numpy(np.float64, na_value=np.nan)
    odd = found[~np.isnan(found) & (found != 0) & (found != 1)]
    if len(odd):
        _refuse_event(column, f"{odd[0]:g}")
    return np.asarray(found)


def _refuse_event(column: str, found: object) -> None:
    msg = (
        f"expected 1 (event observed) or 0 (censored) in column {column}, found '{found}'; recode it, and mind that a "
        "column of censoring is the other way round"
    )
    raise UsageError(msg)
