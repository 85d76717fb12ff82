"""Blocks of nuclei as plain arrays, so that an interrupted run finds them again to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath.nuclei.blocks import BlockNuclei, Place


class KeptNuclei(Protocol):
    """Finished blocks, by their place; may be used from many threads at once."""

    def load(self, place: Place) -> BlockNuclei | None:
        """Return the nuclei of a block, or None where it is not finished."""
        ...

    def save(self, place: Place, nuclei: BlockNuclei) -> None:
        """Keep the nuclei of a block."""
        ...


def as_arrays(nuclei: BlockNuclei) -> dict[str, NDArray[Any]]:
    """Return the nuclei of a block as arrays without objects; :func:`from_arrays` undoes it exactly."""
    values = list(nuclei.measurements.values())
    arrays = {
        "centroids_px": nuclei.centroids_px,
        "names": np.array(list(nuclei.measurements), dtype=np.str_),
        "values": np.stack(values) if values else np.empty((0, len(nuclei)), dtype=np.float32),
        **_packed("polygons", nuclei.polygons),
    }
    return arrays if nuclei.boundaries is None else arrays | _packed("boundaries", nuclei.boundaries)


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> BlockNuclei:
    """Return the nuclei of a block from what :func:`as_arrays` made of them.

    Raises
    ------
    KeyError
        An array is missing.
    """
    return BlockNuclei(
        polygons=_unpacked("polygons", arrays),
        centroids_px=arrays["centroids_px"],
        measurements=dict(zip(arrays["names"].tolist(), arrays["values"], strict=True)),
        boundaries=_unpacked("boundaries", arrays) if "boundaries" in arrays else None,
    )


def _packed(name: str, geometries: NDArray[np.object_]) -> dict[str, NDArray[Any]]:
    """Return geometries as one run of bytes (WKB keeps every bit of a coordinate) and the length of each."""
    each: list[bytes] = shapely.to_wkb(geometries).tolist()
    return {
        name: np.frombuffer(b"".join(each), dtype=np.uint8),
        f"{name}_bytes": np.array([len(part) for part in each], dtype=np.int64),
    }


def _unpacked(name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.object_]:
    data, ends = arrays[name].tobytes(), np.cumsum(arrays[f"{name}_bytes"]).tolist()
    parts = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    geometries = np.empty(len(parts), dtype=object)
    geometries[:] = shapely.from_wkb(parts)
    return geometries
