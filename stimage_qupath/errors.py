"""Every error the package raises on purpose, and the exit code it ends a command with.

::

    StimageError                      8   a fault of ours
    ├── UsageError                    2   something the caller passed cannot be used
    │   ├── AnnotationError               the GeoJSON or the regions in it
    │   ├── UnknownGeneError              a gene the model's panel lacks
    │   ├── UnknownModelError             no model of that name or at that path
    │   └── OutputExistsError             the output is there already
    ├── MissingPartError              3   a package, weights or QuPath is missing
    ├── ImageError                    4   the image exists but cannot be read
    ├── CalibrationError              5   no usable pixel size
    ├── DeviceMemoryError             6   out of memory after every smaller try
    ├── CancelledError                7   the user stopped it
    ├── OutputError                   9   the disk is full or not writable
    └── PartialFailureError          10   some of several images failed

A message is one sentence that says what was expected, what was found and the way out.
"""

from __future__ import annotations

from typing import ClassVar


class StimageError(Exception):
    """Root of the tree; raised itself only for faults of the package."""

    exit_code: ClassVar[int] = 8


class UsageError(StimageError):
    """An argument, a file or a table that the caller passed cannot be used."""

    exit_code = 2


class AnnotationError(UsageError):
    """A GeoJSON file, one of its features, or the selection of regions."""


class UnknownGeneError(UsageError):
    """A gene was asked for that the model's panel does not hold."""


class UnknownModelError(UsageError):
    """There is no model of that name, or the folder is not a model."""


class OutputExistsError(UsageError):
    """The output is there already and was not asked to be replaced."""


class MissingPartError(StimageError):
    """A package, weights, a gated model or QuPath is missing on this machine."""

    exit_code = 3


class ImageError(StimageError):
    """The image exists but cannot be opened or decoded."""

    exit_code = 4


class CalibrationError(StimageError):
    """The image has no pixel size, or one that no microscope has."""

    exit_code = 5


class DeviceMemoryError(StimageError):
    """Memory ran out, also after smaller batches and on the CPU."""

    exit_code = 6


class CancelledError(StimageError):
    """The user stopped the run."""

    exit_code = 7


class OutputError(StimageError):
    """The disk is full, or the output cannot be written."""

    exit_code = 9


class PartialFailureError(StimageError):
    """Some of several images failed; the table is in ``run.json``."""

    exit_code = 10
