"""An object as a QuPath project stores it, whichever way it was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shapely.geometry.base import BaseGeometry

from stimage_qupath import names
from stimage_qupath.geojson_dialect import Color, Feature, valid_area
from stimage_qupath.regions.identity import geometry_uuid
from stimage_qupath.results import Region


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a hierarchy.

    Attributes
    ----------
    geometry
        Shapely geometry, level-0 px, as drawn; empty where QuPath stored none.
    object_type
        ``annotation``, ``detection``, ``cell``, ``tile`` or ``tmaCore``.
    id
        UUID, or None before QuPath 0.4.
    parent_id
        UUID of the object it lies in, None directly under the root.
    name, classification
        Name and class (derived ones joined by ``": "``), or None.
    color
        Of the class, else of the object, red, green, blue; or None.
    is_locked
        Whether QuPath shows it locked.
    measurements
        Name to value.
    nucleus
        Geometry of a cell's nucleus, or None.
    z, t
        Plane.
    """

    geometry: BaseGeometry
    object_type: str = "annotation"
    id: str | None = None
    parent_id: str | None = None
    name: str | None = None
    classification: str | None = None
    color: Color | None = None
    is_locked: bool = False
    measurements: Mapping[str, float] = field(default_factory=dict)
    nucleus: BaseGeometry | None = None
    z: int = 0
    t: int = 0

    @property
    def is_ours(self) -> bool:
        """Whether this package made it."""
        return names.OBJECT_VERSION in self.measurements


def from_feature(feature: Feature) -> StoredObject:
    """Return an object that QuPath exported as GeoJSON, which does not say in what it lies."""
    return StoredObject(
        geometry=feature.geometry,
        object_type=feature.object_type,
        id=feature.id,
        name=feature.name,
        classification=feature.classification,
        color=feature.color,
        is_locked=feature.is_locked,
        measurements=feature.measurements,
        nucleus=feature.nucleus,
        z=feature.z,
        t=feature.t,
    )


def area_regions(objects: Iterable[StoredObject]) -> tuple[Region, ...]:
    """Return the annotations that enclose an area, in their order; outlines that cross themselves are repaired."""
    regions = []
    for found in objects:
        area = valid_area(found.geometry) if found.object_type == "annotation" else None
        if area is None or area.is_empty:
            continue
        region = Region(
            id=found.id or geometry_uuid(area),
            geometry=area,
            name=found.name,
            classification=found.classification,
            color=found.color,
            is_locked=found.is_locked,
            z=found.z,
            t=found.t,
        )
        regions.append(region)
    return tuple(regions)
