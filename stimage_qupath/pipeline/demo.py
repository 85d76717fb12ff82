"""A first run without any file of one's own: an H&E image that an installed package carries."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from stimage_qupath.config import PredictSettings
from stimage_qupath.names import CELLS_GEOJSON
from stimage_qupath.pipeline import predict
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress

ASSUMED_MPP = 0.5
"""The image states no pixel size; at 0.5 um its nuclei measure 8 to 9 um, as such nuclei do."""
IMAGE_NAME = "demo_h_and_e.jpg"
RUN_NAME = "prediction"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where the demo left its files.

    Attributes
    ----------
    image
        Copy of the image, to open in QuPath.
    geojson
        What is dragged onto it.
    record
        As :func:`stimage_qupath.pipeline.predict.run` returns it.
    """

    image: Path
    geojson: Path
    record: dict[str, Any]


def run(
    output: Path,
    *,
    force: bool = False,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> DemoResult:
    """Predict the starter's genes on the 500 x 300 px image of the ``stardist`` package, beside a copy of it.

    Parameters
    ----------
    output
        Folder for the copy and the run.
    force
        Replace an earlier demo run there.
    on_progress, cancelled
        As for every flow.
    """
    image = output / IMAGE_NAME
    record = predict.run(
        PredictSettings(image=_packaged_image(), output=output / RUN_NAME, mpp=ASSUMED_MPP, force=force),
        on_progress,
        cancelled,
    )
    shutil.copyfile(_packaged_image(), image)
    return DemoResult(image=image, geojson=output / RUN_NAME / CELLS_GEOJSON, record=record)


def _packaged_image() -> Path:
    return Path(str(resources.files("stardist") / "data" / "images" / "histo.jpg"))
