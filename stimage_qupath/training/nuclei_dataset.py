"""Annotated images of nuclei from a dataset table, brought to one pixel size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import expand_labels

from stimage_qupath.errors import UsageError
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.training.nuclei_labels import read_nuclei_labels
from stimage_qupath.training.nuclei_targets import IGNORED
from stimage_qupath.word_table import read_words

COLUMNS: Final = ("image", "labels", "mpp", "licence")
OPTIONAL: Final = ("split", "weight", "grow_um", "restain", "incomplete")
Split = Literal["", "train", "validation"]
_NUMBERS: Final = {"weight": 1.0, "grow_um": 0.0, "restain": 0.0}
_LARGEST_PX: Final = 10_000  # a side: what fits in memory several times over; whole slides are cut by the user


@dataclass(frozen=True, slots=True, eq=False)
class NucleiImage:
    """An image whose nuclei are known.

    Attributes
    ----------
    name
        File name, or what tells it from others.
    rgb
        (row, col, 3) uint8.
    labels
        (row, col) int32: 0 background, positive nuclei, negative unknown.
    licence
        Of the image and its labels.
    split
        ``train``, ``validation``, or empty where chance decides.
    weight
        How often it is drawn, beside its area.
    restain
        Share of its views that show it as H&E, where it is of a single dye; see
        :func:`~stimage_qupath.training.nuclei_restaining.restained`.
    is_incomplete
        Whether its labels lack nuclei, or all of them, which a teacher is to find.
    sha256
        Of the image file, empty where there is none.
    """

    name: str
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]
    licence: str = "not stated"
    split: Split = ""
    weight: float = 1.0
    restain: float = 0.0
    is_incomplete: bool = False
    sha256: str = ""

    def __post_init__(self) -> None:
        """Refuse labels of another size than the image, and weights that are none."""
        if self.rgb.shape != (*self.labels.shape, 3) or min(self.labels.shape) < 2:
            msg = f"expected labels of the size of {self.name}, found {self.labels.shape} for {self.rgb.shape}"
            raise UsageError(msg)
        if (
            self.split not in {"", "train", "validation"}
            or not 0 < self.weight < math.inf
            or not 0 <= self.restain <= 1
        ):
            msg = (
                f"expected split train, validation or empty, a weight above 0 and restain of 0 to 1 for {self.name}, "
                f"found '{self.split}', {self.weight} and {self.restain}"
            )
            raise UsageError(msg)

    @property
    def nuclei(self) -> int:
        """Number of nuclei."""
        return len(np.unique(self.labels[self.labels > 0]))


def read_nuclei_dataset(table: Path, *, mpp: float) -> list[NucleiImage]:
    """Read every image that a dataset table names, at one pixel size.

    The table is CSV with the columns ``image, labels, mpp, licence``, and where wanted ``split, weight, grow_um,
    restain, incomplete``; paths are relative to the table or absolute. ``mpp`` may be empty where the image states its
    pixel size, ``labels`` where a teacher is to find all nuclei; ``incomplete`` is ``yes`` where it is to find some.
    ``grow_um`` moves the outlines outwards.

    Parameters
    ----------
    table
        The file.
    mpp
        Pixel size of what is returned, µm.

    Raises
    ------
    UsageError
        The table or a file it names is missing, of another form, or holds no nucleus.
    CalibrationError, ImageError
        An image has no usable pixel size, or cannot be read.
    """
    if not table.is_file():
        msg = f"expected a dataset table at {table}, found no file; pass a CSV with the columns {','.join(COLUMNS)}"
        raise UsageError(msg)
    rows = read_words(table, what="a dataset table")
    missing = [column for column in COLUMNS if column not in rows.columns]
    if missing or rows.empty:
        found = "no column " + ", ".join(missing) if missing else "no rows"
        msg = f"expected a table with the columns {','.join(COLUMNS)} and at least one row in {table}, found {found}"
        raise UsageError(msg)
    images = [_read_row(row, table.parent, mpp=mpp) for row in rows.to_dict("records")]
    if not any(image.nuclei for image in images):
        msg = f"expected labelled nuclei in the images of {table}, found none; check the column labels"
        raise UsageError(msg)
    return images


def _read_row(row: dict[str, str], folder: Path, *, mpp: float) -> NucleiImage:
    """Read one image and its labels."""
    files = {key: folder / row[key].strip() for key in ("image", "labels") if key == "image" or row[key].strip()}
    for key, path in files.items():
        if not path.is_file():
            msg = f"expected the {key} of a row of the dataset at {path}, found no file; check the column {key}"
            raise UsageError(msg)
    name = files["image"].name
    try:
        stated = float(row["mpp"]) if row["mpp"].strip() else None
        weight, grow_um, restain = (float(row.get(key, "").strip() or n) for key, n in _NUMBERS.items())
    except ValueError as error:
        found = ", ".join(f"'{row.get(key, '')}'" for key in ("mpp", *_NUMBERS))
        msg = f"expected numbers as mpp, {', '.join(_NUMBERS)} of {name}, found {found}"
        raise UsageError(msg) from error
    with open_slide(files["image"]) as slide:
        if max(slide.width, slide.height) > _LARGEST_PX:
            msg = (
                f"expected images of at most {_LARGEST_PX} px a side, found {slide.width} x {slide.height} in {name}; "
                "cut the annotated part out of the slide"
            )
            raise UsageError(msg)
        own_mpp = slide_pixel_size(slide, stated, what=name)
        downsample = mpp / own_mpp
        height, width = (max(2, math.floor(side / downsample)) for side in (slide.height, slide.width))
        rgb = slide.read_region(0, 0, width=width, height=height, downsample=downsample)
        labels = _labels(files.get("labels"), (slide.height, slide.width), grow_px=grow_um / own_mpp)
    return NucleiImage(
        name=name,
        rgb=rgb,
        labels=resampled(labels, (height, width), downsample=downsample),
        licence=row["licence"].strip() or "not stated",
        split=row.get("split", "").strip(),  # type: ignore[arg-type]  # the image checks the word
        weight=weight,
        restain=restain,
        is_incomplete="labels" not in files or row.get("incomplete", "").strip() == "yes",
        sha256=hashlib.sha256(files["image"].read_bytes()).hexdigest(),
    )


def _labels(path: Path | None, shape: tuple[int, int], *, grow_px: float) -> NDArray[np.int32]:
    """Return the labels of an image, moved outwards; none where there is no file."""
    if path is None:
        return np.zeros(shape, dtype=np.int32)
    labels = read_nuclei_labels(path, shape=shape)
    if not grow_px:
        return labels
    grown = expand_labels(np.maximum(labels, 0), grow_px)  # type: ignore[no-untyped-call]
    return np.where((labels < 0) & (grown == 0), IGNORED, grown).astype(np.int32)


def resampled(labels: NDArray[np.int32], shape: tuple[int, int], *, downsample: float) -> NDArray[np.int32]:
    """Return labels at another pixel size: each pixel takes the label at its middle.

    Parameters
    ----------
    labels
        (row, col).
    shape
        Rows and columns of the result.
    downsample
        Pixels of ``labels`` per pixel of the result.
    """
    rows, cols = (
        np.minimum(((np.arange(side) + 0.5) * downsample).astype(np.intp), limit - 1)
        for side, limit in zip(shape, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, cols)]


def split_images(
    images: Sequence[NucleiImage], *, validation_fraction: float, seed: int
) -> tuple[list[NucleiImage], list[NucleiImage]]:
    """Return the images to train on and those to validate on.

    The column ``split`` decides where it is filled; of the other images a share is drawn. A single image is divided at
    a row: its lower part validates.

    Raises
    ------
    UsageError
        One of the two parts holds no nucleus.
    """
    training = [image for image in images if image.split == "train"]
    validation = [image for image in images if image.split == "validation"]
    free = [image for image in images if not image.split]
    if len(images) == 1 and free:
        upper, lower = _divided(free[0], validation_fraction)
        training, validation = [upper], [lower]
    elif free:
        order = np.random.default_rng(seed).permutation(len(free))
        drawn = 0 if validation else max(1, round(validation_fraction * len(free)))
        validation += [free[i] for i in sorted(order[:drawn])]
        training += [free[i] for i in sorted(order[drawn:])]
    for what, part in (("training", training), ("validation", validation)):
        if not any(image.nuclei or (what == "training" and image.is_incomplete) for image in part):
            msg = (
                f"expected labelled nuclei among the images for {what}, found none in {len(part)} images; add images, "
                "change --validation-fraction, or fill the column split"
            )
            raise UsageError(msg)
    return training, validation


def _divided(image: NucleiImage, fraction: float) -> tuple[NucleiImage, NucleiImage]:
    """Divide an image at a row; nuclei on it are unknown to both sides."""
    row = round((1 - fraction) * len(image.labels))
    row = min(max(row, 2), len(image.labels) - 2)
    cut = np.intersect1d(image.labels[row - 1], image.labels[row])
    labels = np.where(np.isin(image.labels, cut[cut > 0]), IGNORED, image.labels).astype(np.int32)
    return (
        replace(image, rgb=image.rgb[:row], labels=labels[:row], name=f"{image.name} (upper part)"),
        replace(image, rgb=image.rgb[row:], labels=labels[row:], name=f"{image.name} (lower part)"),
    )
