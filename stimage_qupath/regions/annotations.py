"""A pathologist's annotations: from QuPath's GeoJSON, chosen by class, name or id, and cut to the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import shapely

from stimage_qupath.errors import AnnotationError
from stimage_qupath.geojson_dialect import Feature, read_features, valid_area
from stimage_qupath.geojson_dialect.document import DEFAULT_LIMIT_BYTES
from stimage_qupath.geojson_dialect.fault import shown_name
from stimage_qupath.regions.identity import geometry_uuid
from stimage_qupath.results import Region

EDGE_TOLERANCE_PX: Final = 1.0
"""QuPath lets an annotation touch the edge of the image; rounding may carry it over by a pixel."""
KINDS: Final = {"Point": "point", "MultiPoint": "point", "LineString": "line", "MultiLineString": "line"}
NO_AREA: Final = "annotation without area"


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """What a GeoJSON file holds for us.

    Attributes
    ----------
    regions
        Area annotations, in file order.
    skipped
        What is no area annotation, and how many: ``{"point": 3, "detection": 217}``.
    """

    regions: tuple[Region, ...]
    skipped: Mapping[str, int]


def read_regions(path: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> AnnotationFile:
    """Return the area annotations in a GeoJSON file of QuPath 0.2 to 0.7, plain or gzip.

    Outlines that cross themselves are repaired. Points, lines, detections, cells, tiles, TMA cores and annotations
    without area are counted and left out. A region without a UUID gets one from its geometry.

    Raises
    ------
    UsageError
        The file is missing or cannot be opened.
    AnnotationError
        The file or a feature in it is faulty, no area annotation is in it, or two have the same id.
    """
    path = Path(path)
    regions: list[Region] = []
    skipped: Counter[str] = Counter()
    place_of: dict[str, str] = {}
    for feature in read_features(path, limit_bytes=limit_bytes):
        region = _region(feature)
        if region is None:
            skipped[_kind(feature)] += 1
            continue
        if region.id in place_of:
            msg = (
                f"expected each annotation once in {path.name}, found {place_of[region.id]} and {feature.place} with "
                f"the same {'id' if feature.id else 'outline'}; remove one of them"
            )
            raise AnnotationError(msg)
        place_of[region.id] = feature.place
        regions.append(region)
    if not regions:
        msg = (
            f"expected an area to analyse, found none: {path.name} holds no area annotation but {_counts(skipped)}; "
            "draw a polygon, rectangle or ellipse in QuPath and export it"
        )
        raise AnnotationError(msg)
    return AnnotationFile(regions=tuple(regions), skipped=dict(skipped))


def _region(feature: Feature) -> Region | None:
    """Return the region of an annotation with area."""
    if feature.object_type != "annotation":
        return None
    area = valid_area(feature.geometry)
    if area.is_empty:
        return None
    return Region(
        id=feature.id or geometry_uuid(area),
        geometry=area,
        name=feature.name,
        classification=feature.classification,
        color=feature.color,
        is_locked=feature.is_locked,
        z=feature.z,
        t=feature.t,
    )


def _kind(feature: Feature) -> str:
    """Name what a feature is that is no region."""
    if feature.object_type != "annotation":
        return "TMA core" if feature.object_type == "tmaCore" else feature.object_type
    return KINDS.get(feature.geometry.geom_type, NO_AREA)


def _counts(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{n} x {kind}" for kind, n in sorted(skipped.items())) or "nothing else"


def select_regions(
    regions: Iterable[Region], *, classes: Sequence[str] = (), names: Sequence[str] = (), ids: Sequence[str] = ()
) -> list[Region]:
    """Return the regions that meet each given criterion, in their order; all of them when none is given.

    Parameters
    ----------
    regions
        What there is.
    classes
        Whole classes (``Tumor: Positive``) or their base part (``Tumor``, which includes every class derived from it).
    names
        Names of annotations.
    ids
        UUIDs.

    Raises
    ------
    AnnotationError
        A class, name or id matches nothing, or no region meets all criteria; the message lists what exists.
    """
    regions = list(regions)
    chosen = regions
    for what, wanted, keys_of in (
        ("class", classes, _class_keys),
        ("name", names, lambda region: {region.name}),
        ("id", [identity.lower() for identity in ids], lambda region: {region.id.lower()}),
    ):
        if not wanted:
            continue
        there = {key for region in regions for key in keys_of(region) if key is not None}
        missing = [value for value in wanted if value not in there]
        if missing:
            msg = f"expected annotations with {what} {_quoted(missing)}, found only {_quoted(sorted(there))}; check it"
            raise AnnotationError(msg)
        chosen = [region for region in chosen if not keys_of(region).isdisjoint(wanted)]
    if not chosen:
        msg = f"expected an annotation that meets all criteria, found none of {len(regions)}; ask for fewer at once"
        raise AnnotationError(msg)
    return chosen


def _class_keys(region: Region) -> set[str | None]:
    """Return what a class may be asked for by: the whole of it and its base part."""
    if region.classification is None:
        return set()
    return {region.classification, region.classification.split(": ")[0]}


def _quoted(values: Sequence[str], *, most: int = 20) -> str:
    shown = [f'"{shown_name(value)}"' for value in values[:most]]
    return ", ".join([*shown, "..."] if len(values) > most else shown) or "none"


def clip_to_image(regions: Iterable[Region], width: int, height: int) -> tuple[list[Region], list[str]]:
    """Return the parts of ``regions`` inside an image, and a warning for each that loses more than its edge.

    Parameters
    ----------
    regions
        At least one, level-0 px.
    width, height
        Size of the image, level-0 px.

    Raises
    ------
    AnnotationError
        A region lies wholly outside; the message names all that do.
    """
    image = shapely.box(0, 0, width, height)
    tolerated = shapely.box(
        -EDGE_TOLERANCE_PX, -EDGE_TOLERANCE_PX, width + EDGE_TOLERANCE_PX, height + EDGE_TOLERANCE_PX
    )
    clipped: list[Region] = []
    outside: list[str] = []
    warnings: list[str] = []
    for region in regions:
        inside = valid_area(shapely.intersection(region.geometry, image))
        if inside.is_empty:
            outside.append(f"{_label(region)} at {_extent(region)}")
            continue
        if not tolerated.contains(region.geometry):
            lost = 1 - inside.area / region.geometry.area
            warnings.append(f"{_label(region)} reaches beyond the image; {lost:.1%} of its area is left out.")
        clipped.append(region if image.covers(region.geometry) else replace(region, geometry=inside))
    if outside:
        msg = (
            f"expected annotations inside the image of {width} x {height} px, found {'; '.join(outside[:5])}; "
            "check that they belong to this image and are in its full-resolution pixels"
        )
        raise AnnotationError(msg)
    return clipped, warnings


def _label(region: Region) -> str:
    text = region.name or region.classification
    return f'"{shown_name(text)}" ({region.id})' if text else region.id


def _extent(region: Region) -> str:
    left, top, right, bottom = region.geometry.bounds
    return f"x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}"
