"""Nuclei without a network: haematoxylin threshold, then watershed on the distance to the edge.

1. Haematoxylin OD (Ruifrok & Johnston), lightly smoothed.
2. Threshold: partly the slide's (Otsu over its tissue), partly the mean of the surroundings, never
   less than 0.8 of the slide's. Specks, spurs and small holes go.
3. Relief: distance to the edge, raised where haematoxylin is dense, since touching nuclei are often paler in between.
4. Watershed from every summit; neighbouring basins whose pass lies less than 0.3 µm below the lower summit are one
   nucleus (the h-maxima of the relief, without its costly reconstruction).
5. The edge of each nucleus moves to about half-way between its inside and the ring around it.
6. What is too small, too large, too pale, far from an ellipse (folds, keratin) or bluer than the slide's nuclei (ink)
   is dropped.

Every step looks at a bounded neighbourhood, so that a block with its halo gives what the whole slide would give. The
numbers were chosen on annotated images that are free to use for that (histolytics HGSC, BSD-3; Data Science Bowl 2018,
CC0); the optimum is flat.

References
----------
Ruifrok AC, Johnston DA (2001), Anal Quant Cytol Histol 23:291-299. Otsu N (1979), IEEE Trans Syst Man Cybern 9:62-66.
Vincent L, Soille P (1991), IEEE Trans Pattern Anal Mach Intell 13:583-598.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from stimage_qupath.nuclei.basins import merged_basins
from stimage_qupath.nuclei.classical_settings import ClassicalSettings
from stimage_qupath.nuclei.ellipse import ellipse_fit
from stimage_qupath.nuclei.raster import distance_inside, opened
from stimage_qupath.nuclei.refine import refined, without_small_parts
from stimage_qupath.nuclei.sampling import tissue_samples
from stimage_qupath.results import Region
from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.stain import hematoxylin_eosin

_OUTLIERS_PERCENT: Final = 99.5  # pigment and dirt above it do not pull the threshold
_BLUE: Final = -0.1  # eosin over haematoxylin that no mixture of the two stains has, but some scanners' nuclei do
_TRUNCATE: Final = 3.0  # sigmas after which a Gaussian ends


@dataclass(frozen=True, slots=True)
class ClassicalSegmenter:
    """Stain deconvolution and watershed; needs no weights. A :class:`~stimage_qupath.nuclei.segmenter.Segmenter`."""

    settings: ClassicalSettings = field(default_factory=ClassicalSettings)
    name: str = "classical"
    mpp: float = 0.5
    halo_um: float = 40.0  # half the surroundings, and a long nucleus
    stride: int = 1

    @property
    def identity(self) -> str:
        """Return the settings as text."""
        return repr(self)

    def calibrate(self, slide: Slide, mpp: float, regions: Sequence[Region]) -> BoundClassicalSegmenter:
        """Compute the haematoxylin threshold of the slide from samples of its tissue.

        Parameters
        ----------
        slide
            Open slide.
        mpp
            Level-0 pixel size, µm.
        regions
            Not looked at: the threshold is the slide's.

        Returns
        -------
        BoundClassicalSegmenter
            Finds nothing when the slide has no tissue.
        """
        return self.calibrated_on(tissue_samples(slide, mpp=mpp, working_mpp=self.mpp))

    def calibrated_on(self, samples: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> BoundClassicalSegmenter:
        """Compute the threshold from images at the working pixel size, each with where it is stained."""
        sigma = self.settings.smoothing_um / self.mpp
        densities, eosins = [np.empty(0, dtype=np.float32)], [np.empty(0, dtype=np.float32)]
        for rgb, is_stained in samples:
            haematoxylin, eosin = hematoxylin_eosin(rgb)
            densities.append(_smoothed(haematoxylin, sigma)[is_stained])
            eosins.append(eosin[is_stained])
        density = np.concatenate(densities)
        if density.size == 0:
            return BoundClassicalSegmenter(settings=self.settings, mpp=self.mpp, threshold=np.inf, redness=0.0)
        capped = np.minimum(density, np.percentile(density, _OUTLIERS_PERCENT))
        threshold = float(threshold_otsu(capped))  # type: ignore[no-untyped-call]
        dense = density >= threshold
        return BoundClassicalSegmenter(
            settings=self.settings,
            mpp=self.mpp,
            threshold=threshold,
            redness=float(np.median(np.concatenate(eosins)[dense] / density[dense])),
        )


@dataclass(frozen=True, slots=True)
class BoundClassicalSegmenter:
    """The classical segmenter with the threshold of one slide.

    Attributes
    ----------
    settings
        Parameters.
    mpp
        Working pixel size, µm.
    threshold
        The slide's threshold, haematoxylin OD; infinite when there is no tissue.
    redness
        Eosin over haematoxylin of the slide's dense pixels.
    """

    settings: ClassicalSettings
    mpp: float
    threshold: float
    redness: float

    def label(self, rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Label the nuclei of one block; see :class:`~stimage_qupath.nuclei.segmenter.BoundSegmenter`."""
        settings, pixel_um2 = self.settings, self.mpp**2
        haematoxylin, eosin = hematoxylin_eosin(rgb)
        density = _smoothed(haematoxylin, settings.smoothing_um / self.mpp)
        surroundings = ndimage.uniform_filter(density, round(settings.surroundings_um / self.mpp), mode="nearest")
        threshold = self._local_threshold(surroundings)
        mask = self._cleaned(density > threshold)
        if not mask.any():
            return np.zeros(mask.shape, dtype=np.int32)
        relief = self._relief(mask, density=density, threshold=threshold)
        labels, contrast = refined(
            merged_basins(relief, mask, depth=settings.pass_depth_um),
            density,
            surroundings=surroundings,
            edge_level=settings.edge_level,
            reach_px=settings.edge_reach_um / self.mpp,
            hole_px=settings.largest_hole_um2 / pixel_um2,
        )
        distinct = contrast >= settings.least_contrast * self.threshold
        nucleus = distinct & self._plausible(labels, size=len(contrast), haematoxylin=haematoxylin, eosin=eosin)
        return np.where(nucleus[labels], labels, np.int32(0))

    def _local_threshold(self, surroundings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the threshold of every pixel."""
        weight = np.float32(self.settings.surroundings_weight)
        mixed = (1 - weight) * np.float32(self.threshold) + weight * surroundings
        return np.asarray(np.maximum(mixed, np.float32(self.settings.least_of_slide * self.threshold)))

    def _cleaned(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask without spurs, small holes and specks (of less than half the least area)."""
        pixel_um2 = self.mpp**2
        mask = opened(mask)
        mask = ~without_small_parts(~mask, self.settings.largest_hole_um2 / pixel_um2)
        return without_small_parts(mask, self.settings.least_area_um2 / 2 / pixel_um2)

    def _relief(
        self, mask: NDArray[np.bool_], *, density: NDArray[np.float32], threshold: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return heights whose summits are nuclei, µm; 0 outside the mask."""
        distance = distance_inside(mask) * np.float32(self.mpp)
        distance = ndimage.gaussian_filter(distance, 1.0, truncate=_TRUNCATE)  # one pixel: no plateaus
        sigma = self.settings.density_smoothing_um / self.mpp
        excess = ndimage.gaussian_filter(density, sigma, truncate=_TRUNCATE) / threshold - 1
        relief = distance * (1 + np.float32(self.settings.density_weight) * np.clip(excess, 0, 2))
        return np.asarray(np.where(mask, relief, np.float32(0)))

    def _plausible(
        self, labels: NDArray[np.int32], *, size: int, haematoxylin: NDArray[np.float32], eosin: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Return which of the labels below ``size`` can be nuclei, (size,) bool."""
        settings = self.settings
        label = labels.ravel()
        area_um2 = np.bincount(label, minlength=size) * self.mpp**2
        blue, red = (np.bincount(label, stain.ravel(), minlength=size) for stain in (haematoxylin, eosin))
        sized = (settings.least_area_um2 <= area_um2) & (area_um2 <= settings.most_area_um2)
        round_enough = ellipse_fit(labels, size=size) >= settings.least_ellipse_fit
        bluest = min(self.redness - settings.most_bluer, _BLUE)
        return np.asarray(sized & round_enough & (red >= bluest * blue))


def _smoothed(haematoxylin: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(np.maximum(haematoxylin, 0), sigma_px, truncate=_TRUNCATE))
