"""A stable id for a region that brought none."""

from __future__ import annotations

import uuid
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

GEOMETRY_NAMESPACE: Final = uuid.UUID("a3a3ff2d-7cf9-5f0d-9d1c-0c5d4b6f2e11")
"""Fixed for ever: a change would give every region without a UUID a new id."""

_DECIMALS: Final = 2  # QuPath keeps at most two decimals of a pixel
_LITTLE_ENDIAN: Final = 1


def geometry_uuid(geometry: BaseGeometry) -> str:
    """Return the UUIDv5 of a geometry's well-known binary, coordinates rounded to 0.01 px.

    The same outline gives the same id wherever its ring starts, whichever way round it runs, in whatever order its
    parts stand, and on every machine. A third coordinate does not count.
    """
    flat = shapely.force_2d(geometry)
    rounded = shapely.transform(flat, _rounded)
    binary = shapely.to_wkb(shapely.normalize(rounded), byte_order=_LITTLE_ENDIAN, include_srid=False)
    return str(uuid.uuid5(GEOMETRY_NAMESPACE, binary.hex()))


def _rounded(coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(coordinates, _DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0, whose bits differ
