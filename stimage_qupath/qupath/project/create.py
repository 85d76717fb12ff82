"""Make an empty project that QuPath itself writes."""

from __future__ import annotations

from pathlib import Path

from paquo.projects import QuPathProject

from stimage_qupath.errors import OutputExistsError
from stimage_qupath.qupath.qpproj import PROJECT_FILE


def create_project(folder: Path) -> Path:
    """Return the ``project.qpproj`` of a new project in ``folder``.

    Raises
    ------
    OutputExistsError
        The folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"expected a new or empty folder for the project, found something at {folder}; choose another"
        raise OutputExistsError(msg)
    file = folder / PROJECT_FILE  # a folder's name may hold a dot, which paquo takes for a suffix
    QuPathProject(file, mode="x").save()
    return file
