"""The stains of a whole slide, and the slide as it looks in the stains of a model's training sections."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import ImageError, UnknownModelError
from stimage_qupath.regions.coarse_view import COARSE_MPP, coarse_view
from stimage_qupath.regions.tissue_mask import tissue_mask
from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.stain_normalisation import LEAST_PIXELS, MOST_PIXELS, Appearance, Method, Normaliser
from stimage_qupath.slide.view import SlideView


def tissue_pixels(slide: Slide, mpp: float, *, seed: int = 0) -> NDArray[np.uint8]:
    """Return pixels of all tissue of a slide at 8 um, (pixel, 3) uint8, 50,000 at the most; pen marks are no tissue.

    Parameters
    ----------
    slide, mpp
        Open slide and its pixel size.
    seed
        Of the choice.

    Raises
    ------
    ImageError
        There is too little tissue to estimate stains from.
    """
    enough = max(1.0, math.sqrt(slide.width * slide.height / (8 * LEAST_PIXELS)))
    view, downsample = coarse_view(slide, min(COARSE_MPP / mpp, enough))
    found = view[tissue_mask(view, mpp=mpp * downsample, min_area_um2=0.0, max_hole_um2=0.0)]
    if len(found) < LEAST_PIXELS:
        msg = (
            f"expected at least {LEAST_PIXELS} pixels of tissue in {slide.path.name} to normalise its stains, "
            f"found {len(found)}; use a model without stain normalisation"
        )
        raise ImageError(msg)
    if len(found) > MOST_PIXELS:
        found = found[np.random.default_rng(seed).choice(len(found), MOST_PIXELS, replace=False)]
    return found


def fit_target(pixels: Sequence[NDArray[np.uint8]], method: Method, *, seed: int = 0) -> Appearance:
    """Return the appearance of several slides together, each with the same weight.

    Parameters
    ----------
    pixels
        Of each training slide, from :func:`tissue_pixels`.
    method, seed
        As for :meth:`Appearance.of_pixels`.
    """
    number = min(map(len, pixels))
    rng = np.random.default_rng(seed)
    even = [one[rng.choice(len(one), number, replace=False)] for one in pixels]
    return Appearance.of_pixels(np.concatenate(even), method, seed=seed)


def normalised(slide: Slide, mpp: float, target: Appearance | None, *, seed: int = 0) -> Slide:
    """Return the slide as it looks in the stains of ``target``; the slide itself where there is none.

    The slide's own stains are estimated here, once, over all its tissue.
    """
    if target is None:
        return slide
    own = Appearance.of_pixels(tissue_pixels(slide, mpp, seed=seed), target.method, seed=seed)
    return NormalisedSlide(slide, Normaliser(own, target))


def target_of(card: Mapping[str, Any]) -> Appearance | None:
    """Return the stains that a model was trained in, from its card; None where it takes slides as they are.

    Raises
    ------
    UnknownModelError
        What the card says of them is damaged.
    """
    stored = card.get("stain")
    if not stored or stored.get("method") == "none":
        return None
    try:
        return Appearance.from_dict(stored)
    except (ValueError, TypeError) as error:
        msg = f"expected stains in the card of model '{card.get('name')}', found damaged ones: {error}"
        raise UnknownModelError(msg) from error


def shown_sha256(digest: str, target: Appearance | None) -> str:
    """Return the identity of an image as it is shown: its file's, or that of the file and the target's stains."""
    if target is None:
        return digest
    text = json.dumps([digest, target.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class NormalisedSlide(SlideView):
    """A slide whose every region comes in other stains; beyond its edge it stays white.

    Parameters
    ----------
    source
        Open slide; it is closed with this one.
    normaliser
        What is done to each pixel.
    """

    def __init__(self, source: Slide, normaliser: Normaliser) -> None:
        target = json.dumps(normaliser.target.to_dict(), sort_keys=True)
        change = f"stain {hashlib.sha256(target.encode()).hexdigest()}"
        mpp = None if source.mpp_x is None or source.mpp_y is None else (source.mpp_x, source.mpp_y)
        super().__init__(source, levels=source.levels, mpp_xy=mpp, change=change)
        self.normaliser = normaliser

    def read_region(self, x: float, y: float, *, width: int, height: int, downsample: float = 1.0) -> NDArray[np.uint8]:
        """Return a region in the target's stains; see :meth:`Slide.read_region`."""
        self._check_request(x, y, width, height, downsample)
        region = self._source.read_region(x, y, width=width, height=height, downsample=downsample)
        return self.normaliser.apply(region)

    def _read_inside(self, level: int, x: int, y: int, *, width: int, height: int) -> NDArray[np.uint8]:
        return self.normaliser.apply(self._source._read_inside(level, x, y, width=width, height=height))
