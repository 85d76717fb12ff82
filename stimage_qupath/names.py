"""Every string that leaves the package: files, measurements, columns."""

from __future__ import annotations

import re
from typing import Final

PREFIX: Final = "STimage: "
OBJECT_VERSION: Final = f"{PREFIX}object version"
OBJECT_VERSION_VALUE: Final = 1.0
OOD_SCORE: Final = f"{PREFIX}OOD score"
OUTSIDE_TRAINING: Final = f"{PREFIX}outside training"
TISSUE_FRACTION: Final = f"{PREFIX}tissue fraction"
PEN: Final = f"{PREFIX}pen"
BLUR: Final = f"{PREFIX}blur"

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
LOCK_SUFFIX: Final = ".lock"
REPLACED_SUFFIX: Final = ".old"

# What people and files call things, where it becomes a part of a path.
_NOT_IN_FILES: Final = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
"""Some file system refuses them; gene symbols such as ``HLA-A/B`` occur."""
_NOT_IN_FOLDERS: Final = re.compile(r"[^\w.-]+")
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Windows opens a device where it reads one of these, with any suffix."""
MOST_NAME_BYTES: Final = 120
"""File systems take 255, of which our prefixes and suffixes need some."""

# Evaluation folder.
EVALUATION_JSON: Final = "evaluation.json"
EVALUATION_HTML: Final = "evaluation.html"
GENES_CSV: Final = "genes.csv"

# Model folder.
MODEL_JSON: Final = "model.json"
HEADS_SAFETENSORS: Final = "heads.safetensors"
ENCODER_SAFETENSORS: Final = "encoder.safetensors"

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

# The same of a whole cell, where there is one.
CELL_SHAPES: Final[dict[str, str]] = {
    name: name.replace("Nucleus: ", "Cell: ")
    for name in (AREA, LENGTH, CIRCULARITY, SOLIDITY, MAX_DIAMETER, MIN_DIAMETER)
}
AREA_RATIO: Final = "Nucleus/Cell area ratio"

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
    CELL_SHAPES[AREA]: "cell_area_um2",
    CELL_SHAPES[LENGTH]: "cell_length_um",
    CELL_SHAPES[CIRCULARITY]: "cell_circularity",
    CELL_SHAPES[SOLIDITY]: "cell_solidity",
    CELL_SHAPES[MAX_DIAMETER]: "cell_max_diameter_um",
    CELL_SHAPES[MIN_DIAMETER]: "cell_min_diameter_um",
    AREA_RATIO: "nucleus_cell_area_ratio",
    DETECTION_PROBABILITY: "detection_probability",
    OOD_SCORE: "ood_score",
    OUTSIDE_TRAINING: "outside_training",
    TISSUE_FRACTION: "tissue_fraction",
    PEN: "pen",
    BLUR: "blur",
}


def in_file_name(text: str) -> str:
    """Return ``text`` as a part of a file's name: characters no file name may hold are ``_``, too long ones are cut."""
    return _cut(_NOT_IN_FILES.sub("_", text))


def folder_name(text: str) -> str:
    """Return ``text`` as the name of a folder beside others of ours, on any system: no way out, no device."""
    name = _cut(_NOT_IN_FOLDERS.sub("_", text)).strip(".")
    if not name or _DEVICES.fullmatch(name):
        return f"_{name}"
    ours = (RUN_JSON, PARTIAL_SUFFIX, BLOCKS_SUFFIX, EXPLAINING_SUFFIX)
    return f"{name}_" if name.casefold().endswith(ours) else name


def _cut(text: str) -> str:
    return text.encode()[:MOST_NAME_BYTES].decode(errors="ignore")


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


# Attribution, in a run folder.
ATTRIBUTION_JSON: Final = "attribution.json"
ATTRIBUTION_PNG: Final = "attribution_{what}.png"
ATTRIBUTION_BACKGROUND: Final = "attribution_background.parquet"
EXPLAINING_SUFFIX: Final = ".explaining"
"""Beside a run folder while it is explained: finished blocks, so that an interrupted explanation can go on."""
BLOCKS_SUFFIX: Final = ".blocks"
"""Beside a run folder while it is made: finished blocks, so that an interrupted run can go on."""
FAITHFUL_TO_MODEL: Final = "Faithful to the model, not evidence of biology."
"""Stands wherever an attribution is shown."""

# Validation folder.
VALIDATION_JSON: Final = "validation.json"
VALIDATION_HTML: Final = "validation.html"
AGREEMENT: Final = "Agreement with the annotations given; labels from expression clusters are not pathology."
"""Stands wherever predictions are held against annotations."""

# Signatures, in QuPath and in the tables.
SCORE: Final = "score"
SCORE_SD: Final = "score SD"
SCORE_EPISTEMIC_SD: Final = "score epistemic SD"


def signature_measurement(signature: str, quantity: str) -> str:
    """QuPath measurement of a signature, for example ``STimage: Fibroblasts: score SD``."""
    return f"{PREFIX}{signature}: {quantity}"


# Report and spatial statistics, in a run folder.
REPORT_HTML: Final = "report.html"
SPATIAL_JSON: Final = "spatial.json"
LATENT_PNG: Final = "latent_{what}.png"
LATENT_PARQUET: Final = "latent.parquet"

# Cell types, neighbourhoods and tissue regions, in QuPath and in the tables.
CELL_TYPE_CARD: Final = "Research use only. Predicted from H&E; labels of training are not ground truth."
_TYPE_WORDS: Final = {"nucleus": "Cell type", "neighbourhood": "Neighbourhood", "region": "Region"}
_TYPE_MEASUREMENT: Final = re.compile(r"STimage: (Cell type|Neighbourhood|Region): (.+): (probability|proportion)")


def type_quantity(level: str) -> str:
    """Return what a model of ``level`` (nucleus, neighbourhood, region) gives of each class."""
    return "proportion" if level == "neighbourhood" else "probability"


def type_measurement(level: str, name: str | None, quantity: str) -> str:
    """QuPath measurement of a class, ``STimage: Cell type: Immune: probability``, or ``STimage: Cell type: entropy``.

    Parameters
    ----------
    level
        ``nucleus``, ``neighbourhood`` or ``region``.
    name
        Of the class; None for what is said of all together.
    quantity
        ``probability``, ``proportion``, ``entropy`` or ``mutual information``.
    """
    middle = "" if name is None else f"{name}: "
    return f"{PREFIX}{_TYPE_WORDS[level]}: {middle}{quantity}"


def type_column(measurement: str) -> str | None:
    """Table column of a class, ``cell_type_probability_Immune``; None for any other measurement.

    Letters and digits of the class stay as they are; whatever else, which a file of tables may not hold, becomes ``_``.
    """
    found = _TYPE_MEASUREMENT.fullmatch(measurement)
    if found is None:
        return None
    word, name, quantity = found.groups()
    return f"{word.lower().replace(' ', '_')}_{quantity}_{re.sub(r'[^0-9A-Za-z]+', '_', name).strip('_')}"


# Survival folder.
SURVIVAL_JSON: Final = "survival.json"
SURVIVAL_HTML: Final = "survival.html"
RISKS_CSV: Final = "risks.csv"
UNTESTED_CLINICALLY: Final = (
    "Research use only. Clinical use of predicted expression is untested: no public slides with outcomes were at hand."
)
"""Stands wherever predicted expression meets an outcome."""

# Drug-response folder.
DRUG_RESPONSE_JSON: Final = "drug_response.json"
DRUG_RESPONSE_HTML: Final = "drug_response.html"
PREDICTIONS_CSV: Final = "predictions.csv"
COEFFICIENTS_CSV: Final = "coefficients.csv"
