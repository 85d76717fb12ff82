"""The annotations of a project's images: through QuPath where there is one, else from ``data.qpdata`` itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

from stimage_qupath.geojson_dialect import read_features
from stimage_qupath.qupath.client import BridgeClient
from stimage_qupath.qupath.guards import check_whole
from stimage_qupath.qupath.qpdata import read_qpdata
from stimage_qupath.qupath.qpproj import Project, ProjectImage
from stimage_qupath.qupath.stored import StoredObject, from_feature

KINDS = ("annotation", "detection", "tile")


class ObjectSource(Protocol):
    """One way to read what a project stores of an image."""

    route: str

    def objects(self, image: ProjectImage, *, kinds: tuple[str, ...] = KINDS) -> tuple[StoredObject, ...]:
        """Return the objects of those kinds (``detection`` includes cells); none where nothing was saved yet.

        Raises
        ------
        AnnotationError
            The data file was cut short or cannot be read.
        UsageError
            QuPath is saving it at this moment.
        """


class JavaFreeSource:
    """Reads ``data.qpdata`` without Java."""

    route = "without Java"

    def objects(self, image: ProjectImage, *, kinds: tuple[str, ...] = KINDS) -> tuple[StoredObject, ...]:
        """Return the objects of those kinds; see :class:`ObjectSource`."""
        check_whole(image.data_path)
        if not image.data_path.is_file():
            return ()
        wanted = {*kinds, *(("cell", "tile") if "detection" in kinds else ())}
        return tuple(found for found in read_qpdata(image.data_path).objects if found.object_type in wanted)


class QuPathSource:
    """Has QuPath export them; ids of the objects they lie in are not part of that.

    Parameters
    ----------
    project
        Project of the images.
    client
        QuPath's process.
    """

    route = "QuPath"

    def __init__(self, project: Project, client: BridgeClient) -> None:
        self._project = project
        self._client = client

    def objects(self, image: ProjectImage, *, kinds: tuple[str, ...] = KINDS) -> tuple[StoredObject, ...]:
        """Return the objects of those kinds; see :class:`ObjectSource`."""
        check_whole(image.data_path)
        if not image.data_path.is_file():
            return ()
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "objects.geojson"
            project = str(self._project.path)
            self._client.ask("objects", project=project, image=image.id, output=str(output), kinds=list(kinds))
            return tuple(map(from_feature, read_features(output)))


def choose_source(project: Project, client: BridgeClient | None) -> ObjectSource:
    """Return the way through QuPath where ``client`` finds one, else the one without Java."""
    return QuPathSource(project, client) if client is not None and client.has_qupath() else JavaFreeSource()
