"""The classical segmenter on slides: one threshold a slide, nothing on glass, no ink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import shapely

from stimage_qupath.nuclei.classical import ClassicalSegmenter
from stimage_qupath.nuclei.classical_settings import ClassicalSettings
from stimage_qupath.nuclei.sampling import tissue_samples
from stimage_qupath.results import Region
from stimage_qupath.slide.stain import hematoxylin_eosin

TISSUE, NUCLEUS, INK = (232, 190, 214), (92, 60, 150), (20, 110, 110)


@pytest.fixture(scope="module")
def discs() -> np.ndarray[Any, Any]:
    """Return 16 discs of 5 um radius on 256 um, for a pixel of 0.5 um."""
    x, y = np.meshgrid(np.arange(4) * 120.0 + 70, np.arange(4) * 120.0 + 70)
    return np.column_stack([x.ravel(), y.ravel(), np.full(16, 10.0)])


def od(rgb: tuple[int, int, int]) -> float:
    return float(hematoxylin_eosin(np.array([[rgb]], np.uint8))[0][0, 0])


def test_the_threshold_lies_between_tissue_and_nuclei(disc_slide: Callable[..., Any], discs: Any) -> None:
    bound = ClassicalSegmenter().calibrate(disc_slide(512, 512, 0.5, discs), 0.5, [])
    assert od(TISSUE) < bound.threshold < od(NUCLEUS)


def test_the_threshold_does_not_depend_on_the_regions(disc_slide: Callable[..., Any], discs: Any) -> None:
    slide = disc_slide(512, 512, 0.5, discs)
    corner = Region(id="corner", geometry=shapely.box(0, 0, 60, 60))
    assert ClassicalSegmenter().calibrate(slide, 0.5, [corner]) == ClassicalSegmenter().calibrate(slide, 0.5, [])


def test_every_disc_is_labelled_with_its_area(disc_slide: Callable[..., Any], discs: Any) -> None:
    slide = disc_slide(512, 512, 0.5, discs)
    labels = ClassicalSegmenter().calibrate(slide, 0.5, []).label(slide.pixels)
    assert labels.dtype == np.int32
    pixels = np.bincount(labels.ravel())[1:]
    pixels = pixels[pixels > 0]
    assert len(pixels) == 16
    assert pixels == pytest.approx(np.full(16, np.pi * 100), rel=0.12)


def test_touching_discs_are_two(disc_slide: Callable[..., Any]) -> None:
    slide = disc_slide(300, 200, 0.5, np.array([[100, 100, 11], [119, 100, 11], [220, 60, 11]]))
    labels = ClassicalSegmenter().calibrate(slide, 0.5, []).label(slide.pixels)
    assert len({labels[100, 98], labels[100, 121], labels[60, 220], 0}) == 4


def test_glass_has_no_nuclei(array_slide: Callable[..., Any]) -> None:
    slide = array_slide(np.full((400, 400, 3), 250, np.uint8), 0.5)
    bound = ClassicalSegmenter().calibrate(slide, 0.5, [])
    assert bound.threshold == np.inf
    assert not bound.label(slide.pixels).any()


def test_marking_ink_is_no_nucleus(disc_slide: Callable[..., Any], discs: Any) -> None:
    slide = disc_slide(512, 512, 0.5, discs)
    row, col = np.mgrid[:512, :512] + 0.5
    slide.pixels[np.hypot(row - 130, col - 130) < 10] = INK
    labels = ClassicalSegmenter().calibrate(slide, 0.5, []).label(slide.pixels)
    assert labels[130, 130] == 0
    assert labels[70, 70] > 0


def test_specks_and_folds_are_no_nuclei(disc_slide: Callable[..., Any], discs: Any) -> None:
    slide = disc_slide(512, 512, 0.5, discs)
    slide.pixels[126:131, 126:131] = NUCLEUS  # 6 um2
    slide.pixels[240:260, 128:380] = NUCLEUS  # 10 x 126 um
    labels = ClassicalSegmenter().calibrate(slide, 0.5, []).label(slide.pixels)
    assert labels[128, 128] == 0
    assert labels[250, 130:378].max() == 0


def test_samples_are_spread_over_the_tissue_alone(array_slide: Callable[..., Any]) -> None:
    pixels = np.full((600, 6000, 3), 250, np.uint8)  # 4 um: 2.4 x 24 mm
    pixels[:, 1000:2000] = pixels[:, 4000:5000] = TISSUE
    slide = array_slide(pixels, 4.0)
    samples = list(tissue_samples(slide, mpp=4.0, working_mpp=2.0))
    assert 0 < len(samples) <= 64
    assert all(rgb.shape == (64, 64, 3) and is_stained.mean() > 0 for rgb, is_stained in samples)
    corners = np.array([x for x, _ in slide.reads[1:]])
    assert ((corners > 900) & (corners < 2000)).sum() == pytest.approx(len(samples) / 2, abs=8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"smoothing_um": -1.0}, r"expected smoothing_um of at least 0, found -1\.0"),
        ({"most_area_um2": float("nan")}, "expected most_area_um2 of at least 0, found nan"),
        ({"surroundings_weight": 1.5}, r"expected surroundings_weight of 0 to 1, found 1\.5"),
        ({"least_area_um2": 9.0, "most_area_um2": 9.0}, r"expected least_area_um2 below most_area_um2, found 9\.0 and"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassicalSettings(**wrong)
