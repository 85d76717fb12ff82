"""Make an empty project that QuPath itself writes, and add images to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jpype import JClass, JException
from paquo.projects import QuPathProject

from stimage_qupath.errors import ImageError, OutputExistsError
from stimage_qupath.qupath.qpproj import PROJECT_FILE, file_uri

THUMBNAIL_PX: Final = 64 * 2**20
"""Of the coarsest level, from which a thumbnail takes seconds; QuPath makes a missing one itself."""


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


def add_image(project: Any, path: Path) -> None:
    """Add each image of a file to a project, colour ones as H&E, so that QuPath need not ask.

    Not with paquo's own ``add_image``: its thumbnail reads the whole of a large flat image.

    Parameters
    ----------
    project
        QuPath's project, a Java object.
    path
        Image file, absolute.

    Raises
    ------
    ImageError
        QuPath cannot open it.
    """
    kinds = JClass("qupath.lib.images.ImageData$ImageType")
    thumbnails = JClass("qupath.lib.gui.commands.ProjectImportImagesCommand")
    try:
        for builder in _builders(path):
            server = builder.build()
            entry = project.addImage(builder)
            entry.setImageName(JClass("qupath.lib.images.servers.ServerTools").getDisplayableImageName(server))
            if _coarsest_px(server) <= THUMBNAIL_PX:
                entry.setThumbnail(thumbnails.getThumbnailRGB(server, None))
            if server.isRGB():
                image_data = entry.readImageData()
                image_data.setImageType(kinds.BRIGHTFIELD_H_E)
                entry.saveImageData(image_data)
                image_data.getServer().close()
            server.close()
    except JException as error:
        msg = f"expected an image QuPath opens, found {path}: {error}; convert it to OME-TIFF"
        raise ImageError(msg) from error


def _builders(path: Path) -> list[Any]:
    provider = JClass("qupath.lib.images.servers.ImageServerProvider")
    picture = JClass("java.awt.image.BufferedImage")
    support = provider.getPreferredUriImageSupport(picture, file_uri(path))
    builders = list(support.getBuilders()) if support is not None else []
    if not builders:
        msg = f"expected an image QuPath opens, found {path} of a kind it has no reader for; convert it to OME-TIFF"
        raise ImageError(msg)
    return builders


def _coarsest_px(server: Any) -> int:
    level = server.getMetadata().getLevel(server.nResolutions() - 1)
    return int(level.getWidth()) * int(level.getHeight())
