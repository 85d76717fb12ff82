"""One QuPath project: read its objects, replace our own, prove that nothing else changed."""

from __future__ import annotations

import hashlib
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jpype import JArray, JClass, JException
from numpy.typing import NDArray
from paquo.projects import QuPathProject

from stimage_qupath import names
from stimage_qupath.errors import AnnotationError, ImageError, OutputError, UsageError
from stimage_qupath.export.run_reader import read_run
from stimage_qupath.qupath import guards
from stimage_qupath.qupath.cell_arrays import CellArrays, iter_cells, run_parents
from stimage_qupath.qupath.project.bulk import Bulk, choose_bulk
from stimage_qupath.qupath.project.create import add_image
from stimage_qupath.qupath.qpproj import ProjectImage, file_uri, project_file, read_project
from stimage_qupath.qupath.relocate import find_image, plain_path

OBJECT_KINDS = ("annotation", "detection", "cell", "tile")


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did.

    Attributes
    ----------
    added, removed, updated
        Objects made, earlier ones of ours that they replace, and nuclei of the user that got new measurements.
    unplaced
        Regions that are no annotation of the image; their nuclei lie under the root.
    route
        ``groovy`` or ``loop``.
    sha256
        Of the data file now.
    backup
        Copy of the data file before, or None where there was none.
    seconds
        Of each step.
    """

    added: int
    removed: int
    updated: int
    unplaced: tuple[str, ...]
    route: str
    sha256: str | None
    backup: str | None
    seconds: Mapping[str, float]


class ProjectStore:
    """A project opened for reading, whose data files are written one image at a time.

    Parameters
    ----------
    path
        ``project.qpproj`` or its folder.
    path_maps
        Old and new beginnings of image paths.
    bulk
        How objects are made; None chooses.

    Raises
    ------
    UsageError
        There is no project that can be read.
    """

    def __init__(self, path: Path, *, path_maps: Mapping[str, str] | None = None, bulk: Bulk | None = None) -> None:
        self._file = project_file(path)  # a folder's name may hold a dot, which paquo takes for a suffix
        self._project = read_project(self._file)
        self._path_maps = path_maps or {}
        self._bulk = bulk
        self._paquo = QuPathProject(self._file, mode="r")
        self._entries = {str(entry.java_object.getID()): entry.java_object for entry in self._paquo.images}

    @property
    def bulk(self) -> Bulk:
        """How objects are made; the Groovy class is compiled at the first use."""
        self._bulk = self._bulk or choose_bulk()
        return self._bulk

    def classes(self) -> list[dict[str, Any]]:
        """Return name and colour of each class of the project."""
        tools = JClass("qupath.lib.common.ColorTools")
        found = [(c, c.getColor()) for c in self._paquo.java_object.getPathClasses() if c.toString() != "Unclassified"]
        return [
            {"name": str(c.toString()), "color": [int(part(rgb)) for part in (tools.red, tools.green, tools.blue)]}
            for c, rgb in found
        ]

    def images(self) -> list[dict[str, Any]]:
        """Return id, name, URI, and from an image that can be opened size and pixel size, as QuPath has them."""
        return [self._image_record(image) for image in self._project.images]

    def _image_record(self, image: ProjectImage) -> dict[str, Any]:
        entry = self._entry(image.id)
        record: dict[str, Any] = {
            "id": image.id,
            "name": str(entry.getImageName()),
            "uri": str(next(iter(entry.getURIs()))),
        }
        record |= {"width": None, "height": None, "pixel_um": None}
        try:
            self._reach(image)
            server = entry.getServerBuilder().build()
        except (UsageError, JException):  # listed all the same: a project outlives its images
            return record
        calibration = server.getPixelCalibration()
        if calibration.hasPixelSizeMicrons():
            record["pixel_um"] = [float(calibration.getPixelWidthMicrons()), float(calibration.getPixelHeightMicrons())]
        record |= {"width": int(server.getWidth()), "height": int(server.getHeight())}
        server.close()
        return record

    def export(self, image_id: str, output: Path, *, kinds: Iterable[str] = ("annotation",)) -> int:
        """Write objects of an image as GeoJSON (QuPath's own) and return how many there are.

        Raises
        ------
        AnnotationError
            The data file was cut short; QuPath itself would read it for ever.
        """
        image = self._image(image_id)
        guards.check_whole(image.data_path)
        hierarchy = self._entry(image_id).readHierarchy()
        found = self._objects(hierarchy, set(kinds))
        output.write_bytes(self._geojson(found))
        return len(found)

    def write_run(
        self,
        image_id: str,
        run_folder: Path,
        *,
        expected: str | None,
        progress: Callable[[int, int], None] | None = None,
        clear_dead_locks: bool = False,
    ) -> Written:
        """Put the nuclei of a run under the annotations of its regions, in place of our earlier ones.

        Parameters
        ----------
        image_id
            Entry of the project.
        run_folder
            Finished run.
        expected
            SHA-256 of the data file when the run began, None where there was none.
        progress
            Called with nuclei done and their number.
        clear_dead_locks
            Take over a lock of the project without a sign of life.

        Raises
        ------
        UsageError, AnnotationError
            The project must not be written; nothing was.
        ImageError
            QuPath cannot open the image.
        OutputError
            What was written could not be proved; the data file is as before.
        """
        run = read_run(run_folder)

        def counted() -> Iterator[CellArrays]:
            done = 0
            for block in iter_cells(run):
                yield block
                done += len(block)
                if progress is not None:
                    progress(done, len(run))

        return self.write_cells(
            image_id, counted(), run_parents(run), expected=expected, clear_dead_locks=clear_dead_locks
        )

    def write_cells(
        self,
        image_id: str,
        blocks: Iterable[CellArrays],
        region_ids: tuple[str, ...],
        *,
        expected: str | None,
        clear_dead_locks: bool = False,
    ) -> Written:
        """As :meth:`write_run`, from arrays whose ``parent_of`` counts ``region_ids``."""
        image = self._image(image_id)
        with guards.project_lock(self._file.parent, clear_dead=clear_dead_locks):
            guards.check_whole(image.data_path)
            guards.check_unchanged(image.data_path, expected)
            self._reach(image)
            watch = _Laps()
            with self._opened(image_id) as image_data:
                watch.lap("open")
                guards.check_count(image.data_path, 1 + int(image_data.getHierarchy().nObjects()))
                change = self._change(image_data.getHierarchy(), blocks, region_ids)
                watch.lap("objects")
                backup = guards.back_up(image.data_path)
                guards.check_unchanged(image.data_path, expected)
                self._save(image, image_data, backup)
                watch.lap("save")
            self._prove(image, backup, change)
            watch.lap("prove")
        return Written(
            added=change.added,
            removed=change.removed,
            updated=change.updated,
            unplaced=change.unplaced,
            route=self.bulk.kind,
            sha256=guards.fingerprint(image.data_path),
            backup=None if backup is None else str(backup),
            seconds=watch.seconds,
        )

    def remove_own(self, image_id: str, *, expected: str | None) -> Written:
        """Remove every object this package made from an image; errors as :meth:`write_run`."""
        image = self._image(image_id)
        guards.check_whole(image.data_path)
        hierarchy = self._entry(image_id).readHierarchy()
        everywhere = tuple(str(found.getID()) for found in hierarchy.getAnnotationObjects())
        return self.write_cells(image_id, [], (*everywhere, ""), expected=expected)

    def add_images(self, images: Iterable[Path]) -> list[str]:
        """Add image files to the project and return their entry ids.

        Raises
        ------
        ImageError
            QuPath cannot open one.
        UsageError
            One is missing, or in the project already.
        """
        before = set(self._entries)
        with guards.project_lock(self._file.parent):
            writable = QuPathProject(self._file, mode="r+")
            there = {plain_path(image.uri) for image in self._project.images}
            for path in (Path(image).resolve() for image in images):
                if not path.is_file() or path.as_posix() in there:
                    found = "it there already" if path.is_file() else "nothing"
                    msg = f"expected an image that is not in the project yet at {path}, found {found}; check the path"
                    raise UsageError(msg)
                there.add(path.as_posix())
                add_image(writable.java_object, path)
            writable.save(images=False)
        self._project, self._paquo = read_project(self._file), QuPathProject(self._file, mode="r")
        self._entries = {str(entry.java_object.getID()): entry.java_object for entry in self._paquo.images}
        return [image.id for image in self._project.images if image.id not in before]

    def _image(self, image_id: str) -> ProjectImage:
        found = next((image for image in self._project.images if image.id == image_id), None)
        if found is None:
            msg = f"expected an image of the project, found id {image_id}; the project has {len(self._project.images)}"
            raise UsageError(msg)
        return found

    def _entry(self, image_id: str) -> Any:
        return self._entries[self._image(image_id).id]

    def _reach(self, image: ProjectImage) -> None:
        """Check that the image is there, and tell this process where; the project file keeps what it says."""
        found = find_image(self._project, image, self._path_maps)
        if str(found) != plain_path(image.uri):
            uri = JClass("java.net.URI")
            entry = self._entry(image.id)
            entry.updateURIs({old: uri(file_uri(found)) for old in entry.getURIs()})
        for stored in self._entry(image.id).getURIs():
            path = Path(urllib.parse.unquote(str(stored.getPath())))
            if not path.exists():
                msg = f"expected the image {image.name} here, found nothing at {stored}; pass --path-map OLD=NEW"
                raise UsageError(msg)

    @contextmanager
    def _opened(self, image_id: str) -> Iterator[Any]:
        """Yield the image's data and let go of the file afterwards."""
        image, entry = self._image(image_id), self._entry(image_id)
        try:
            server = entry.getServerBuilder().build()  # one that QuPath cannot open must fail before the write
        except JException as error:
            msg = f"expected an image QuPath opens, found {image.name}: {error}; nothing was written"
            raise ImageError(msg) from error
        server.close()
        try:
            image_data = entry.readImageData()
            server = image_data.getServer()
        except JException as error:
            msg = f"expected data that QuPath reads in {image.data_path}, found: {error}; restore it from a backup"
            raise AnnotationError(msg) from error
        try:
            yield image_data
        finally:
            server.close()

    def _change(self, hierarchy: Any, blocks: Iterable[CellArrays], region_ids: tuple[str, ...]) -> _Change:
        by_id = {str(found.getID()): found for found in hierarchy.getAnnotationObjects()}
        root = hierarchy.getRootObject()
        parents = [by_id.get(region_id, root) for region_id in region_ids]
        unplaced = tuple(i for i in region_ids if i and i not in by_id)
        annotations = _digest(self._geojson(self._objects(hierarchy, {"annotation"})))
        others = self.bulk.ids(hierarchy, ours=False)
        removed = self.bulk.remove_own([*dict.fromkeys(parents)])
        kept = len(self.bulk.ids(hierarchy, ours=True))
        added = updated = 0
        for block in blocks:
            if names.OBJECT_VERSION in block.measurement_names:
                self.bulk.add(block, parents)
                added, kept = added + len(block), kept + len(block)
                continue
            users, others = self._put_users(hierarchy, block, parents, others)
            added, updated, kept = added + users.added, updated + users.updated, kept - users.ours
        hierarchy.fireHierarchyChangedEvent(root)
        ours = self.bulk.ids(hierarchy, ours=True)
        if len(ours) != kept:
            msg = f"expected {kept} objects of ours in memory, found {len(ours)}; nothing was written"
            raise OutputError(msg)
        return _Change(added, removed, updated, unplaced, annotations, _sorted(ours), _sorted(others))

    def _put_users(
        self, hierarchy: Any, block: CellArrays, parents: list[Any], others: NDArray[np.int64]
    ) -> tuple[_Users, NDArray[np.int64]]:
        """Update the user's nuclei that the image has and add those it lacks.

        Return what was done, and the ids of all objects that are not ours after it.
        """
        ours = _is_among(block.ids, self.bulk.ids(hierarchy, ours=True))  # given by the user, they lose our mark
        known = ours | _is_among(block.ids, others)
        new = block.take(np.flatnonzero(~known))
        updated = self.bulk.update(hierarchy, block.take(np.flatnonzero(known)))
        self.bulk.add(new, parents)
        done = _Users(added=len(new), updated=updated, ours=int(ours.sum()))
        return done, np.concatenate([others, new.ids, block.ids[ours]])

    def _save(self, image: ProjectImage, image_data: Any, backup: Path | None) -> None:
        try:
            self._entry(image.id).saveImageData(image_data)
        except JException as error:
            guards.restore(image.data_path, backup)
            msg = f"expected QuPath to save {image.data_path}, found: {error}; the file is as before"
            raise OutputError(msg) from error

    def _prove(self, image: ProjectImage, backup: Path | None, change: _Change) -> None:
        """Read the file again; put the copy back where it holds anything but what was meant."""
        try:
            guards.check_whole(image.data_path)
            again = self._entry(image.id).readHierarchy()
            same = {
                "our objects": np.array_equal(_sorted(self.bulk.ids(again, ours=True)), change.ours),
                "other objects": np.array_equal(_sorted(self.bulk.ids(again, ours=False)), change.others),
                "annotations": _digest(self._geojson(self._objects(again, {"annotation"}))) == change.annotations,
            }
            wrong = [what for what, is_same in same.items() if not is_same]
        except (UsageError, JException) as error:
            wrong = [str(error)]
        if wrong:
            guards.restore(image.data_path, backup)
            msg = f"expected {image.data_path} to hold what was written, found a difference in {', '.join(wrong)}; "
            msg += "the file is as before"
            raise OutputError(msg)

    def _objects(self, hierarchy: Any, kinds: set[str]) -> list[Any]:
        tests = {"annotation": "isAnnotation", "detection": "isDetection", "cell": "isCell", "tile": "isTile"}
        wanted = [tests[kind] for kind in kinds]
        return [o for o in hierarchy.getFlattenedObjectList(None) if any(getattr(o, test)() for test in wanted)]

    def _geojson(self, found: list[Any]) -> bytes:
        io = JClass("qupath.lib.io.PathIO")
        options = JClass("qupath.lib.io.PathIO$GeoJsonExportOptions")
        stream = JClass("java.io.ByteArrayOutputStream")()
        chosen = JArray(options)([options.FEATURE_COLLECTION])
        io.exportObjectsAsGeoJSON(stream, JClass("java.util.ArrayList")(found), chosen)
        return bytes(stream.toByteArray())


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """What a write means to leave behind."""

    added: int
    removed: int
    updated: int
    unplaced: tuple[str, ...]
    annotations: str
    ours: NDArray[np.int64]
    others: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Users:
    """What became of nuclei of the user: made, updated, and how many of the latter were ours before."""

    added: int
    updated: int
    ours: int


class _Laps:
    """Seconds of each step."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Book the time since the last lap under ``name``."""
        now = time.perf_counter()
        self.seconds[name], self._last = round(now - self._last, 3), now


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_among(ids: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which ids (halves of UUIDs) are known, (id,) bool."""
    pairs = set(map(tuple, known.tolist()))
    return np.array([tuple(pair) in pairs for pair in ids.tolist()], dtype=bool)


def _sorted(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    return ids[np.lexsort(ids.T)]
