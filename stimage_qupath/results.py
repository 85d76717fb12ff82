"""The nouns that cross layers: frozen, numpy and shapely only.

Coordinates are (x, y) in level-0 pixels of the image as QuPath shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from stimage_qupath.errors import CancelledError

ProgressCallback: TypeAlias = Callable[[str, int, int, str], None]
"""``on_progress(stage, done, total, message)``; ``total`` is 0 where it is not known."""
CancelCheck: TypeAlias = Callable[[], bool]
Timer: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""``with timer(stage):`` books the time of the block under ``stage``; from any thread."""


def no_progress(stage: str, done: int, total: int, message: str) -> None:
    """Default ``on_progress``: says nothing."""


def never_cancelled() -> bool:
    """Default ``cancelled``: nobody stops the run."""
    return False


def untimed(stage: str) -> AbstractContextManager[None]:
    """Default timer: nobody asks how long it takes."""
    return nullcontext()


def stop_if(cancelled: CancelCheck) -> None:
    """Raise :class:`CancelledError` when the user asked to stop."""
    if cancelled():
        msg = "The run was cancelled; nothing was written under the final name."
        raise CancelledError(msg)


@dataclass(frozen=True, slots=True)
class Region:
    """One area of a slide that is to be analysed.

    Attributes
    ----------
    id
        UUID; QuPath's own, else a UUIDv5 of the geometry.
    geometry
        Valid shapely Polygon or MultiPolygon, level-0 px.
    name
        Name the user gave, or None.
    classification
        QuPath class, derived classes joined by ``": "``, or None.
    color
        Red, green, blue (0-255) of the classification (or object), or None.
    is_locked
        Whether QuPath shows it locked.
    source
        ``annotation`` (drawn by a person) or ``tissue`` (found automatically).
    z, t
        Plane.
    """

    id: str
    geometry: BaseGeometry
    name: str | None = None
    classification: str | None = None
    color: tuple[int, int, int] | None = None
    is_locked: bool = False
    source: str = "annotation"
    z: int = 0
    t: int = 0

    def __post_init__(self) -> None:
        """Refuse a geometry without area."""
        if self.geometry.geom_type not in {"Polygon", "MultiPolygon"} or self.geometry.is_empty:
            msg = f"expected a Region with a Polygon or MultiPolygon, found {self.geometry.geom_type} in {self.id}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Cells:
    """Nuclei of one region, in file order.

    Attributes
    ----------
    ids
        (cell,) UUID strings.
    polygons
        (cell,) shapely Polygons of the nuclei, level-0 px, valid.
    centroids_px
        (cell, 2) float64, x and y.
    measurements
        Name (as in :mod:`stimage_qupath.names`) to (cell,) float32: shape and stain.
    classifications
        (cell,) class names or None each, or None when no nucleus has one.
    boundaries
        (cell,) shapely Polygons of the whole cells, None for one of which only the nucleus is known; None when there
        are only nuclei.
    """

    ids: NDArray[np.object_]
    polygons: NDArray[np.object_]
    centroids_px: NDArray[np.float64]
    measurements: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    classifications: NDArray[np.object_] | None = None
    boundaries: NDArray[np.object_] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of different length."""
        n = len(self.ids)
        lengths = {"polygons": len(self.polygons), "centroids_px": len(self.centroids_px)}
        lengths |= {name: len(values) for name, values in self.measurements.items()}
        if self.classifications is not None:
            lengths["classifications"] = len(self.classifications)
        if self.boundaries is not None:
            lengths["boundaries"] = len(self.boundaries)
        wrong = {name: length for name, length in lengths.items() if length != n}
        if wrong:
            msg = f"expected {n} values for each field of Cells, found {wrong}"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of nuclei."""
        return len(self.ids)

    def take(self, index: NDArray[Any]) -> Cells:
        """Return the nuclei at ``index`` (integers or a boolean mask), in that order."""
        return Cells(
            ids=self.ids[index],
            polygons=self.polygons[index],
            centroids_px=self.centroids_px[index],
            measurements={name: values[index] for name, values in self.measurements.items()},
            classifications=None if self.classifications is None else self.classifications[index],
            boundaries=None if self.boundaries is None else self.boundaries[index],
        )

    def inside(self, geometry: BaseGeometry) -> NDArray[np.bool_]:
        """Return which centroids lie in ``geometry``, (cell,) bool."""
        shapely.prepare(geometry)
        return np.asarray(shapely.contains_xy(geometry, self.centroids_px[:, 0], self.centroids_px[:, 1]))


@dataclass(frozen=True, slots=True)
class Panel:
    """Ordered genes of a model."""

    genes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse an empty panel and doubled genes."""
        if not self.genes:
            msg = "expected a Panel of at least one gene, found none"
            raise ValueError(msg)
        if len(set(self.genes)) != len(self.genes):
            doubled = sorted({g for g in self.genes if self.genes.count(g) > 1})
            msg = f"expected each gene once in a Panel, found {', '.join(doubled[:5])} more than once"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.genes)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the gene symbols."""
        return iter(self.genes)

    def index(self, genes: tuple[str, ...]) -> NDArray[np.intp]:
        """Return the column of each of ``genes``; KeyError names the first that is missing."""
        position = {gene: i for i, gene in enumerate(self.genes)}
        return np.array([position[gene] for gene in genes], dtype=np.intp)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the ensemble says of n places, at the model's reference depth.

    Attributes
    ----------
    mean
        (place, gene) float32, expected counts in the model's window.
    aleatoric, epistemic
        (place, gene) float32, variances in counts^2.
    ood_score
        (place,) float32, distance in encoder space over the 99th percentile of training.
    p05, p95
        (place, gene) float32 quantiles of the mixture, or None when not asked for.
    high
        (place, gene) float32 probability that the rate is above the median of training, or None when not asked for;
        NaN for genes that were detected in too few training spots.
    """

    mean: NDArray[np.float32]
    aleatoric: NDArray[np.float32]
    epistemic: NDArray[np.float32]
    ood_score: NDArray[np.float32]
    p05: NDArray[np.float32] | None = None
    p95: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of different shape."""
        for name in ("aleatoric", "epistemic", "p05", "p95", "high"):
            values = getattr(self, name)
            if values is not None and values.shape != self.mean.shape:
                msg = f"expected {name} of shape {self.mean.shape}, found {values.shape}"
                raise ValueError(msg)
        if self.ood_score.shape != self.mean.shape[:1]:
            msg = f"expected ood_score of shape {self.mean.shape[:1]}, found {self.ood_score.shape}"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.mean)
