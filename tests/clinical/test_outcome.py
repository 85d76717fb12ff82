"""Time and event as people write them: what is counted, what is refused."""

import numpy as np
import pandas as pd
import pytest

from stimage_qupath.clinical.outcome import Outcome, read_outcome
from stimage_qupath.errors import UsageError


def frame(n=40, **more):
    table = pd.DataFrame({"patient": [f"p{i}" for i in range(n)], "t": np.arange(1.0, n + 1), "e": np.arange(n) % 2})
    return table.assign(**more)


def read(table):
    return read_outcome(table, time="t", event="e")


def test_events_are_read_from_numbers_booleans_and_words():
    expected = np.arange(40) % 2 == 1
    for values in (expected, expected.astype(float), np.where(expected, "True", "false"), np.where(expected, "1", "0")):
        assert read(frame(e=values)).outcome.event.tolist() == expected.tolist()


def test_missing_and_zero_times_are_left_out_and_counted():
    table = frame().astype({"e": float})
    table.loc[:2, "t"] = np.nan
    table.loc[3, "e"] = np.nan
    table.loc[4:5, "t"] = 0.0
    found = read(table)
    assert found.rows.tolist() == list(range(6, 40))
    assert found.notes[:2] == ("4 patients without t or e are left out.", "2 patients with a time of 0 are left out.")
    assert "There are only 17 events" in found.notes[2]


def test_what_cannot_be_an_outcome_is_refused():
    with pytest.raises(UsageError, match="found negative ones for p0, p1"):
        read(frame(t=[-1.0, -2.0, *range(1, 39)]))
    with pytest.raises(UsageError, match=r"expected 1 \(event observed\) or 0 \(censored\) in column e, found '2'"):
        read(frame(e=2))
    with pytest.raises(UsageError, match=r"found 'dead'.*the other way round"):
        read(frame(e="dead"))
    with pytest.raises(UsageError, match=r"expected at least 10 observed events .* found 9 among 40"):
        read(frame(e=[1] * 9 + [0] * 31))
    with pytest.raises(ValueError, match="expected finite times above 0"):
        Outcome.of(np.array([0.0, 1.0]), np.array([True, False]))
    with pytest.raises(ValueError, match="expected equal lengths in Outcome"):
        Outcome.of(np.ones(2), np.array([True]))
