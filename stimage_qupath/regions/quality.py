"""How good a slide is to look at: focus, tissue and pen, place by place and for the slide as a whole.

After HistoQC (A. Janowczyk et al., JCO Clinical Cancer Informatics 3:1-7, 2019, doi 10.1200/CCI.18.00157), with
measures that need no training: the share of fine detail in hematoxylin for focus, and colours that no mixture of
hematoxylin and eosin has for pen. Bubbles and folds are not looked for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stimage_qupath.names import BLUR, PEN, TISSUE_FRACTION
from stimage_qupath.regions.coarse_view import COARSE_MPP, coarse_view
from stimage_qupath.regions.tissue_mask import ink_mask, tissue_mask
from stimage_qupath.results import Cells
from stimage_qupath.slide.base import Slide
from stimage_qupath.slide.stain import hematoxylin_eosin

BLUR_MPP: Final = 2.0
"""Pixel size at which focus is measured; an image of larger pixels has no measure of it."""
WINDOW_UM: Final = 100.0
"""Side of the square that a place is judged by."""
BLUR_LIMIT: Final = 1.0
"""From here a place is out of focus."""
_LIMIT_DETAIL: Final = 0.06
"""Share of fine detail at the limit: of the windows of the softest sharp section (her2st B4) 5 % have under 0.098;
after a Gaussian of 3 um 95 % of hers, and of those of C2, C6 and CMU-1, have under 0.06."""
_DENOISE_PX: Final = 0.7
_LEAST_VARIANCE: Final = 4e-4  # of hematoxylin: less than 0.02 OD of texture has no focus to measure
_BLOCK_PX: Final = 512
_STEP_PX: Final = 10
_FIELDS: Final = 32
_LEAST_TISSUE_MM2: Final = 0.1
_MOST_PEN: Final = 0.02
_MOST_BLURRED: Final = 0.25


def blur_map(rgb: NDArray[np.uint8], *, mpp: float, window_um: float = WINDOW_UM) -> NDArray[np.float32]:
    """Return how far each window is out of focus: above 1 it is.

    The measure is the mean squared Laplacian of hematoxylin over its variance, compared with the share that a Gaussian
    of about 3 um leaves; both scale with the strength of the stain, which cancels.

    Parameters
    ----------
    rgb
        (height, width, 3) uint8 at 2 um per pixel.
    mpp
        um per pixel of ``rgb``.
    window_um
        Side of the window around each pixel.

    Returns
    -------
    numpy.ndarray
        (height, width) float32; NaN where there is nothing to focus on.

    Raises
    ------
    ValueError
        ``mpp`` is not about 2 um: the limit holds for that scale only.
    """
    if not 0.9 * BLUR_MPP <= mpp <= 1.1 * BLUR_MPP:
        msg = f"expected an image at {BLUR_MPP:g} um per pixel to measure focus, found {mpp:g}"
        raise ValueError(msg)
    stain = hematoxylin_eosin(rgb)[0]
    size = max(3, round(window_um / mpp))
    detail = ndimage.uniform_filter(ndimage.laplace(ndimage.gaussian_filter(stain, _DENOISE_PX)) ** 2, size)
    mean = ndimage.uniform_filter(stain, size)
    variance = ndimage.uniform_filter(stain**2, size) - mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        blur = _LIMIT_DETAIL * variance / detail
    return np.where(variance >= _LEAST_VARIANCE, blur, np.nan).astype(np.float32)


@dataclass(frozen=True, slots=True)
class SlideQuality:
    """What a slide is like as a whole.

    Attributes
    ----------
    tissue_mm2, tissue_share
        Area of the tissue, and its share of the image.
    pen_share
        Area of pen and dirt over that of pen, dirt and tissue.
    blurred_share
        Share of the fields looked at that are out of focus; None where none could be judged.
    fields
        How many were judged.
    """

    tissue_mm2: float
    tissue_share: float
    pen_share: float
    blurred_share: float | None
    fields: int

    def warnings(self) -> list[str]:
        """Return a sentence for each thing that makes predictions less reliable."""
        found = []
        if self.tissue_mm2 < _LEAST_TISSUE_MM2:
            found.append(
                f"only {self.tissue_mm2:.2f} mm2 of tissue was found on the slide; check the image and its scale"
            )
        if self.pen_share > _MOST_PEN:
            found.append(
                f"pen marks or dirt cover {self.pen_share:.0%} of what is not glass; nuclei beneath them are unreliable"
            )
        if self.blurred_share is not None and self.blurred_share > _MOST_BLURRED:
            found.append(
                f"{self.blurred_share:.0%} of {self.fields} fields are out of focus; scan the slide again, or leave "
                "those areas out"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return what ``run.json`` says of it."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


class QualityMap:
    """Tissue, pen and focus around any place of a slide; focus is measured block by block, where it is asked for.

    Parameters
    ----------
    slide, mpp
        Open slide and its pixel size.
    """

    def __init__(self, slide: Slide, mpp: float) -> None:
        self._slide, self._mpp = slide, mpp
        view, self._downsample = coarse_view(slide, COARSE_MPP / mpp)
        scale = mpp * self._downsample
        self.tissue = tissue_mask(view, mpp=scale, min_area_um2=0.0, max_hole_um2=0.0)
        self.ink = ink_mask(view, mpp=scale)
        size = max(1, round(WINDOW_UM / scale))
        self._tissue_share, self._ink_share = (
            ndimage.uniform_filter(mask.astype(np.float32), size, mode="constant") for mask in (self.tissue, self.ink)
        )
        self._blocks: dict[tuple[int, int], NDArray[np.float32]] = {}

    def at(self, points_px: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
        """Return ``tissue_fraction``, ``pen`` (shares of the 100 um around it) and ``blur`` of each place.

        Parameters
        ----------
        points_px
            (place, 2) x and y, level-0 px.

        Returns
        -------
        dict
            (place,) float32 each; ``blur`` is NaN where there is nothing to focus on or the pixels are too large.
        """
        rows, columns = self._tissue_share.shape
        grid = np.floor(points_px / self._downsample).astype(np.intp)
        column, row = np.clip(grid[:, 0], 0, columns - 1), np.clip(grid[:, 1], 0, rows - 1)
        tissue, pen = self._tissue_share[row, column], self._ink_share[row, column]
        return {"tissue_fraction": np.clip(tissue, 0, 1), "pen": np.clip(pen, 0, 1), "blur": self._blur(points_px)}

    def summary(self, *, seed: int = 0) -> SlideQuality:
        """Return the slide as a whole; focus from 32 places of the tissue.

        Parameters
        ----------
        seed
            Of the choice of places.
        """
        pixel_mm2 = (self._mpp * self._downsample / 1000) ** 2
        places = np.argwhere(self.tissue)[:, ::-1]
        chosen = np.random.default_rng(seed).permutation(len(places))[:_FIELDS]
        blur = self._fields(np.asarray((places[chosen] + 0.5) * self._downsample, dtype=np.float64))
        judged = blur[np.isfinite(blur)]
        stained = int(self.tissue.sum()) + int(self.ink.sum())
        return SlideQuality(
            tissue_mm2=float(self.tissue.sum() * pixel_mm2),
            tissue_share=float(self.tissue.mean()),
            pen_share=float(self.ink.sum() / stained) if stained else 0.0,
            blurred_share=float((judged > BLUR_LIMIT).mean()) if len(judged) else None,
            fields=len(judged),
        )

    @property
    def _measures_blur(self) -> bool:
        return self._mpp <= BLUR_MPP

    def _fields(self, centres_px: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the blur of a window on each centre, read on its own."""
        blur = np.full(len(centres_px), np.nan, dtype=np.float32)
        if self._measures_blur:
            step, side = BLUR_MPP / self._mpp, round(2 * WINDOW_UM / BLUR_MPP)
            for i, (x, y) in enumerate(centres_px - side * step / 2):
                field = self._slide.read_region(float(x), float(y), width=side, height=side, downsample=step)
                blur[i] = blur_map(field, mpp=BLUR_MPP)[side // 2, side // 2]
        return blur

    def _blur(self, points_px: NDArray[np.float64]) -> NDArray[np.float32]:
        blur = np.full(len(points_px), np.nan, dtype=np.float32)
        if not self._measures_blur or not len(points_px):
            return blur
        grid = np.maximum(points_px * self._mpp / BLUR_MPP, 0)
        block = np.floor(grid / _BLOCK_PX).astype(np.int64)
        inside = np.floor((grid - block * _BLOCK_PX) / _STEP_PX).astype(np.intp)
        keys, number = np.unique(block, axis=0, return_inverse=True)
        for i, (column, row) in enumerate(keys.tolist()):
            here = np.flatnonzero(number.ravel() == i)
            blur[here] = self._block(column, row)[inside[here, 1], inside[here, 0]]
        return blur

    def _block(self, column: int, row: int) -> NDArray[np.float32]:
        """Return the blur of one block, a value every 20 um, with a margin so that blocks meet without a seam."""
        if (column, row) not in self._blocks:
            margin = round(WINDOW_UM / BLUR_MPP)
            step, side = BLUR_MPP / self._mpp, _BLOCK_PX + 2 * margin
            x, y = ((index * _BLOCK_PX - margin) * step for index in (column, row))
            image = self._slide.read_region(x, y, width=side, height=side, downsample=step)
            every = slice(margin + _STEP_PX // 2, margin + _BLOCK_PX + _STEP_PX, _STEP_PX)
            self._blocks[column, row] = blur_map(image, mpp=BLUR_MPP)[every, every].copy()
        return self._blocks[column, row]


def with_quality(cells: Cells, quality: QualityMap) -> Cells:
    """Return the nuclei with tissue, pen and focus of the 100 um around each among their measurements."""
    found = quality.at(cells.centroids_px)
    columns = {TISSUE_FRACTION: "tissue_fraction", PEN: "pen", BLUR: "blur"}
    return replace(cells, measurements={**cells.measurements, **{name: found[key] for name, key in columns.items()}})
