"""Label images: nuclei as numbers in an image, as Cellpose, InstanSeg, StarDist and scikit-image write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from stimage_qupath.errors import UsageError
from stimage_qupath.nuclei.outline import outlines

LABEL_SUFFIXES: Final = (".tif", ".tiff", ".png", ".npy")
_BLOCK: Final = 1024  # pixels of a label image that are traced at once


def read_labels(path: Path) -> tuple[NDArray[np.integer], tuple[str, ...]]:
    """Return the labels of an image, (row, col) of whole numbers, and what was left out of the file.

    Raises
    ------
    UsageError
        The file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        msg = f"expected a file of nuclei at {path}, found none; check the path"
        raise UsageError(msg)
    array, warnings = _only_nuclei(_read(path), path.name)
    if array.ndim != 2 or array.dtype.kind not in "iu" or not array.size:
        msg = (
            f"expected a label image in {path.name}, one whole number a pixel, found {array.dtype} of shape "
            f"{array.shape}; save the labels, not a picture or a mask of them"
        )
        raise UsageError(msg)
    return array, warnings


def label_outlines(
    labels: NDArray[np.integer], *, slide_size: tuple[int, int], simplify_px: float, what: str
) -> NDArray[np.object_]:
    """Return the outlines of the nuclei of a label image, in level-0 px of a slide.

    Parameters
    ----------
    labels
        (row, col) whole numbers, 0 or less is background.
    slide_size
        Width and height of the slide, level-0 px.
    simplify_px
        How far simplification may move an outline, level-0 px.
    what
        Name of the file, for messages.

    Raises
    ------
    UsageError
        Its size is neither the slide's nor a whole fraction of it, or it holds no nucleus.
    """
    downsample = float(_downsample(labels, slide_size, what))
    found = []
    for rows, columns, block in _blocks(_numbered(labels)):
        x, y = columns * downsample, rows * downsample
        found.append(outlines(block, x=x, y=y, downsample=downsample, tolerance_px=simplify_px)[1])
    polygons = np.concatenate([np.empty(0, dtype=object), *found])
    if not len(polygons):
        msg = f"expected nuclei in {what}, found background alone; check that it holds the labels of this image"
        raise UsageError(msg)
    return polygons


def _read(path: Path) -> NDArray[Any]:
    """Return the array in a file."""
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        if path.suffix.lower() == ".png":
            with Image.open(path) as image:
                return np.asarray(image)
        return np.asarray(tifffile.imread(path))
    except (OSError, ValueError, UnidentifiedImageError, tifffile.TiffFileError) as error:
        advice = "save it again"
        if "pickle" in str(error):  # numpy's refusal to run code that a file brings
            advice = "save Cellpose's masks as an image instead: io.save_masks(..., tif=True), or --save_tif"
        msg = f"expected a label image in {path.name}, found: {error}; {advice}"
        raise UsageError(msg) from error


def _only_nuclei(array: NDArray[Any], what: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return (row, col) of an array with axes of length one, or of InstanSeg's two channels the nuclei."""
    array = array.reshape([n for n in array.shape if n != 1] if array.ndim > 2 else array.shape)
    if array.ndim == 3 and array.shape[0] == 2:
        return array[0], (f"of the two channels of {what} the first was taken as nuclei, the second left out",)
    return array, ()


def _downsample(labels: NDArray[np.integer], slide_size: tuple[int, int], what: str) -> int:
    """Return the level-0 pixels of one label pixel; the last row and column may be cut."""
    height, width = map(int, labels.shape)
    downsample = max(1, round(slide_size[0] / width))
    fits = all(abs(whole / downsample - n) < 1 for whole, n in zip(slide_size, (width, height), strict=True))
    if not fits:
        msg = (
            f"expected {what} of the slide's {slide_size[0]} x {slide_size[1]} px or a whole fraction of that, found "
            f"{width} x {height}; segment the whole image at level 0, or at 1/2, 1/3, ... of its size"
        )
        raise UsageError(msg)
    return downsample


def _numbered(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return labels that a list can be indexed by: those above the number of pixels are numbered anew."""
    if int(labels.max()) <= labels.size:
        return labels
    values, position = np.unique(labels, return_inverse=True)
    return np.asarray(np.where(values > 0, np.arange(1, len(values) + 1), 0)[position].reshape(labels.shape))


def _blocks(labels: NDArray[np.integer]) -> Iterator[tuple[int, int, NDArray[np.int32]]]:
    """Yield row, column and pixels of windows; each label is whole in one of them and absent from the others."""
    groups: dict[tuple[int, int], list[tuple[int, tuple[slice, ...]]]] = {}
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            groups.setdefault((box[0].start // _BLOCK, box[1].start // _BLOCK), []).append((number, box))
    for _, members in sorted(groups.items()):
        numbers = np.array([number for number, _ in members])
        rows, columns = (
            slice(min(box[axis].start for _, box in members), max(box[axis].stop for _, box in members))
            for axis in (0, 1)
        )
        window = labels[rows, columns]
        rank = np.minimum(np.searchsorted(numbers, window), len(numbers) - 1)
        yield rows.start, columns.start, np.where(numbers[rank] == window, rank + 1, 0).astype(np.int32)
