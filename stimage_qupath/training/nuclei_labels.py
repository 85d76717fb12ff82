"""Label images from the files in which people keep annotated nuclei."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from stimage_qupath.errors import UsageError
from stimage_qupath.geojson_dialect import read_features, valid_area
from stimage_qupath.nuclei.foreign_reader import GEOJSON_SUFFIXES
from stimage_qupath.nuclei.label_image import LABEL_SUFFIXES, read_labels
from stimage_qupath.training.nuclei_targets import IGNORED

_NUCLEI: Final = frozenset({"detection", "cell", "annotation"})


def read_nuclei_labels(path: Path, *, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Read the nuclei of one image.

    Parameters
    ----------
    path
        Label image (TIFF, PNG, NPY): every nucleus has its number, 0 is background, negative is unknown; or GeoJSON
        that QuPath has exported, in pixels of the image: of a cell the nucleus is taken.
    shape
        Rows and columns of the image.

    Returns
    -------
    numpy.ndarray
        (row, col) int32.

    Raises
    ------
    UsageError
        The file is missing, of another kind or size, or holds other than whole numbers.
    AnnotationError
        The GeoJSON is faulty.
    """
    name = path.name.lower()
    if name.endswith(GEOJSON_SUFFIXES):
        return painted(_outlines(path), shape)
    if not name.endswith(LABEL_SUFFIXES):
        known = ", ".join((*LABEL_SUFFIXES, *GEOJSON_SUFFIXES))
        msg = f"expected labels in a file that ends in {known}, found {path.name}; export them as one of these"
        raise UsageError(msg)
    labels, _ = read_labels(path)
    if labels.shape != shape:
        msg = (
            f"expected labels of {shape[1]} x {shape[0]} px, as the image, in {path.name}, found {labels.shape[1]} x "
            f"{labels.shape[0]}; save them at the size of the image"
        )
        raise UsageError(msg)
    numbers = np.unique(labels)  # of any size and sign, made small ones: 0 stays 0, negatives stay unknown
    nuclei = numbers[numbers > 0]
    numbered = np.searchsorted(nuclei, labels).astype(np.int32) + 1
    return np.where(labels > 0, numbered, np.where(labels < 0, IGNORED, 0)).astype(np.int32)


def painted(outlines: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return a label image of rings of (x, y); pixel (i, j) covers [j, j + 1) x [i, i + 1)."""
    labels = np.zeros(shape, dtype=np.int32)
    for number, xy in enumerate(outlines, start=1):
        left, top = np.clip(np.floor(xy.min(axis=0)).astype(int) - 1, 0, None)
        right, bottom = np.ceil(xy.max(axis=0)).astype(int) + 2
        part = labels[top:bottom, left:right]
        if part.size:
            inside = polygon2mask(part.shape, xy[:, ::-1] - (top, left) - 0.5)  # type: ignore[no-untyped-call]
            part[inside] = number
    return labels


def _outlines(path: Path) -> list[NDArray[np.float64]]:
    """Return the outer rings of the nuclei in a GeoJSON file, (x, y)."""
    rings = []
    for feature in read_features(path):
        if feature.object_type not in _NUCLEI:
            continue
        geometry = feature.geometry if feature.nucleus is None else feature.nucleus
        parts = shapely.get_parts(valid_area(geometry))
        rings += [np.asarray(part.exterior.coords) for part in parts if not part.is_empty]
    return rings
