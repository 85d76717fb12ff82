"""``data.qpdata`` of QuPath 0.2 to 0.7, read without Java; never written.

The file is a Java serialization stream: ``Data file version N``, a JSON text with QuPath's version and the image's
server, then the hierarchy among other objects, and the text ``EOF``. QuPath's objects write name, colour, metadata
(which hold the id), measurements, children, lock, class, outline and probability, in that order.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from stimage_qupath.errors import AnnotationError, UsageError
from stimage_qupath.geojson_dialect import Color
from stimage_qupath.qupath.java_stream import JavaObject, JavaStream, JavaStreamError
from stimage_qupath.qupath.qpdata_rois import roi_geometry
from stimage_qupath.qupath.stored import StoredObject

END: Final = b"\x74\x00\x03EOF"
"""Last bytes of a whole file: a string of three letters."""
OBJECT_TYPES: Final = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
}
ROOT: Final = "PathRootObject"
ID_KEY: Final = "Object ID"


@dataclass(frozen=True, slots=True)
class QuPathData:
    """What a ``data.qpdata`` holds for us.

    Attributes
    ----------
    objects
        Every object, parents before their children.
    file_version
        ``Data file version``.
    qupath_version
        QuPath that wrote it; None before 0.3.
    """

    objects: tuple[StoredObject, ...]
    file_version: int
    qupath_version: str | None


def is_complete(path: Path) -> bool:
    """Return whether the file ends as QuPath ends it; one that was cut short does not."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(END)))
        return file.read() == END


def read_qpdata(path: Path) -> QuPathData:
    """Return the objects in a ``data.qpdata``.

    Raises
    ------
    UsageError
        There is no such file, or it cannot be opened.
    AnnotationError
        It is cut short, or no data file of QuPath.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"expected a data file of QuPath at {path}, found: {error.strerror or error}; check the path"
        raise UsageError(msg) from error
    if not data.endswith(END):
        msg = (
            f"expected a whole data file, found {path} cut short or damaged; restore it from a backup, or open the "
            "image in QuPath and save it again"
        )
        raise AnnotationError(msg)
    try:
        return _interpret(list(JavaStream(data)))
    except (JavaStreamError, KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error) as error:
        msg = (
            f"expected a data file of QuPath 0.2 to 0.7, found other content in {path}: {error}; export GeoJSON instead"
        )
        raise AnnotationError(msg) from error


def _interpret(items: list[Any]) -> QuPathData:
    head = items[0][2:].decode()
    if not head.startswith("Data file version "):
        msg = f"expected 'Data file version', found {head[:40]!r}"
        raise JavaStreamError(msg)
    server = items[1] if isinstance(items[1], str) and items[1].startswith("{") else "{}"
    hierarchy = next(i for i in items if isinstance(i, JavaObject) and i.class_name.endswith("PathObjectHierarchy"))
    objects = tuple(_walk(hierarchy.fields["rootObject"]))
    return QuPathData(objects, int(head.rsplit(" ", 1)[1].split(".")[0]), json.loads(server).get("qupathVersion"))


def _walk(root: JavaObject) -> Iterator[StoredObject]:
    """Yield every object below ``root``, parents first, on a stack of our own."""
    stack: list[tuple[JavaObject, str | None]] = [(root, None)]
    while stack:
        java_object, parent_id = stack.pop()
        kind = java_object.class_name.rsplit(".", 1)[-1]
        parts = _Parts(java_object.contents)
        if kind == ROOT:
            identity = None
        else:
            found = parts.stored(OBJECT_TYPES.get(kind, "annotation"), parent_id)
            identity = found.id or parent_id
            yield found
        stack.extend((child, identity) for child in reversed(parts.children))


class _Parts:
    """The contents of one object, told apart by what they are, since versions left parts out or added some."""

    def __init__(self, contents: list[Any]) -> None:
        self.children: list[JavaObject] = []
        self.name = contents[0] if isinstance(contents[0], str) else None
        self.color = contents[1] if isinstance(contents[1], JavaObject) else None
        self.metadata: Mapping[str, str] = {}
        self.measurements: Mapping[str, float] = {}
        self.is_locked = False
        self.path_class: JavaObject | None = None
        self.rois: list[JavaObject | None] = []
        for item in contents[2:]:
            if isinstance(item, JavaObject):
                self._sort(item, item.class_name.rsplit(".", 1)[-1])

    def _sort(self, item: JavaObject, kind: str) -> None:
        if kind in OBJECT_TYPES:
            self.children.append(item)
        elif kind == "MetadataMap":
            self.metadata = dict(zip(*(part for part in item.contents if isinstance(part, list)), strict=True))
        elif "MeasurementList" in kind:
            self.measurements = _measurements(item)
        elif kind == "Boolean":
            self.is_locked = bool(item.fields["value"])
        elif kind == "PathClass":
            self.path_class = item
        elif "ROI" in kind:
            self.rois.append(item)

    def stored(self, object_type: str, parent_id: str | None) -> StoredObject:
        """Return the object."""
        outline = roi_geometry(self.rois[0] if self.rois else None)
        nucleus = roi_geometry(self.rois[1]) if len(self.rois) > 1 else None
        classification, class_color = _classification(self.path_class)
        own_color = None if self.color is None else _rgb(self.color.fields["value"])
        return StoredObject(
            geometry=outline.geometry,
            object_type=object_type,
            id=self.metadata.get(ID_KEY),
            parent_id=parent_id,
            name=self.name,
            classification=classification,
            color=class_color or own_color,
            is_locked=self.is_locked,
            measurements=self.measurements,
            nucleus=None if nucleus is None else nucleus.geometry,
            z=outline.z,
            t=outline.t,
        )


def _rgb(packed: int) -> Color:
    return (packed >> 16) & 255, (packed >> 8) & 255, packed & 255


def _classification(path_class: JavaObject | None) -> tuple[str | None, Color | None]:
    """Return the name, parents first, and the colour of a class."""
    parts: list[str] = []
    packed = None if path_class is None else path_class.fields.get("colorRGB")
    while path_class is not None:
        if path_class.fields["name"] is not None:
            parts.append(path_class.fields["name"])
        path_class = path_class.fields.get("parentClass")
    color = _rgb(packed.fields["value"]) if isinstance(packed, JavaObject) else None
    return (": ".join(reversed(parts)) or None), color


def _measurements(found: JavaObject) -> dict[str, float]:
    """Return names and values of either kind of list: arrays, or one object a measurement."""
    if "list" in found.fields:
        pairs = [item.fields for item in _elements(found.fields["list"])]
        return {fields["name"]: float(fields["value"]) for fields in pairs}
    labels = _elements(found.fields["names"])
    values = found.fields["values"]
    return dict(zip(labels, np.asarray(values[: len(labels)], dtype=np.float64).tolist(), strict=True))


def _elements(found: JavaObject) -> list[Any]:
    """Return the elements of a Java list: ArrayList, an unmodifiable view of one, or an immutable list."""
    while isinstance(found.fields.get("list"), JavaObject):  # Collections.unmodifiableList
        found = found.fields["list"]
    return [item for item in found.contents if not isinstance(item, bytes)]
