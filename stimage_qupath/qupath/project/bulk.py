"""Arrays to QuPath objects: by a Groovy class inside the JVM, or one call at a time where there is no Groovy."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final, Protocol

import numpy as np
from jpype import JArray, JClass, JDouble, JException, JFloat, JInt, JLong, JString
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.qupath.cell_arrays import CellArrays, RingArrays

SOURCE: Final = "bulk.groovy"


class Bulk(Protocol):
    """What both ways can do with a hierarchy."""

    kind: str

    def add(self, cells: CellArrays, parents: list[Any]) -> None:
        """Make the objects and attach each to its parent."""

    def remove_own(self, parents: list[Any]) -> int:
        """Remove the children of ``parents`` that this package made; return how many."""

    def update(self, hierarchy: Any, cells: CellArrays) -> int:
        """Replace our measurements of existing objects; return how many were found."""

    def ids(self, hierarchy: Any, *, ours: bool) -> NDArray[np.int64]:
        """Return (object, 2) int64, the halves of each UUID of our objects, or of all others."""


def choose_bulk() -> Bulk:
    """Return the Groovy way, or the slow one where Groovy is missing or does not compile the class."""
    source = files("stimage_qupath.qupath.project").joinpath(SOURCE).read_text(encoding="utf-8")
    try:
        loader = JClass("groovy.lang.GroovyClassLoader")()
        return GroovyBulk(loader.parseClass(source, SOURCE))
    except (TypeError, JException):  # TypeError: the class is not there
        return LoopBulk()


class GroovyBulk:
    """Hands whole arrays to a class compiled inside the JVM."""

    kind = "groovy"

    def __init__(self, compiled: Any) -> None:
        self._class = JClass(compiled)

    def add(self, cells: CellArrays, parents: list[Any]) -> None:
        """Make the objects and attach each to its parent."""
        made = self._class.create(
            JArray.of(cells.ids.ravel(), JLong),
            *_rings(cells.outlines),
            *((None, None, None) if cells.nuclei is None else _rings(cells.nuclei)),
            JArray(JString)(list(cells.measurement_names)),
            JArray.of(np.ascontiguousarray(cells.values).ravel(), JFloat),
            JArray.of(cells.class_of, JInt),
            path_classes(cells),
            *cells.plane,
        )
        self._class.attach(made, JArray.of(cells.parent_of, JInt), _objects(parents))

    def remove_own(self, parents: list[Any]) -> int:
        """Remove the children of ``parents`` that this package made; return how many."""
        return int(self._class.removeOwn(_objects(parents), names.OBJECT_VERSION))

    def update(self, hierarchy: Any, cells: CellArrays) -> int:
        """Replace our measurements of existing objects; return how many were found."""
        labels = JArray(JString)(list(cells.measurement_names))
        values = JArray.of(np.ascontiguousarray(cells.values).ravel(), JFloat)
        ids = JArray.of(cells.ids.ravel(), JLong)
        return int(self._class.updateMeasurements(hierarchy, ids, labels, values, names.PREFIX))

    def ids(self, hierarchy: Any, *, ours: bool) -> NDArray[np.int64]:
        """Return (object, 2) int64, the halves of each UUID of our objects, or of all others."""
        halves = np.array(self._class.ids(hierarchy, names.OBJECT_VERSION, ours), dtype=np.int64)
        return halves.reshape(-1, 2)


class LoopBulk:
    """Calls QuPath for each object: the same result, many times slower."""

    kind = "loop"

    def __init__(self) -> None:
        self._objects = JClass("qupath.lib.objects.PathObjects")
        self._rois = JClass("qupath.lib.roi.ROIs")
        self._tools = JClass("qupath.lib.roi.GeometryTools")
        self._lists = JClass("qupath.lib.measurements.MeasurementListFactory")
        self._float = JClass("qupath.lib.measurements.MeasurementList$MeasurementListType").FLOAT
        self._uuid = JClass("java.util.UUID")
        self._planes = JClass("qupath.lib.regions.ImagePlane")
        self._coordinate = JClass("org.locationtech.jts.geom.Coordinate")
        self._ring = JClass("org.locationtech.jts.geom.LinearRing")

    def add(self, cells: CellArrays, parents: list[Any]) -> None:
        """Make the objects and attach each to its parent."""
        classes = path_classes(cells)
        for i, (most, least) in enumerate(cells.ids.tolist()):
            path_class = None if cells.class_of[i] < 0 else classes[int(cells.class_of[i])]
            measured = self._measured(cells, i)
            plane = self._planes.getPlane(*cells.plane)
            outline = self._outline(cells.outlines, i, plane)
            if cells.nuclei is None:
                made = self._objects.createDetectionObject(outline, path_class, measured)
            else:
                made = self._objects.createCellObject(
                    outline, self._outline(cells.nuclei, i, plane), path_class, measured
                )
            made.setID(self._uuid(most, least))
            parents[int(cells.parent_of[i])].addChildObject(made)

    def _measured(self, cells: CellArrays, i: int) -> Any:
        measured = self._lists.createMeasurementList(len(cells.measurement_names), self._float)
        for name, value in zip(cells.measurement_names, cells.values[i].tolist(), strict=True):
            if value == value:  # not NaN
                measured.put(name, value)
        measured.close()
        return measured

    def _outline(self, rings: RingArrays, i: int, plane: Any) -> Any:
        first, last = rings.part_starts[i : i + 2].tolist()
        parts = [rings.xy[rings.ring_starts[r] : rings.ring_starts[r + 1]] for r in range(first, last)]
        if len(parts) == 1:
            x, y = (JArray.of(np.ascontiguousarray(parts[0][:, axis]), JDouble) for axis in (0, 1))
            return self._rois.createPolygonROI(x, y, plane)
        factory = self._tools.getDefaultFactory()
        closed = [[self._coordinate(*xy) for xy in [*part.tolist(), part[0].tolist()]] for part in parts]
        shell, *holes = (factory.createLinearRing(JArray(self._coordinate)(ring)) for ring in closed)
        return self._tools.geometryToROI(factory.createPolygon(shell, JArray(self._ring)(holes)), plane)

    def remove_own(self, parents: list[Any]) -> int:
        """Remove the children of ``parents`` that this package made; return how many."""
        count = 0
        for parent in parents:
            own = [child for child in parent.getChildObjectsAsArray() if _is_ours(child)]
            orphans = [orphan for child in own for orphan in child.getChildObjectsAsArray()]
            parent.removeChildObjects(_list(own))
            parent.addChildObjects(_list(orphans))
            count += len(own)
        return count

    def update(self, hierarchy: Any, cells: CellArrays) -> int:
        """Replace our measurements of existing objects; return how many were found."""
        known = {str(found.getID()): found for found in hierarchy.getDetectionObjects()}
        count = 0
        for i, (most, least) in enumerate(cells.ids.tolist()):
            found = known.get(str(self._uuid(most, least)))
            if found is None:
                continue
            measured = found.getMeasurementList()
            stale = [n for n in measured.getMeasurementNames() if str(n).startswith(names.PREFIX)]
            measured.removeMeasurements(JArray(JString)(stale))
            for name, value in zip(cells.measurement_names, cells.values[i].tolist(), strict=True):
                if name.startswith(names.PREFIX) and value == value:  # not NaN
                    measured.put(name, value)
            measured.close()
            count += 1
        return count

    def ids(self, hierarchy: Any, *, ours: bool) -> NDArray[np.int64]:
        """Return (object, 2) int64, the halves of each UUID of our objects, or of all others."""
        chosen = [
            o.getID() for o in hierarchy.getFlattenedObjectList(None) if _is_ours(o) == ours and not o.isRootObject()
        ]
        halves = [(i.getMostSignificantBits(), i.getLeastSignificantBits()) for i in chosen]
        return np.array(halves, dtype=np.int64).reshape(-1, 2)


def path_classes(cells: CellArrays) -> Any:
    """Return a Java array of the classes; one that the project knows already keeps the colour it has there."""
    path_class, tools = JClass("qupath.lib.objects.classes.PathClass"), JClass("qupath.lib.common.ColorTools")
    found = [
        path_class.fromString(name, JClass("java.lang.Integer")(tools.packRGB(*color))) for name, color in cells.classes
    ]
    return JArray(path_class)(found)


def _is_ours(path_object: Any) -> bool:
    return bool(path_object.isDetection() and path_object.getMeasurementList().containsKey(names.OBJECT_VERSION))


def _rings(rings: RingArrays) -> tuple[Any, Any, Any]:
    xy = JArray.of(np.ascontiguousarray(rings.xy).ravel(), JDouble)
    return xy, JArray.of(rings.ring_starts, JInt), JArray.of(rings.part_starts, JInt)


def _objects(found: list[Any]) -> Any:
    return JArray(JClass("qupath.lib.objects.PathObject"))(found)


def _list(found: list[Any]) -> Any:
    return JClass("java.util.ArrayList")(found)
