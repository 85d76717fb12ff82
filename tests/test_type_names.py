"""Names of cell types, neighbourhoods and regions in QuPath and in the tables."""

from __future__ import annotations

import pytest

from stimage_qupath.export.tables import table_column
from stimage_qupath.names import type_measurement, type_quantity


@pytest.mark.parametrize(
    ("level", "name", "quantity", "measurement", "column"),
    [
        ("nucleus", "Immune", "probability", "STimage: Cell type: Immune: probability", "cell_type_probability_Immune"),
        (
            "neighbourhood",
            "Plasma Cells",
            "proportion",
            "STimage: Neighbourhood: Plasma Cells: proportion",
            "neighbourhood_proportion_Plasma_Cells",
        ),
        (
            "region",
            "Tumor: in/situ",
            "probability",
            "STimage: Region: Tumor: in/situ: probability",
            "region_probability_Tumor_in_situ",
        ),
        ("nucleus", None, "entropy", "STimage: Cell type: entropy", "cell_type_entropy"),
        (
            "nucleus",
            "entropy",
            "probability",
            "STimage: Cell type: entropy: probability",
            "cell_type_probability_entropy",
        ),
        ("region", None, "mutual information", "STimage: Region: mutual information", "region_mutual_information"),
    ],
)
def test_each_measurement_has_its_name_and_its_column(level, name, quantity, measurement, column):
    assert type_measurement(level, name, quantity) == measurement
    assert table_column(measurement) == column


def test_what_a_level_gives_and_genes_keep_their_columns():
    assert [type_quantity(level) for level in ("nucleus", "neighbourhood", "region")] == [
        "probability",
        "proportion",
        "probability",
    ]
    assert table_column("STimage: ERBB2: mean") == "ERBB2_mean"
