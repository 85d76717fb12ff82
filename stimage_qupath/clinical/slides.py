"""Slides of a patient -> the patient: by area, alike, or the largest alone.

Several slides of a patient: ``area`` weights each by the area of the tissue that was analysed, ``mean`` weights all
alike, ``largest`` takes the one with most tissue. The same model looked at all of them, so that the epistemic parts add
up as SDs (``sum w_s e_s``), while the scatter of counts is another one on each slide (``sum w_s^2 a_s``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.pseudobulk import Pseudobulk

Float = NDArray[np.float64]
Combine: TypeAlias = Literal["area", "mean", "largest"]

RULES: dict[Combine, str] = {
    "area": "slides of a patient are weighted by the area of the tissue that was analysed",
    "mean": "slides of a patient count alike",
    "largest": "of the slides of a patient, the one with the largest area of analysed tissue is taken",
}


@dataclass(frozen=True, slots=True)
class Slide:
    """One slide of a cohort.

    Attributes
    ----------
    name
        Of the image.
    names
        What a clinical table may call it: file name with and without ending, folder of the run.
    run
        Folder of the run.
    bulk
        Its expression.
    area_mm2
        Group of ``bulk`` to the area of tissue that was analysed of it, mm^2.
    outside_training, tissue_fraction
        Share of nuclei outside training, and mean share of tissue around them; NaN where unknown.
    member_scores
        Signature to (member,) mean score over the nuclei, where the run has them.
    """

    name: str
    names: frozenset[str]
    run: str
    bulk: Pseudobulk
    area_mm2: Mapping[str, float]
    outside_training: float
    tissue_fraction: float
    member_scores: Mapping[str, Float]


@dataclass(frozen=True, slots=True)
class Combined:
    """One patient's expression in one group of nuclei.

    Attributes
    ----------
    mean, sd
        (gene,) counts; NaN where no slide has the group.
    nuclei
        Of the slides taken.
    weights
        (slide,) that add up to 1; 0 for slides not taken.
    """

    mean: Float
    sd: Float
    nuclei: int
    weights: Float


def combine(slides: Sequence[Slide], group: str, rule: Combine) -> Combined:
    """Combine the slides of a patient; those without nuclei of the group do not count."""
    row = [slide.bulk.groups.index(group) if group in slide.bulk.groups else None for slide in slides]
    area = np.array([slide.area_mm2.get(group, 0.0) for slide in slides])
    there = np.array([r is not None and slide.bulk.nuclei[r] > 0 for r, slide in zip(row, slides, strict=True)])
    weights = slide_weights(area, there, rule)
    genes = slides[0].bulk.mean.shape[1]
    if not weights.any():
        nothing = np.full(genes, np.nan)
        return Combined(nothing, nothing, 0, weights)
    mean, epistemic, aleatoric, nuclei = np.zeros(genes), np.zeros(genes), np.zeros(genes), 0
    for w, r, slide in zip(weights, row, slides, strict=True):
        if w and r is not None:
            mean += w * slide.bulk.mean[r]
            epistemic += w * slide.bulk.epistemic_sd[r]
            aleatoric += w**2 * slide.bulk.aleatoric[r]
            nuclei += int(slide.bulk.nuclei[r])
    return Combined(mean, np.sqrt(epistemic**2 + aleatoric), nuclei, weights)


def slide_weights(area_mm2: Float, there: NDArray[np.bool_], rule: Combine) -> Float:
    """Return the weight of each slide, (slide,); they add up to 1, or are all 0 where no slide is there."""
    if rule == "largest":
        weights = np.zeros(len(area_mm2))
        if there.any():
            weights[int(np.argmax(np.where(there, area_mm2, -1.0)))] = 1.0
        return weights
    weights = there.astype(np.float64) * (area_mm2 if rule == "area" else 1.0)
    return np.asarray(weights / weights.sum() if weights.any() else weights)
