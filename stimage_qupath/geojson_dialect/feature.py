"""One feature of QuPath's GeoJSON, read and checked: every spelling of 0.2 to 0.7 becomes the same record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shapely.geometry.base import BaseGeometry

from stimage_qupath.errors import AnnotationError
from stimage_qupath.geojson_dialect.color import Color, parse_color
from stimage_qupath.geojson_dialect.document import DEFAULT_LIMIT_BYTES, read_document
from stimage_qupath.geojson_dialect.fault import FeatureFault, shown, shown_name
from stimage_qupath.geojson_dialect.geometry import is_geometry, parse_geometry

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
OBJECT_TYPES: Final = {name.casefold(): name for name in ("annotation", "detection", "cell", "tile", "tmaCore", "root")}
LEGACY_TYPE: Final = re.compile(r"(?:path)?(\w+?)(?:object)?", re.IGNORECASE)
"""QuPath 0.2 wrote the Java class as ``id``: ``PathDetectionObject``, ``TMACoreObject``."""
MOST_CHARACTERS: Final = 10_000
"""Of a name or a class; whoever writes more hides something else there, and it would stand in every table."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One object of a QuPath file, as drawn.

    Attributes
    ----------
    index
        Place in the file, counted from 1.
    geometry
        Shapely geometry, level-0 px, finite but perhaps crossing itself or empty.
    object_type
        ``annotation``, ``detection``, ``cell``, ``tile``, ``tmaCore`` or ``root``; unknown ones are annotations.
    id
        QuPath's UUID in lower case, or None.
    name
        Name, or None.
    classification
        Class, derived ones joined by ``": "``, or None.
    color
        Red, green, blue of the class, else of the object, or None.
    is_locked
        Whether QuPath shows it locked.
    measurements
        Name to value; NaN and infinities as QuPath wrote them.
    nucleus
        Geometry of a cell's nucleus, or None.
    z, t
        Plane.
    """

    index: int
    geometry: BaseGeometry
    object_type: str = "annotation"
    id: str | None = None
    name: str | None = None
    classification: str | None = None
    color: Color | None = None
    is_locked: bool = False
    measurements: Mapping[str, float] = field(default_factory=dict)
    nucleus: BaseGeometry | None = None
    z: int = 0
    t: int = 0

    @property
    def place(self) -> str:
        """What a message calls this feature, for example ``feature 3 (name "tumour")``."""
        return _place(self.index, self.name, self.id)


def read_features(path: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> list[Feature]:
    """Return every object in a GeoJSON file of QuPath, plain or gzip, children after their parent.

    A FeatureCollection, a list (nested too), one Feature and one bare geometry are all read.

    Parameters
    ----------
    path
        ``.geojson`` or ``.json``, gzip or not.
    limit_bytes
        Largest text to read, after unpacking.

    Raises
    ------
    UsageError
        The file is missing or cannot be opened.
    AnnotationError
        The file or the first faulty feature in it, named with what was expected and found.
    """
    path = Path(path)
    document = read_document(path, limit_bytes=limit_bytes)
    if not isinstance(document, dict | list):
        msg = f"expected a FeatureCollection or features in {path.name}, found {shown(document)}; export it from QuPath"
        raise AnnotationError(msg)
    features = []
    for index, raw in enumerate(_walk(document), start=1):
        try:
            features.append(_feature(index, raw))
        except FeatureFault as fault:
            msg = fault.at(f"{_raw_place(index, raw)} of {path.name}")
            raise AnnotationError(msg) from fault
    return features


def _walk(document: object) -> Iterator[object]:
    """Yield what should be features, depth first, on a stack of our own so that no nesting exhausts Python's."""
    stack: list[Iterator[object]] = [iter([document])]
    while stack:
        item = next(stack[-1], stack)
        if item is stack:
            stack.pop()
        elif isinstance(item, list):
            if item:  # millions of empty lists would take minutes
                stack.append(_used_up(item))
        elif isinstance(item, dict) and isinstance(item.get("features"), list):
            stack.append(_used_up(item["features"]))
        elif isinstance(item, dict) and is_geometry(item):
            yield {"type": "Feature", "geometry": item}
        else:
            yield item
            children = (item.get("childObjects") or item.get("children")) if isinstance(item, dict) else None
            stack.append(iter(children if isinstance(children, list) else []))


def _used_up(items: list[object]) -> Iterator[object]:
    """Yield the items and let go of each, so that features take the place of their JSON and do not stand beside it."""
    items.reverse()
    while items:
        yield items.pop()


def _feature(index: int, raw: object) -> Feature:
    """Check one feature; FeatureFault says what is wrong."""
    if not isinstance(raw, dict) or raw.get("type", "Feature") != "Feature":
        found = shown(raw.get("type")) if isinstance(raw, dict) else shown(raw)
        raise FeatureFault(expected="a Feature", found=found)
    properties = _mapping(raw.get("properties"), "properties as an object")
    classification, color = _classification(properties.get("classification"))
    geometry = raw.get("geometry")
    nucleus = raw.get("nucleusGeometry")
    plane = _mapping(geometry.get("plane"), "a plane as an object") if isinstance(geometry, dict) else {}
    return Feature(
        index=index,
        geometry=parse_geometry(geometry),
        object_type=_object_type(properties, raw.get("id")),
        id=_uuid(raw.get("id")),
        name=_text(properties.get("name")),
        classification=classification,
        color=color or parse_color(properties.get("color")),
        is_locked=properties.get("isLocked") is True,
        measurements=_measurements(properties.get("measurements")),
        nucleus=None if nucleus is None else parse_geometry(nucleus),
        z=_plane_index(plane.get("z", 0)),
        t=_plane_index(plane.get("t", 0)),
    )


def _place(index: int, name: str | None, identity: str | None) -> str:
    label = f'name "{shown_name(name)}"' if name else f"id {shown_name(identity)}" if identity else ""
    return f"feature {index} ({label})" if label else f"feature {index}"


def _raw_place(index: int, raw: object) -> str:
    """Name a feature that could not be read."""
    if not isinstance(raw, dict):
        return _place(index, None, None)
    properties = raw.get("properties")
    name = properties.get("name") if isinstance(properties, dict) else None
    identity = raw.get("id")
    return _place(index, name if isinstance(name, str) else None, identity if isinstance(identity, str) else None)


def _mapping(value: object, expected: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FeatureFault(expected=expected, found=shown(value))
    return value


def _text(value: object) -> str | None:
    """Return a name: what no file can hold goes (NUL) or becomes a question mark (lone surrogates); blank is None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise FeatureFault(expected="a name as text", found=shown(value))
    if len(value) > MOST_CHARACTERS:
        raise FeatureFault(expected=f"a name of at most {MOST_CHARACTERS:,} characters", found=f"one of {len(value):,}")
    return value.replace("\0", "").encode("utf-8", "replace").decode().strip() or None


def _uuid(value: object) -> str | None:
    """Return a UUID; QuPath replaces anything else, so it is no id to rely on."""
    return value.lower() if isinstance(value, str) and UUID.fullmatch(value) else None


def _plane_index(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise FeatureFault(expected="z and t of the plane as whole numbers from 0", found=shown(value))
    return value


def _object_type(properties: Mapping[str, Any], identity: object) -> str:
    """Return QuPath's object type, from whichever key its version used."""
    for key in ("objectType", "object_type", "type"):
        value = properties.get(key)
        if isinstance(value, str):
            return OBJECT_TYPES.get(value.casefold().replace("_", ""), "annotation")
    legacy = LEGACY_TYPE.fullmatch(identity) if isinstance(identity, str) else None
    return OBJECT_TYPES.get(legacy[1].casefold(), "annotation") if legacy else "annotation"


def _classification(value: object) -> tuple[str | None, Color | None]:
    """Return name and colour from text, ``{name}``, ``{names}``, with ``color`` or ``colorRGB``, or null."""
    if value is None or isinstance(value, str):
        return _text(value), None
    fields = _mapping(value, "a classification as text or an object")
    names = fields.get("names", fields.get("name"))
    if isinstance(names, list):
        names = ": ".join(part for part in map(_text, names) if part)
    return _text(names), parse_color(fields.get("color", fields.get("colorRGB")))


def _measurements(value: object) -> dict[str, float]:
    """Return name to value from an object or, before 0.4, a list of ``{name, value}``."""
    if isinstance(value, dict) and all(type(number) is float for number in value.values()):
        return value  # as nearly all are
    if isinstance(value, list):
        entries = [_mapping(entry, "a measurement as {name, value}") for entry in value]
        pairs = [(entry.get("name"), entry.get("value")) for entry in entries]
    else:
        pairs = list(_mapping(value, "measurements as an object or a list").items())
    result: dict[str, float] = {}
    for name, number in pairs:
        if not isinstance(name, str):
            raise FeatureFault(expected="a measurement with a name", found=shown(name))
        if number is None or isinstance(number, bool):
            continue  # as QuPath does
        try:
            result[name] = float(number)
        except (TypeError, ValueError, OverflowError):
            expected = f"a number for the measurement {name!r}"
            raise FeatureFault(expected=expected, found=shown(number)) from None
    return result
