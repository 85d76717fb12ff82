"""What a flow is asked to do: frozen settings that refuse nonsense at birth, to and from JSON."""

from stimage_qupath.config.base import Settings
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
from stimage_qupath.config.evaluate import EvaluateSettings
from stimage_qupath.config.explain import ExplainSettings
from stimage_qupath.config.predict import PredictSettings, ProjectSettings, SegmentSettings
from stimage_qupath.config.train import TrainNucleiSettings, TrainSettings
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
    "EvaluateSettings",
    "ExplainSettings",
    "Likelihood",
    "Measurements",
    "Precision",
    "PredictSettings",
    "ProjectSettings",
    "Recalibrate",
    "SegmentSettings",
    "Settings",
    "TrainNucleiSettings",
    "TrainSettings",
    "Unit",
    "ValidateSettings",
]
