"""What a flow is asked to do: frozen settings that refuse nonsense at birth, to and from JSON."""

from stimage_qupath.config.base import Settings
from stimage_qupath.config.bench import BenchSettings
from stimage_qupath.config.choices import (
    BUNDLED,
    DEVICES,
    HE,
    MOST_AGGREGATE_UM,
    MOST_EXPANSION_UM,
    PERTURBATIONS,
    SEGMENTERS,
    STAIN_NORMALISATIONS,
    STARDIST,
    STARTER,
    Likelihood,
    Measurements,
    Precision,
    Recalibrate,
    Unit,
)
from stimage_qupath.config.cohort import CohortSettings
from stimage_qupath.config.evaluate import EvaluateSettings
from stimage_qupath.config.explain import ExplainSettings
from stimage_qupath.config.export import ExportSettings
from stimage_qupath.config.latent import LatentSettings
from stimage_qupath.config.predict import PredictSettings, ProjectSettings, SegmentSettings, SeveralSettings
from stimage_qupath.config.report import ReportSettings
from stimage_qupath.config.slides import SlidesSettings
from stimage_qupath.config.train import TrainNucleiSettings, TrainSettings
from stimage_qupath.config.train_cell_types import TrainCellTypesSettings
from stimage_qupath.config.validate import ValidateSettings

__all__ = [
    "BUNDLED",
    "DEVICES",
    "HE",
    "MOST_AGGREGATE_UM",
    "MOST_EXPANSION_UM",
    "PERTURBATIONS",
    "SEGMENTERS",
    "STAIN_NORMALISATIONS",
    "STARDIST",
    "STARTER",
    "BenchSettings",
    "CohortSettings",
    "EvaluateSettings",
    "ExplainSettings",
    "ExportSettings",
    "LatentSettings",
    "Likelihood",
    "Measurements",
    "Precision",
    "PredictSettings",
    "ProjectSettings",
    "Recalibrate",
    "ReportSettings",
    "SegmentSettings",
    "Settings",
    "SeveralSettings",
    "SlidesSettings",
    "TrainCellTypesSettings",
    "TrainNucleiSettings",
    "TrainSettings",
    "Unit",
    "ValidateSettings",
]
