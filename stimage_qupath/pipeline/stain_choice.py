"""Which stains a model is trained in: one that the user names, or the one that the inner split says is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, cast

import numpy as np

from stimage_qupath.errors import MissingPartError
from stimage_qupath.regions.stain_overview import fit_target, tissue_pixels
from stimage_qupath.results import CancelCheck, Panel, no_progress, stop_if
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.stain_normalisation import METHODS, Appearance, Method
from stimage_qupath.spots.residuals import column_pearson, pearson_residuals
from stimage_qupath.spots.section import Section
from stimage_qupath.training.dataset import EncodedSection
from stimage_qupath.training.recipe import Recipe, Trained, train_ensemble

NONE: Final = "none"
AUTO: Final = "auto"
_MEMBERS: Final = 2  # the score is that of the folds, which members do not enter


class Encode(Protocol):
    """Sections to features, in the stains of a target."""

    def __call__(self, sections: Sequence[Section], /, *, stain: Appearance | None) -> list[EncodedSection]:
        """Return the features of each section."""
        ...


@dataclass(frozen=True, slots=True)
class StainChoice:
    """What was chosen, and why.

    Attributes
    ----------
    target
        Stains of the training sections together, or None where slides stay as they are.
    tried
        Out-of-fold ``pcc_residual`` of each method, where several were tried.
    left_out
        Methods that could not be tried.
    """

    target: Appearance | None
    tried: dict[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return what the model card says."""
        stored: dict[str, Any] = {"method": NONE} if self.target is None else self.target.to_dict()
        if self.tried:
            stored["tried"] = {name: round(score, 4) for name, score in self.tried.items()}
        if self.left_out:
            stored["left_out"] = list(self.left_out)
        return stored


def choose_stain(
    word: str, training: Sequence[Section], panel: Panel, *, encode: Encode, recipe: Recipe, cancelled: CancelCheck
) -> StainChoice:
    """Return the target that ``--stain-normalisation`` asks for, fitted on training sections only.

    Parameters
    ----------
    word
        ``none``, a method, or ``auto``: each method and none are tried, and one is taken only if the inner split over
        the training sections scores it above none.
    training, panel
        Training sections and genes.
    encode
        How sections become features.
    recipe
        How the ensemble will be fitted; its seed is also that of pixel samples and dictionary learning.
    cancelled
        Asked between methods.

    Raises
    ------
    MissingPartError
        ``macenko`` without its package; ``auto`` then tries the others.
    """
    if word == NONE:
        return StainChoice(None)
    seed = recipe.seed
    pixels = [_pixels(section, seed) for section in training]
    if word != AUTO:
        return StainChoice(fit_target(pixels, cast(Method, word), seed=seed))
    targets: dict[str, Appearance | None] = {NONE: None}
    left_out = []
    for method in METHODS:
        try:
            targets[method] = fit_target(pixels, method, seed=seed)
        except MissingPartError as error:
            left_out.append(f"{method}: {error}")
    tried = {}
    trial = replace(recipe, members=max(_MEMBERS, len(recipe.blocks)), recalibration="none")
    for name, target in targets.items():
        stop_if(cancelled)
        encoded = encode(training, stain=target)
        trained = train_ensemble(encoded, panel, trial, on_progress=no_progress, cancelled=cancelled)
        tried[name] = _out_of_fold_score(encoded, trained)
    best = max(tried, key=lambda name: tried[name])  # none comes first, so that a tie leaves slides as they are
    return StainChoice(targets[best], tried, tuple(left_out))


def _out_of_fold_score(encoded: Sequence[EncodedSection], trained: Trained) -> float:
    """Return ``pcc_residual`` of predictions that did not see their section, mean over genes, then sections."""
    scores = []
    for one, mean in zip(encoded, trained.out_of_fold, strict=True):
        counts = one.section.counts_of(trained.ensemble.panel.genes)
        residual = pearson_residuals(counts, one.section.totals, trained.rates)
        scores.append(np.nanmean(column_pearson(residual, np.log(mean.astype(np.float64)))))
    return float(np.mean(scores))


def _pixels(section: Section, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with open_slide(section.image) as slide:
        mpp = slide_pixel_size(slide, section.mpp, what=f"the image of section {section.name}")
        return tissue_pixels(slide, mpp, seed=seed)
