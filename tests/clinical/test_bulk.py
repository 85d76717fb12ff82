"""Predicted against measured: second library, nulls that must be nulls, and what is no evidence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stimage_qupath.clinical.bulk import agreement, column_correlation, measured_expression
from stimage_qupath.errors import UsageError

PATIENTS = [f"P{i}" for i in range(40)]


def simulated(signal, genes=60, seed=0, patients=40):
    """Return predicted counts and a measured table of log expression; ``signal`` is the share of variance in common."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(1, 8, genes)  # genes differ far more than patients do
    common, own, noise = (rng.normal(0, 0.5, (patients, genes)) for _ in range(3))
    x = level + np.sqrt(signal) * common + np.sqrt(1 - signal) * own
    y = level + np.sqrt(signal) * common + np.sqrt(1 - signal) * noise
    names = [f"G{i}" for i in range(genes)]
    frame = pd.DataFrame(y, index=PATIENTS[:patients], columns=names).rename_axis("patient").reset_index()
    return 2**x - 1, frame, names


def compared(signal, **options):
    predicted, frame, names = simulated(signal, **options)
    measured = measured_expression(frame, patients=PATIENTS[: len(predicted)], genes=names)
    return predicted, measured, agreement(predicted, measured, replicates=200, permutations=299)


def test_correlations_are_scipys():
    predicted, measured, found = compared(0.5)
    x = np.log2(1 + predicted)
    for i in (0, 17):
        row = found.genes.iloc[i]
        assert row.pearson == pytest.approx(stats.pearsonr(x[:, i], measured.values[:, i]).statistic, abs=1e-12)
        assert row.spearman == pytest.approx(stats.spearmanr(x[:, i], measured.values[:, i]).statistic, abs=1e-12)
        assert row.pearson_low < row.pearson < row.pearson_high


def test_without_signal_nothing_is_found_across_patients_though_genes_correlate_within():
    _, _, found = compared(0.0)
    across, within = found.summary["across_patients"], found.summary["within_patients"]
    assert across["genes_fdr_below_0.05"] <= 1
    assert abs(across["pearson_mean"]["value"]) < 0.06
    assert across["pearson_mean_p"] > 0.01
    assert within["pearson_median"] > 0.9
    assert within["evidence"] is False
    assert "Not evidence" in within["note"]


def test_signal_is_found():
    _, _, found = compared(0.8)
    assert found.summary["across_patients"]["genes_fdr_below_0.05"] > 50
    assert found.summary["across_patients"]["pearson_mean"]["ci"][0] > 0.6
    assert found.summary["across_patients"]["pearson_mean_p"] == pytest.approx(1 / 300)


def test_p_values_of_no_signal_are_uniform():
    p = np.concatenate([compared(0.0, seed=seed, genes=80)[2].genes["p"] for seed in range(5)])
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_the_table_may_lie_either_way():
    _, frame, names = simulated(0.5)
    turned = frame.set_index("patient").T.rename_axis("gene").reset_index()
    one, other = (measured_expression(f, patients=PATIENTS, genes=names) for f in (frame, turned))
    np.testing.assert_array_equal(one.values, other.values)
    assert one.genes == other.genes == tuple(names)


def test_renamed_genes_are_found():
    frame = pd.DataFrame({"patient": ["P0", "P1", "P2"], "KNTC2": [1.5, -2.0, 3.0]})
    found = measured_expression(frame, patients=PATIENTS, genes=["NDC80"])
    assert (found.genes, found.values[:, 0].tolist()) == (("NDC80",), [1.5, -2.0, 3.0])


def test_raw_counts_are_scaled_and_logged_and_logs_are_left():
    frame = pd.DataFrame({"patient": ["P0", "P1", "P2"], "G0": [100, 200, 50], "rest": [900, 1800, 450]})
    found = measured_expression(frame, patients=PATIENTS, genes=["G0"])
    assert found.values[:, 0] == pytest.approx(np.log2(101))  # every patient has a tenth, the median total is 1000
    assert "raw counts" in found.scale
    tpm = frame.assign(G0=[100.5, 20.0, 3.0])
    assert measured_expression(tpm, patients=PATIENTS, genes=["G0"]).values[0, 0] == pytest.approx(np.log2(101.5))
    logs = frame.assign(G0=[1.5, -2.0, 3.0], rest=[1.0, 2, 3])
    assert measured_expression(logs, patients=PATIENTS, genes=["G0"]).values[:, 0].tolist() == [1.5, -2.0, 3.0]


def test_constants_have_no_correlation_and_few_patients_no_p():
    predicted, frame, names = simulated(0.5, patients=5)
    frame["G3"] = 2.0
    predicted[:, 4] = 1.0
    measured = measured_expression(frame, patients=PATIENTS[:5], genes=names)
    found = agreement(predicted, measured, replicates=100)
    assert found.genes.pearson.isna().to_numpy().nonzero()[0].tolist() == [3, 4]
    assert found.genes.p.isna().all()
    assert found.summary["across_patients"]["note"] == "fewer than 6 patients: not tested"
    assert found.summary["across_patients"]["genes_constant"] == 2


def test_a_column_shifted_by_a_constant_correlates_fully():
    x = np.random.default_rng(0).normal(size=(9, 3))
    assert column_correlation(x, 2 * x + 1e6) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.rename(columns=lambda c: f"x{c}"), "found 40 patients and 0 genes"),
        (lambda f: pd.concat([f, f]), "found P0 twice"),
        (lambda f: f.assign(G0=np.nan), "found gaps in G0"),
        (lambda f: f.assign(G0="many"), "expected numbers in the measured table"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(change, message):
    _, frame, names = simulated(0.5)
    with pytest.raises(UsageError, match=message):
        measured_expression(change(frame), patients=PATIENTS, genes=names)
