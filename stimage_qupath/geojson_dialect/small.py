"""Small annotation exports: typed ``geojson`` objects, one per region."""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Iterable
from pathlib import Path

import geojson
import shapely

from stimage_qupath.errors import AnnotationError, OutputExistsError
from stimage_qupath.geojson_dialect.color import default_color
from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.geojson_dialect.rings import on_grid, ring_arrays
from stimage_qupath.results import Region


def region_feature(region: Region) -> geojson.Feature:
    """Return ``region`` as a QuPath annotation, coordinates rounded to 0.01 px and valid after that.

    Raises
    ------
    AnnotationError
        Nothing of the region is left on QuPath's grid of 0.01 px.
    """
    area = on_grid(region.geometry)
    if area.is_empty:
        msg = f"expected a region with area on QuPath's grid of 0.01 px, found none left of {region.id}; leave it out"
        raise AnnotationError(msg)
    polygons = [[ring.tolist() for ring in rings] for rings in ring_arrays(shapely.get_parts(area))]
    plane = {"plane": {"c": -1, "z": region.z, "t": region.t}} if region.z or region.t else {}
    one = len(polygons) == 1
    geometry = geojson.Polygon(polygons[0], **plane) if one else geojson.MultiPolygon(polygons, **plane)
    return geojson.Feature(id=region.id, geometry=geometry, properties=_properties(region))


def _properties(region: Region) -> dict[str, object]:
    properties: dict[str, object] = {"objectType": "annotation"}
    if region.name is not None:
        properties["name"] = region.name
    if region.classification is not None:
        color = region.color or default_color(region.classification)
        properties["classification"] = {"name": region.classification, "color": list(color)}
    elif region.color is not None:
        properties["color"] = list(region.color)
    if region.is_locked:
        properties["isLocked"] = True
    return properties


def write_annotations(path: Path, regions: Iterable[Region], *, force: bool = False) -> None:
    """Write ``regions`` as a FeatureCollection that QuPath 0.4 to 0.7 opens; gzip if ``path`` ends in ``.gz``.

    Raises
    ------
    OutputExistsError
        ``path`` is there already and ``force`` is not given.
    OutputError
        The disk is full or not writable; nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not force:
        msg = f"expected a new file at {path}, found one there; choose another name or force"
        raise OutputExistsError(msg)
    collection = geojson.FeatureCollection([region_feature(region) for region in regions])
    data = geojson.dumps(collection, ensure_ascii=False, allow_nan=False).encode()
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    with output_errors(path):
        try:
            partial.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
