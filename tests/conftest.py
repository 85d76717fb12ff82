"""Fixtures shared by all tests: a slide whose every pixel is known, and where the real data are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erf

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is loaded
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes of the tests share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def own_feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep features that tests compute out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STIMAGE_QUPATH_CACHE", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real sections and slides; skip where this machine has none."""
    if not DATA.is_dir():
        pytest.skip("real data: ../shared/data is not on this machine")
    return DATA


@dataclass(frozen=True)
class FormulaPicture:
    """Round stained blobs on white; the mean colour of any box of the plane is a formula.

    Attributes
    ----------
    width, height
        Level-0 px.
    blobs
        (blob, 3) float64: centre x, centre y, standard deviation of a Gaussian, level-0 px.
    depth
        How much red, green and blue a blob takes away at its centre.
    """

    width: int
    height: int
    blobs: NDArray[np.float64]
    depth: tuple[float, float, float] = (110.0, 180.0, 80.0)

    def render(self, x: float, y: float, *, width: int, height: int, step: tuple[float, float]) -> NDArray[np.uint8]:
        """Return output pixels, each the mean over its ``step`` (x, y) of level-0 px, from the corner (x, y) on."""
        along_x = _mean_gaussian(x + np.arange(width + 1) * step[0], self.blobs[:, 0], self.blobs[:, 2])
        along_y = _mean_gaussian(y + np.arange(height + 1) * step[1], self.blobs[:, 1], self.blobs[:, 2])
        absorbed = np.minimum(along_y.T @ along_x, 1.0)
        return np.rint(255 - absorbed[..., None] * np.array(self.depth)).astype(np.uint8)

    def level(self, width: int, height: int) -> NDArray[np.uint8]:
        """Return the whole picture at that size."""
        return self.render(0, 0, width=width, height=height, step=(self.width / width, self.height / height))


def _mean_gaussian(
    edges: NDArray[np.float64], centres: NDArray[np.float64], sigmas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of each unit-height Gaussian between neighbouring edges, (blob, pixel)."""
    spread = sigmas[:, None] * np.sqrt(2)
    integral = sigmas[:, None] * np.sqrt(np.pi / 2) * erf((edges - centres[:, None]) / spread)
    return np.diff(integral, axis=1) / np.diff(edges)


@dataclass(frozen=True)
class FormulaSlide:
    """A TIFF on disk and the picture it shows."""

    path: Path
    picture: FormulaPicture
    mpp: float


@pytest.fixture(scope="session")
def formula_picture() -> FormulaPicture:
    """Return a picture of 1110 x 1483 px with 88 blobs at uneven positions, none within 60 px of another."""
    rng = np.random.default_rng(7)
    x, y = np.meshgrid(80 + 135.0 * np.arange(8), 75 + 133.0 * np.arange(11))
    centres = np.stack([x.ravel(), y.ravel()], axis=1) + rng.uniform(-30, 30, size=(88, 2))
    return FormulaPicture(1110, 1483, np.column_stack([centres, rng.uniform(4, 7, size=88)]))


@pytest.fixture(scope="session")
def formula_slide(
    tmp_path_factory: pytest.TempPathFactory, formula_picture: FormulaPicture
) -> Callable[..., FormulaSlide]:
    """Return a function that writes the picture as a pyramidal TIFF.

    Its arguments: ``sizes`` of the levels (the second is 3.87 times smaller than the first, not 4), ``layout``
    ``pages`` or ``subifds``, ``mpp`` written as resolution tags, and any of :meth:`tifffile.TiffWriter.write`, such as
    ``tile`` (None: strips) and ``compression``.
    """

    def write(
        *,
        sizes: tuple[tuple[int, int], ...] = ((1110, 1483), (287, 383)),
        layout: str = "pages",
        mpp: float = 0.5,
        bigtiff: bool = False,
        **options: Any,
    ) -> FormulaSlide:
        path = tmp_path_factory.mktemp("formula") / "formula.tif"
        settings = {"photometric": "rgb", "tile": (128, 128), "metadata": None} | options
        with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
            for index, size in enumerate(sizes):
                below = {"subifds": len(sizes) - 1} if layout == "subifds" and index == 0 else {}
                scale = 1e4 / (mpp * formula_picture.width / size[0])
                writer.write(
                    formula_picture.level(*size),
                    resolution=(scale, scale),
                    resolutionunit="CENTIMETER",
                    subfiletype=int(index > 0),
                    **settings,
                    **below,
                )
        return FormulaSlide(path, formula_picture, mpp)

    return write


@dataclass(frozen=True)
class TissueSlide:
    """A TIFF of pink tissue on glass with round purple nuclei at known places.

    Attributes
    ----------
    path
        Pyramidal TIFF that states its pixel size.
    centres
        (nucleus, 2) x and y, level-0 px.
    radius
        Of each nucleus, level-0 px.
    mpp
        um per pixel.
    """

    path: Path
    centres: NDArray[np.float64]
    radius: float
    mpp: float


@pytest.fixture(scope="session")
def tissue_slide(tmp_path_factory: pytest.TempPathFactory) -> TissueSlide:
    """Return 1110 x 1483 px at 0.5 um with 88 nuclei of 8 um, none within 60 px of another."""
    rng = np.random.default_rng(11)
    x, y = np.meshgrid(80 + 135.0 * np.arange(8), 75 + 133.0 * np.arange(11))
    centres = np.stack([x.ravel(), y.ravel()], axis=1) + rng.uniform(-30, 30, size=(88, 2))
    radius, (width, height) = 8.0, (1110, 1483)
    pixels = np.full((height, width, 3), (245.0, 244.0, 246.0))
    fibres = ndimage.gaussian_filter(rng.normal(size=(height, width)), 14)  # stroma is never flat
    pixels[20:-20, 20:-20] = (226, 168, 200) - (22 * fibres / fibres.std())[20:-20, 20:-20, None] * (0.4, 1, 0.6)
    row, column = np.mgrid[0:height, 0:width] + 0.5
    for centre_x, centre_y in centres:
        box = np.s_[int(centre_y) - 14 : int(centre_y) + 15, int(centre_x) - 14 : int(centre_x) + 15]
        distance = np.hypot(column[box] - centre_x, row[box] - centre_y)
        cover = np.clip(radius + 0.5 - distance, 0, 1)[..., None]
        pixels[box] = cover * np.array([95.0, 60, 145]) + (1 - cover) * pixels[box]
    path = tmp_path_factory.mktemp("tissue") / "tissue.tif"
    scale = 1e4 / 0.5
    full = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        options: dict[str, Any] = {"photometric": "rgb", "tile": (256, 256), "metadata": None, "compression": "deflate"}
        unit: dict[str, Any] = {"resolutionunit": "CENTIMETER"}
        writer.write(full, resolution=(scale, scale), **unit, **options)
        half = full[: height // 2 * 2].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
        writer.write(half, resolution=(scale / 2, scale / 2), subfiletype=1, **unit, **options)
    return TissueSlide(path, centres, radius, 0.5)
