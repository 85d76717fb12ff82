"""Columns: the same values under QuPath's names and under the tables' names."""

from __future__ import annotations

import numpy as np
import pytest

from stimage_qupath import names
from stimage_qupath.export.tables import cell_columns, gene_columns, outside_training, table_column, table_columns
from stimage_qupath.results import Panel


@pytest.mark.parametrize(
    ("measurement", "column"),
    [
        ("STimage: ERBB2: mean", "ERBB2_mean"),
        ("STimage: ERBB2: aleatoric SD", "ERBB2_aleatoric_sd"),
        ("STimage: HLA-A: p95", "HLA-A_p95"),
        ("STimage: ERBB2: attribution", "ERBB2_attribution"),
        ("STimage: OOD score", "ood_score"),
        ("STimage: outside training", "outside_training"),
        ("Nucleus: Area µm^2", "nucleus_area_um2"),
        ("STimage: Cell type: Immune: probability", "cell_type_probability_Immune"),
        ("STimage: Cell type: entropy", "cell_type_entropy"),
        ("Nucleus: DAB OD max (µm)", "nucleus_dab_od_max_um"),
        ("mean", "mean"),
    ],
)
def test_table_column(measurement: str, column: str) -> None:
    assert table_column(measurement) == column


def test_every_known_measurement_has_its_own_column() -> None:
    columns = {name: np.zeros(1, dtype=np.float32) for name in names.TABLE_COLUMN}
    assert list(table_columns(columns)) == list(names.TABLE_COLUMN.values())


@pytest.mark.parametrize("pair", [("My value", "my-value"), ("x px", "other")])
def test_two_measurements_for_one_column_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"expected one measurement for each column, found several for (my_value|x_px)"
    ):
        table_columns({name: np.zeros(1, dtype=np.float32) for name in pair})


def test_outside_training_is_beyond_one_and_unknown_stays_unknown() -> None:
    score = np.array([0, 1, np.nextafter(np.float32(1), np.float32(2)), 7, np.nan], dtype=np.float32)
    np.testing.assert_array_equal(outside_training(score), np.array([0, 0, 1, 1, np.nan], dtype=np.float32))


def test_cell_columns_hold_shape_then_score(make_cells, make_prediction) -> None:
    cells = make_cells(3)
    assert list(cell_columns(cells, None)) == [names.AREA, names.CIRCULARITY]
    columns = cell_columns(cells, make_prediction(3))
    assert list(columns) == [names.AREA, names.CIRCULARITY, names.OOD_SCORE, names.OUTSIDE_TRAINING]
    assert columns[names.AREA].tolist() == [0.5, 1.5, 2.5]
    with pytest.raises(ValueError, match=r"expected a prediction of 3 nuclei, found one of 2"):
        cell_columns(cells, make_prediction(2))


def test_gene_columns_follow_the_order_asked_for(panel, make_prediction) -> None:
    prediction = make_prediction(3, first=1, intervals=True)
    columns = gene_columns(prediction, panel=panel, genes=("KRT5", "ERBB2"), measurements="all")
    assert list(columns) == [
        f"STimage: {gene}: {quantity}"
        for gene in ("KRT5", "ERBB2")
        for quantity in ("mean", "aleatoric SD", "epistemic SD", "p05", "p95")
    ]
    mean = np.array([1.3, 2.3, 3.3], dtype=np.float32)
    np.testing.assert_allclose(columns["STimage: KRT5: mean"], mean)
    np.testing.assert_allclose(columns["STimage: KRT5: aleatoric SD"], 2 * mean, rtol=1e-6)
    np.testing.assert_allclose(columns["STimage: KRT5: epistemic SD"], 3 * mean, rtol=1e-6)
    np.testing.assert_allclose(columns["STimage: KRT5: p05"], mean / 2)
    np.testing.assert_allclose(columns["STimage: KRT5: p95"], mean * 2)
    assert all(values.dtype == np.float32 for values in columns.values())
    short = gene_columns(make_prediction(3), panel=panel, genes=("CD3D",), measurements="short")
    assert list(short) == ["STimage: CD3D: mean", "STimage: CD3D: aleatoric SD", "STimage: CD3D: epistemic SD"]


def test_prediction_that_does_not_fit_is_refused(panel, make_prediction) -> None:
    with pytest.raises(ValueError, match=r"expected a prediction of 1 genes, found one of 4"):
        gene_columns(make_prediction(3), panel=Panel(("ERBB2",)), genes=("ERBB2",), measurements="short")
    with pytest.raises(ValueError, match=r"expected a prediction with p05, found none"):
        gene_columns(make_prediction(3), panel=panel, genes=("ERBB2",), measurements="all")
