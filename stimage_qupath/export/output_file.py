"""A file that keeps its first fault, so that the library writing into it can still let go."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


class OutputFile(io.RawIOBase):
    """A new file for gzip, Arrow and HDF5 alike; a full disk shows in :meth:`check`, not in the calls of the library.

    HDF5 cannot close a file that it cannot flush: it retries for ever after and takes the process down at its end.
    So once something fails, further bytes are dropped, the library finishes as if all was well, and whoever writes
    calls :meth:`check` after each step.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w+b")
        self._fault: OSError | None = None
        self._position = 0

    def check(self) -> None:
        """Raise the first OSError, if there was one."""
        if self._fault is not None:
            raise self._fault

    def write(self, data: Any, /) -> int:
        """Write all of ``data``, or drop it after a fault."""
        size = memoryview(data).nbytes
        self._attempt(lambda: self._file.write(data))
        self._position += size
        return size

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer``; with zeros after a fault."""
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        self._attempt(lambda: self._file.readinto(view))
        self._position += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move and return the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, 0)
        self._position = base + offset
        moved = self._attempt(lambda: self._file.seek(offset, whence))
        if moved is not None:
            self._position = moved
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size."""
        size = self._position if size is None else size
        self._attempt(lambda: self._file.truncate(size))
        return size

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        if not self._file.closed:
            self._attempt(self._file.flush)

    def close(self) -> None:
        """Close; a fault in it shows in :meth:`check`."""
        if not self.closed:
            self.flush()
            with suppress(OSError):  # seen by flush before
                self._file.close()
        super().close()

    def readable(self) -> bool:
        """Return True; HDF5 reads back what it wrote."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def _attempt(self, action: Callable[[], Any]) -> Any:
        """Return what ``action`` does, or None after a fault."""
        if self._fault is not None:
            return None
        try:
            return action()
        except OSError as error:
            self._fault = error
            return None
