"""Every string that leaves the package: files, measurements, columns."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "STimage: "
OBJECT_VERSION: Final = f"{PREFIX}object version"
OBJECT_VERSION_VALUE: Final = 1.0
OOD_SCORE: Final = f"{PREFIX}OOD score"
OUTSIDE_TRAINING: Final = f"{PREFIX}outside training"

RESEARCH_USE: Final = (
    "Research use only. Predicted from H&E context; neighbouring nuclei share input. "
    "Not a HER2/ER/PD-L1 test. Trained on {patients} {patient_word}."
)

# Run folder.
CELLS_GEOJSON: Final = "cells.geojson.gz"
CELLS_H5AD: Final = "cells.h5ad"
CELLS_PARQUET: Final = "cells.parquet"
RUN_JSON: Final = "run.json"
OVERVIEW_PNG: Final = "overview_{gene}.png"
PARTIAL_SUFFIX: Final = ".partial"

# Evaluation folder.
EVALUATION_JSON: Final = "evaluation.json"

# Model folder.
MODEL_JSON: Final = "model.json"
HEADS_SAFETENSORS: Final = "heads.safetensors"

# Shape and stain of a nucleus, as QuPath itself names them.
AREA: Final = "Nucleus: Area µm^2"
LENGTH: Final = "Nucleus: Length µm"
CIRCULARITY: Final = "Nucleus: Circularity"
SOLIDITY: Final = "Nucleus: Solidity"
MAX_DIAMETER: Final = "Nucleus: Max diameter µm"
MIN_DIAMETER: Final = "Nucleus: Min diameter µm"
HEMATOXYLIN_MEAN: Final = "Nucleus: Hematoxylin OD mean"
EOSIN_MEAN: Final = "Nucleus: Eosin OD mean"
DETECTION_PROBABILITY: Final = "Detection probability"

# Columns of the tables (Parquet, ``obs``) for the measurements above.
TABLE_COLUMN: Final[dict[str, str]] = {
    AREA: "nucleus_area_um2",
    LENGTH: "nucleus_length_um",
    CIRCULARITY: "nucleus_circularity",
    SOLIDITY: "nucleus_solidity",
    MAX_DIAMETER: "nucleus_max_diameter_um",
    MIN_DIAMETER: "nucleus_min_diameter_um",
    HEMATOXYLIN_MEAN: "nucleus_hematoxylin_od_mean",
    EOSIN_MEAN: "nucleus_eosin_od_mean",
    DETECTION_PROBABILITY: "detection_probability",
    OOD_SCORE: "ood_score",
    OUTSIDE_TRAINING: "outside_training",
}


def gene_measurement(gene: str, quantity: str) -> str:
    """QuPath measurement of one gene, for example ``STimage: ERBB2: aleatoric SD``.

    Parameters
    ----------
    gene
        Gene symbol as the panel writes it.
    quantity
        ``mean``, ``aleatoric SD``, ``epistemic SD``, ``p05``, ``p95`` or ``attribution``.
    """
    return f"{PREFIX}{gene}: {quantity}"


def gene_column(gene: str, quantity: str) -> str:
    """Table column of one gene, for example ``ERBB2_aleatoric_sd``."""
    return f"{gene}_{quantity.lower().replace(' ', '_')}"


def research_use(patients: int) -> str:
    """Return the sentence that every output shows, for a model trained on ``patients`` patients."""
    return RESEARCH_USE.format(patients=patients, patient_word="patient" if patients == 1 else "patients")
