"""Images with labelled places, joined for training: what is learnt from, and what is left out together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.models.cell_type_store import Level
from stimage_qupath.spots.splits import BLOCK_UM, MIN_UNITS, spatial_blocks
from stimage_qupath.training.cell_types_fit import LabelledPlaces
from stimage_qupath.training.cell_types_labels import Labels

NUCLEUS_BLOCK_UM: Final = 200.0
"""Side of the blocks that are left out together, for nuclei: wider than the windows around them."""
LEAST_BLOCK_UM: Final = 50.0
"""Under it what is left out is surrounded by what is not."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """An image with labelled places.

    Attributes
    ----------
    name
        Of the file.
    patient, licence, source
        As in the table; the image stands for a patient of its own where the table says none.
    mpp
        um per level-0 px.
    sha256
        Of the image file.
    labels
        The places and their types.
    features
        (place, feature).
    views
        (view, place, feature) of the image in other stains and scales.
    record
        What else the card says: transfer of labels, registration.
    """

    name: str
    patient: str
    licence: str
    source: str
    mpp: float
    sha256: str
    labels: Labels
    features: NDArray[np.float32]
    views: tuple[NDArray[np.float32], ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what the card says of the image."""
        shares = self.labels.shares.sum()
        return {
            "name": self.name,
            "patient": self.patient,
            "licence": self.licence,
            "source": self.source,
            "mpp": self.mpp,
            "sha256": self.sha256,
            "places": len(self.labels),
            "classes": {str(name): round(float(value), 3) for name, value in shares.items()},
            "notes": list(self.labels.notes),
            **self.record,
        }


def join_images(images: Sequence[LabelledImage], *, level: Level) -> tuple[LabelledPlaces, tuple[str, ...], str]:
    """Return the places of all images, the classes, and what is left out and resampled together, in words.

    The places of the images as they are come first, then those of each further view, which go with their unit. What is
    left out is the patient where there are five, else the image, else a block of tissue.

    Raises
    ------
    UsageError
        There are fewer than two classes, or all places lie together.
    """
    shares = pd.concat([image.labels.shares for image in images], ignore_index=True).fillna(0.0)
    classes = tuple(sorted(map(str, shares.columns)))
    if len(classes) < 2:
        msg = f"expected labels of at least two classes, found {', '.join(classes) or 'none'}; label more"
        raise UsageError(msg)
    unit, split = _units(images, NUCLEUS_BLOCK_UM if level == "nucleus" else BLOCK_UM)
    views = min(len(image.views) for image in images)
    seen = [np.concatenate([image.features for image in images])]
    seen += [np.concatenate([image.views[number] for image in images]) for number in range(views)]
    weight = np.concatenate([image.labels.weight for image in images])
    joined = LabelledPlaces(
        features=np.concatenate(seen),
        target=np.tile(shares[list(classes)].to_numpy(dtype=np.float64), (1 + views, 1)),
        unit=np.tile(unit, 1 + views),
        weight=np.tile(weight, 1 + views) / (1 + views),
    )
    return joined, classes, split


def _units(images: Sequence[LabelledImage], block_um: float) -> tuple[NDArray[np.intp], str]:
    """Return the unit of each place, and what it is; blocks are halved until there are enough of them."""
    sizes = [len(image.labels) for image in images]
    patients = np.repeat([image.patient for image in images], sizes)
    numbers = np.repeat(np.arange(len(images)).astype(str), sizes)
    for name, unit in (("patient", patients), ("image", numbers)):
        if len(np.unique(unit)) >= MIN_UNITS:
            return _codes(unit), name
    while True:
        blocks = [spatial_blocks(image.labels.points_px * image.mpp, block_um).astype(str) for image in images]
        code = _codes(np.char.add(np.char.add(numbers, "|"), np.concatenate(blocks)))
        if code.max() + 1 >= MIN_UNITS:
            return code, f"spatial block of {block_um:g} um"
        block_um /= 2
        if block_um < LEAST_BLOCK_UM:
            msg = f"expected labels in at least {MIN_UNITS} blocks of {2 * block_um:g} um, found {code.max() + 1}"
            msg += "; label more of the tissue, or more images"
            raise UsageError(msg)


def _codes(unit: NDArray[np.str_]) -> NDArray[np.intp]:
    return np.asarray(np.unique(unit, return_inverse=True)[1], dtype=np.intp).ravel()
