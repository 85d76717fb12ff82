"""Start QuPath's JVM through paquo, quietly, with what QuPath itself would have loaded."""

from __future__ import annotations

from typing import Any

from stimage_qupath.errors import MissingPartError

NO_QUPATH = (
    "expected a QuPath installation, found none; install QuPath 0.5 to 0.7, or set PAQUO_QUPATH_DIR to its folder"
)


def find_qupath() -> str:
    """Return the folder of jars of the QuPath that would be used, without starting Java.

    Raises
    ------
    MissingPartError
        There is none, or paquo is missing.
    """
    try:
        from paquo import jpype_backend
        from paquo._config import settings, to_kwargs

        return str(jpype_backend.find_qupath(**to_kwargs(settings)).app_dir)
    except ImportError as error:
        msg = "expected paquo, found none; run: pip install paquo"
        raise MissingPartError(msg) from error
    except (ValueError, FileNotFoundError) as error:
        raise MissingPartError(NO_QUPATH) from error


def start_qupath() -> str:
    """Start the JVM, once a process, and return QuPath's version.

    Raises
    ------
    MissingPartError
        There is no QuPath.
    """
    find_qupath()
    import paquo.java  # the import starts the JVM
    import paquo.projects  # sets QuPath's log to DEBUG, so before it is set to warnings
    from jpype import JClass

    # QuPath prints colours with the digits of the locale, which in Arabic is no JSON.
    locale = JClass("java.util.Locale")
    locale.setDefault(locale.US)
    JClass("qupath.lib.gui.logging.LogManager").setWarn()
    _offer_openslide(JClass)
    return str(paquo.java.qupath_version)


def _offer_openslide(java_class: Any) -> None:
    """Load OpenSlide: QuPath 0.5 offers it for SVS and NDPI only once its window, or this, has loaded it."""
    try:
        loader = java_class("qupath.lib.images.servers.openslide.jna.OpenSlideLoader")
    except TypeError:  # QuPath 0.4 has another class, which needs no help
        return
    loader.tryToLoadQuietly()
