"""Tables as people write them: what is read, what is combined, and what is refused with the way out."""

import numpy as np
import pandas as pd
import pytest

from stimage_qupath.clinical.table import (
    choose_features,
    feature_matrix,
    numbers,
    one_row_a_patient,
    read_table,
    sd_column,
)
from stimage_qupath.errors import UsageError


def frame(**more):
    return pd.DataFrame(
        {
            "patient": ["007", "b", "b"],
            "time": [5.0, 7.0, 7.0],
            "event": [1, 0, 0],
            "ERBB2_mean": [1.0, 2.0, 4.0],
            "ERBB2_sd": [0.1, 0.2, 0.4],
            "note": ["x", "y", "z"],
            **more,
        }
    )


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.csv.gz", "c.parquet"])
def test_tables_are_read_and_patients_stay_text(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        frame().to_parquet(path)
    else:
        frame().to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    found = read_table(path)
    assert list(found["patient"]) == ["007", "b", "b"]
    assert found["ERBB2_mean"].tolist() == [1, 2, 4]


def test_rows_of_a_patient_are_averaged_and_said():
    table = one_row_a_patient(frame(), outcome=("time", "event"))
    assert list(table.patients) == ["007", "b"]
    assert table.frame["ERBB2_mean"].tolist() == [1, 3]
    assert table.frame["ERBB2_sd"].tolist() == pytest.approx([0.1, 0.3])
    assert table.frame["note"].tolist() == ["x", "y"]
    assert table.frame["time"].tolist() == [5, 7]
    assert "3 rows became 2 patients: 1 patients had several rows" in table.notes()[0]
    single = one_row_a_patient(frame().iloc[:2], outcome=("time", "event"))
    assert single.notes() == []


def test_a_missing_outcome_is_filled_by_the_other_row_and_a_different_one_refused():
    filled = one_row_a_patient(frame(event=[1, np.nan, 0]), outcome=("time", "event"))
    assert filled.frame["event"].tolist() == [1, 0]
    with pytest.raises(UsageError, match="expected one value of event a patient, found several for b"):
        one_row_a_patient(frame(event=[1, 1, 0]), outcome=("time", "event"))
    with pytest.raises(UsageError, match="expected one value of note a patient, found several for b"):
        one_row_a_patient(frame(), outcome=("time", "event"), same=("note",))
    with pytest.raises(UsageError, match="found 1 rows without one"):
        one_row_a_patient(frame(patient=["a", None, "b"]), outcome=("time",))


def test_features_are_means_where_there_are_some_and_never_their_sds():
    table = frame(area=[1, 2, 3])
    assert choose_features(table, exclude={"patient", "time", "event"}) == ("ERBB2_mean",)
    bare = table.drop(columns=["ERBB2_mean", "ERBB2_sd"])
    assert choose_features(bare, exclude={"patient", "time", "event"}) == ("area",)
    assert choose_features(table, ["a*", "E*"], exclude=()) == ("ERBB2_mean", "area")
    with pytest.raises(UsageError, match="expected columns that match XX"):
        choose_features(table, ["XX*"], exclude=())
    with pytest.raises(UsageError, match="found text in note"):
        choose_features(table, ["note"], exclude=())
    with pytest.raises(UsageError, match="expected numeric columns to use as features, found none"):
        choose_features(table[["patient"]], exclude=())


def test_sds_stand_beside_their_means():
    found = feature_matrix(frame(area=[1, np.nan, 3]), ("ERBB2_mean", "area"))
    np.testing.assert_array_equal(found.sd, [[0.1, 0], [0.2, 0], [0.4, 0]])
    assert np.isnan(found.mean[1, 1])
    assert found.take(np.array([2])).sd[0, 0] == 0.4
    assert feature_matrix(frame(area=[1, 2, 3]), ("area",)).sd is None
    assert feature_matrix(frame(ERBB2_sd=[0.1, np.nan, 0.2]), ("ERBB2_mean",)).sd.ravel().tolist() == [0.1, 0, 0.2]
    assert sd_column("ERBB2_mean") == "ERBB2_sd"
    assert sd_column("score") == "score_sd"
    with pytest.raises(UsageError, match="found infinite ones in ERBB2_mean"):
        feature_matrix(frame(ERBB2_mean=[1, np.inf, 2]), ("ERBB2_mean",))
    with pytest.raises(UsageError, match="found negative ones in ERBB2_sd"):
        feature_matrix(frame(ERBB2_sd=[1, -1, 2]), ("ERBB2_mean",))


def test_numbers_refuses_text_and_what_is_not_there():
    assert numbers(frame(), "time").tolist() == [5, 7, 7]
    with pytest.raises(UsageError, match="expected numbers in column note, found text such as 'x'"):
        numbers(frame(), "note")
    with pytest.raises(UsageError, match="expected column stage, found patient, time"):
        numbers(frame(), "stage")


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(UsageError, match="found no file there"):
        read_table(tmp_path / "none.csv")
    for name, content, said in (
        ("c.xlsx", b"", r"expected a table named \*\.csv"),
        ("empty.csv", b"", "found one that is not"),
        ("bad.parquet", b"no parquet", "found one that is not"),
        ("rows.csv", b"a,b\n", "found a table without rows"),
        ("twice.csv", b"patient,age,age\n1,2,3\n", "found age.1 more than once"),
        ("latin.csv", b"patient,a\n\xff\xfe,1\n", "found one that is not"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=said):
            read_table(tmp_path / name)
