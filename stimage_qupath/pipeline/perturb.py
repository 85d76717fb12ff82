"""A model under changed images: how its figures hold, and whether it notices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from numpy.typing import NDArray

from stimage_qupath.config import EvaluateSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.models.encoders import Encoder
from stimage_qupath.models.ensemble import Ensemble
from stimage_qupath.pipeline.score import Case, level_map_of, mixture_of
from stimage_qupath.prediction.device import default_batch_size
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.regions.stain_overview import normalised
from stimage_qupath.regions.tissue import find_tissue
from stimage_qupath.results import CancelCheck, ProgressCallback, stop_if
from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.stain_normalisation import Appearance
from stimage_qupath.validation.calibration import coverage, randomised_pit
from stimage_qupath.validation.expression import Scorer
from stimage_qupath.validation.ood import LIMIT, detection
from stimage_qupath.validation.perturbation import Perturbation, PerturbedSlide, perturbations
from stimage_qupath.validation.predictive import cumulative

TILES_AN_IMAGE = 200
LEAST_STRIDE_UM = 50.0


def perturb(
    settings: EvaluateSettings,
    cases: Sequence[Case],
    encoder: Encoder,
    device: torch.device,
    stain: Appearance | None,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> dict[str, Any]:
    """Return each section's figures under each change, and how well the changes are noticed.

    Negatives are the section's own tiles as they are; spots whose centre is no tissue count nowhere.
    """
    changes = [change for kind in settings.perturb for change in perturbations(kind)]
    reader = _Reader(encoder, device, settings, stain, cancelled)
    total = len(cases) * (len(changes) + len(settings.other_tissue))
    found: dict[str, Any] = {}
    foreign: dict[str, NDArray[np.float32]] = {}
    for number, case in enumerate(cases):
        name = case.encoded.section.name
        with open_slide(case.encoded.section.image) as slide:
            tissue = _on_tissue(slide, case)
            negatives = _scores(case.ensemble, case.encoded.features[tissue])
            section: dict[str, Any] = {"as it is": _figures(settings, case, case.encoded.features)}
            for step, change in enumerate(changes):
                stop_if(cancelled)
                on_progress("perturb", number * (total // len(cases)) + step, total, f"{name}: {change.name}")
                features = reader.changed(slide, case, change)
                section[change.name] = {
                    "kind": change.kind,
                    "strongest": change.strongest,
                    **_figures(settings, case, features),
                    **detection(negatives, _scores(case.ensemble, features[tissue])),
                }
        for image in settings.other_tissue:
            if image not in foreign:
                foreign[image] = reader.other(image)
            positives = _scores(case.ensemble, foreign[image])
            section[f"other tissue: {_path_and_mpp(image)[0].name}"] = {
                "kind": "other tissue",
                "strongest": True,
                **detection(negatives, positives),
            }
        found[name] = section
    on_progress("perturb", total, total, "")
    return found


class _Reader:
    """Features of changed and of foreign images."""

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        settings: EvaluateSettings,
        stain: Appearance | None,
        cancelled: CancelCheck,
    ) -> None:
        self.encoder, self.stain = encoder, stain
        self.how: dict[str, Any] = {
            "device": device,
            "batch_size": settings.batch_size or default_batch_size(device),
            "threads": settings.threads,
            "cancelled": cancelled,
        }

    def changed(self, slide: Slide, case: Case, change: Perturbation) -> NDArray[np.float32]:
        """Return the features of a section's spots on its changed image."""
        mpp = case.encoded.mpp
        view = slide if change.change is None else PerturbedSlide(slide, change, mpp=mpp)
        points = case.encoded.section.positions_px
        # A pixel that is said to be larger than it is makes everything look larger in the encoder's window.
        shown = normalised(view, mpp, self.stain)
        return encode_points(shown, mpp * change.scale, points, self.encoder, **self.how)

    def other(self, image: str) -> NDArray[np.float32]:
        """Return the features of tiles on a grid over the tissue of an image."""
        path, mpp = _path_and_mpp(image)
        with open_slide(path) as slide:
            size = slide_pixel_size(slide, mpp)
            points = _grid(slide, size)
            return encode_points(normalised(slide, size, self.stain), size, points, self.encoder, **self.how)


def _path_and_mpp(image: str) -> tuple[Path, float | None]:
    """Split ``PATH`` or ``PATH=MPP``."""
    path, _, mpp = image.rpartition("=")
    try:
        return (Path(path), float(mpp)) if path else (Path(image), None)
    except ValueError as error:
        msg = f"expected other tissue as PATH or PATH=MPP, found '{image}'"
        raise UsageError(msg) from error


def _grid(slide: Slide, mpp: float) -> NDArray[np.float64]:
    """Return points on tissue, (place, 2) level-0 px, at most :data:`TILES_AN_IMAGE`."""
    pieces = find_tissue(slide, mpp)
    if not pieces:
        msg = f"expected tissue in {slide.path.name}, found none; leave the image out of --other-tissue"
        raise UsageError(msg)
    tissue = shapely.union_all([piece.geometry for piece in pieces])
    stride = max(math.sqrt(tissue.area / TILES_AN_IMAGE), LEAST_STRIDE_UM / mpp)
    x, y = np.meshgrid(np.arange(stride / 2, slide.width, stride), np.arange(stride / 2, slide.height, stride))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    return np.asarray(points[shapely.contains_xy(tissue, points[:, 0], points[:, 1])][:TILES_AN_IMAGE])


def _on_tissue(slide: Slide, case: Case) -> NDArray[np.bool_]:
    """Return which spots have their centre on tissue, (spot,)."""
    tissue = shapely.union_all([piece.geometry for piece in find_tissue(slide, case.encoded.mpp)])
    points = case.encoded.section.positions_px
    return np.asarray(shapely.contains_xy(tissue, points[:, 0], points[:, 1]))


def _scores(ensemble: Ensemble, features: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Return what could tell that a tile is foreign."""
    return {
        "ood_score": ensemble.outliers(ensemble.heads.standardise(features)).astype(np.float64),
        "epistemic_log_sd": mixture_of(ensemble, features).epistemic_log_sd.mean(axis=1),
    }


def _figures(settings: EvaluateSettings, case: Case, features: NDArray[np.float32]) -> dict[str, Any]:
    """Return what is left of the model's figures."""
    mixture = mixture_of(case.ensemble, features)
    scorer = Scorer(case.measured, case.rates, case.reference_total, settings.replicates, settings.seed)
    at, below = cumulative(mixture.at_depth(case.size), case.measured.counts, level_map=level_map_of(case.ensemble))
    point = scorer.point(mixture.expected)
    ood = case.ensemble.outliers(case.ensemble.heads.standardise(features))
    return {
        "pcc_residual_mean": point["pcc_residual_mean"].to_dict(),
        "pcc_partial_depth_mean": point["pcc_partial_depth_mean"].to_dict(),
        "coverage": coverage(randomised_pit(at, below, seed=settings.seed)),
        "outside_training": float((ood > LIMIT).mean()),
    }
