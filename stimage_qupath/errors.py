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

import errno
from typing import ClassVar, Final

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""A disk, a quota or a file system's largest file."""
OUT_OF_MEMORY: Final = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "failed to allocate",
    "failed to map segment",  # the loader, of a library that finds no room
    "bad_alloc",
)
"""How torch's devices and C++ say it; only CUDA has an error of its own."""


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


def is_memory_fault(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, whichever library it comes from."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | ImportError | OSError) and any(words in said for words in OUT_OF_MEMORY)


def of_the_machine(error: Exception) -> StimageError | None:
    """Return what an error that no flow foresaw says of the machine, a full disk or memory; None where it is a fault.

    Reading meets neither a full nor a read-only disk, so that such an OSError is of an output wherever it comes from.
    """
    if is_memory_fault(error):
        return DeviceMemoryError("memory ran out; select a smaller region, or a smaller batch size, or close programs")
    if isinstance(error, OSError) and error.errno in FULL | {errno.EROFS}:
        path = f" {error.filename}" if error.filename else " the output"
        advice = "free some space" if error.errno in FULL else "check that you may write there"
        return OutputError(f"expected to write{path}, found: {error.strerror}; {advice} or choose another output")
    return None
