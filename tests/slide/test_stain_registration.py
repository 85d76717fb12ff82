"""Whether two stains of the same nuclei lie on each other: known shifts are found, strangers are told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from stimage_qupath.slide.registration import register

MPP = 2.0


def nuclei(shift=(0, 0), *, seed=0, size=(220, 260), noise=0.02, n=400):
    """Return blobs of 8 um at random places, moved by ``shift`` (x, y) um."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((size[0] + 100, size[1] + 100))
    x, y = rng.uniform(0, canvas.shape[1], n), rng.uniform(0, canvas.shape[0], n)
    columns, rows = (np.rint(v).astype(int) for v in (x + shift[0] / MPP, y + shift[1] / MPP))
    inside = (columns >= 0) & (columns < canvas.shape[1]) & (rows >= 0) & (rows < canvas.shape[0])
    np.add.at(canvas, (rows[inside], columns[inside]), 1.0)
    blurred = ndimage.gaussian_filter(canvas, 2.0)[50:-50, 50:-50]
    return blurred / blurred.max() + np.random.default_rng(seed + 99).normal(0, noise, size)


@pytest.mark.parametrize("shift", [(0, 0), (12, 0), (0, -26), (-40, 30)])
def test_a_known_shift_is_found_with_its_sign(shift):
    found = register(nuclei(), nuclei(shift), mpp=MPP)
    assert found.shift_um == pytest.approx((-shift[0], -shift[1]), abs=MPP)
    assert found.correlation > 0.8
    assert found.correlation >= found.correlation_as_is
    assert found.distance_um == pytest.approx(np.hypot(*shift), abs=2 * MPP)


def test_a_slope_of_illumination_and_another_scale_do_not_matter():
    dapi = nuclei((8, 4)) * 3000 + np.linspace(0, 8000, 260)
    found = register(nuclei(), dapi, mpp=MPP)
    assert found.shift_um == pytest.approx((-8, -4), abs=MPP)


def test_the_correlation_at_the_peak_is_numpys_over_the_overlap():
    a, b = nuclei(noise=0), nuclei((8, 0), noise=0)
    found = register(a, b, mpp=MPP)
    band = [
        ndimage.gaussian_filter(p, 2.0) - ndimage.gaussian_filter(ndimage.gaussian_filter(p, 2.0), 25.0) for p in (a, b)
    ]
    by_hand = np.corrcoef(band[0][:, :-4].ravel(), band[1][:, 4:].ravel())[0, 1]
    assert found.shift_um == (-8.0, 0.0)
    assert found.correlation == pytest.approx(by_hand, abs=1e-6)
    assert found.correlation_as_is == pytest.approx(np.corrcoef(band[0].ravel(), band[1].ravel())[0, 1], abs=1e-6)


def test_good_shifted_and_foreign_pictures_are_told_apart():
    assert register(nuclei(), nuclei((2, 0)), mpp=MPP).warning is None
    assert "found it fits best moved by x -20.0 and y 0.0 um" in register(nuclei(), nuclei((20, 0)), mpp=MPP).warning
    foreign = register(nuclei(), nuclei(seed=5), mpp=MPP)
    assert "expected haematoxylin and DAPI of the same nuclei" in foreign.warning
    assert foreign.to_dict()["warning"] == foreign.warning


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="expected two pictures of one size"):
        register(nuclei(), nuclei(size=(100, 100)), mpp=MPP)
    with pytest.raises(ValueError, match="found a flat one"):
        register(nuclei(), np.zeros((220, 260)), mpp=MPP)
